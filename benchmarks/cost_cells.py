"""What `benchmarks.cost` measures, cell by cell: each in a process of its own, so that peaks of memory are its own.

python -m benchmarks.cost_cells CELL FILE
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.latency import load_denoiser
from benchmarks.overhead import measure_overhead
from benchmarks.scale import SIZES, build, measure_scale
from passes.errors import SlimDiffError
from slimdiff_fx.denoisers.families import capture_denoiser

# Quick cells show that all works; their figures mean little.
QUICK_CONFIG: Mapping[str, Any] = {
    "sample_size": 8,
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def _emoji(**settings: Any) -> dict[str, Any]:
    torch.set_num_threads(1)
    denoiser, tokens = load_denoiser("emoji")
    return measure_overhead(capture_denoiser(denoiser, batch=16, tokens=tokens), **settings)


def _sd15() -> dict[str, Any]:
    torch.set_num_threads(1)
    size = SIZES["sd15"]
    program = capture_denoiser(build(size.config, size.dtype, 0), batch=2)
    return measure_overhead(program, watched=("light", "moments"), repeats=3, warmup=0, min_seconds=0)


def _scale(config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    # Idle threads wait actively: on a machine with other work they would count as work of ours.
    torch.set_num_threads(1)
    return measure_scale(config, dtype)


def _size(name: str) -> Callable[[], dict[str, Any]]:
    return lambda: _scale(SIZES[name].config, SIZES[name].dtype)


def _quick_size(width: int) -> Callable[[], dict[str, Any]]:
    config = {**QUICK_CONFIG, "block_out_channels": (width, 2 * width)}
    return lambda: _scale(config, torch.float32)


Cells = Mapping[str, Callable[[], dict[str, Any]]]
OVERHEAD: Cells = {"overhead/emoji": lambda: _emoji(min_seconds=20), "overhead/sd15": _sd15}
SCALING: Cells = {f"scaling/{name}": _size(name) for name in SIZES}
QUICK: Cells = {
    "overhead/emoji-quick": lambda: _emoji(repeats=3, warmup=1, min_seconds=0),
    **{f"scaling/quick-{width}": _quick_size(width) for width in (8, 16, 32)},
}
CELLS: Cells = {**OVERHEAD, **SCALING, **QUICK}


def main() -> None:
    """Measure one cell and write it as JSON."""
    warnings.simplefilter("ignore")
    name, file = sys.argv[1:]
    try:
        result = CELLS[name]()
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    Path(file).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
