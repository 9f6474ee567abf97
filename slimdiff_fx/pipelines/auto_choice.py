"""What `auto` stands for: the device that is there, and the precision that the checkpoint is stored in."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open

from passes.errors import UsageError
from slimdiff_fx.names import AUTO

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float32"}


def chosen_device(device: str) -> str:
    """Give the device to run on: a GPU of CUDA's kind where torch finds one, else the CPU.

    Apple's GPUs have no float64, in which statistics add up; who names them gets them.

    Args:
        device: as torch names it, or "auto".
    """
    if device != AUTO:
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def stored_dtype(weights: Path, variant: str | None) -> str | None:
    """Give the precision that most of a component's weights are stored in.

    Args:
        weights: the component's folder.
        variant: of the files to load; plain files where it has none.

    Returns:
        "float32", "float16" or "bfloat16"; None if there are no safetensors.

    Raises:
        UsageError: they are stored in something else.
    """
    files = sorted(weights.glob("*.safetensors"))
    of_variant = [file for file in files if variant is not None and f".{variant}" in file.name]
    plain = [file for file in files if "." not in file.name.removesuffix(".safetensors")]
    counts: Counter[str] = Counter()
    for file in of_variant or plain or files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                part = opened.get_slice(name)
                counts[part.get_dtype()] += prod(part.get_shape())
    if not counts:
        return None
    most = counts.most_common(1)[0][0]
    if most not in _DTYPES:
        raise UsageError(f"{weights}: most weights are stored as {most}; say what to load them as, by `dtype`")
    return _DTYPES[most]


def chosen_dtype(stored: str | None, device: str) -> str:
    """Give the precision to load and run in: the stored one, but for float16 on a CPU.

    There it is loaded as float32: the same numbers, in kernels that are faster and round less.
    """
    if stored is None or (stored == "float16" and torch.device(device).type == "cpu"):
        return "float32"
    return stored
