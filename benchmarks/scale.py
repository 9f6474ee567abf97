"""Do real sizes fit? The published UNet configurations with random weights: sites, time and peak memory.

python -m benchmarks.scale sd15     inspect, capture, rewrite, validate, lower in float32
python -m benchmarks.scale sdxl     inspect and planning in bfloat16
"""

from __future__ import annotations

import collections
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, Watch, machine, resident, write_result
from benchmarks.uniform_plan import uniform_plan
from passes.allocate import KeepParams, allocate
from passes.costs import program_macs, program_params, site_macs, site_params
from passes.errors import SlimDiffError, UsageError
from passes.lower import lower
from passes.program import Program
from passes.rewrite import rewrite
from passes.site import Site
from passes.sites import find_sites, find_unsupported
from passes.validate import validate
from slimdiff_fx.denoisers import capture_denoiser

T = TypeVar("T")

_COMMON: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {
        **_COMMON,
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sdxl": {
        **_COMMON,
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
DTYPES = {"sd15": torch.float32, "sdxl": torch.bfloat16}


def measure_scale(
    config: dict[str, Any], dtype: torch.dtype, *, whole: bool, keep: float = 0.7, seed: int = 0
) -> dict[str, Any]:
    """Take a UNet of this configuration through the compiler and watch time and memory.

    Args:
        config: of the UNet2DConditionModel; its weights are random.
        dtype: of the weights.
        whole: also rewrite, validate and lower; otherwise stop at the plan.
        keep: share of the units that stays in the rewrite, and of the parameters in the budget that is planned.
        seed: of weights, scores and plan.

    Returns:
        the result as JSON values; memory is the peak of resident bytes over those of the loaded model.

    Raises:
        SlimDiffError: a stage failed.
    """
    record = machine()
    model, construction = _stage(lambda: build(config, dtype, seed))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    gc.collect()
    loaded = resident()
    stages: dict[str, Watch] = {}

    def run(name: str, call: Callable[[], T]) -> T:
        result, stages[name] = _stage(call)
        return result

    program = run("capture", lambda: capture_denoiser(model))
    sites, table = run("inspect", lambda: _inspect(program))
    result: dict[str, Any] = {}
    if whole:
        plan = uniform_plan(program, sites, keep, seed)
        slim = run("rewrite", lambda: rewrite(program, plan))
        report = run("validate", lambda: validate(program, plan, slim))
        run("lower", lambda: lower(slim))
        result = {
            "relative_error": report.relative_error,
            "slim_params": program_params(slim),
            "slim_macs": program_macs(slim),
        }
        counted = ["capture", "rewrite", "validate", "lower"]
    else:
        plan = run("plan", lambda: _plan(program, sites, keep, seed))
        result = {"planned_tau": plan.policy.get("tau")}
        counted = list(stages)
    peak = max(watch.peak for watch in stages.values())
    kinds = collections.Counter(site.kind for site in sites)
    return {
        "benchmark": "scale",
        "dtype": str(dtype).removeprefix("torch."),
        "machine": record,
        "params": program_params(program),
        "macs": program_macs(program),
        "sites": dict(kinds),
        "unsupported": len(find_unsupported(program)),
        "site_params": sum(row["params"] for row in table),
        **result,
        "weights_gb": round(weights / 1e9, 3),
        "loaded_gb": round(loaded / 1e9, 3),
        "construction_seconds": round(construction.seconds, 1),
        "stages": {
            name: {
                "seconds": round(watch.seconds, 2),
                "cpu_seconds": round(watch.cpu_seconds, 2),
                "peak_over_loaded_gb": round((watch.peak - loaded) / 1e9, 3),
            }
            for name, watch in stages.items()
        },
        "seconds": round(sum(stages[name].seconds for name in counted), 1),
        "cpu_seconds": round(sum(stages[name].cpu_seconds for name in counted), 1),
        "seconds_of": counted,
        "peak_gb": round(peak / 1e9, 3),
        "peak_over_loaded_ratio": round((peak - loaded) / weights, 3),
    }


def _stage(call: Callable[[], T]) -> tuple[T, Watch]:
    with Watch() as watch:
        result = call()
    return result, watch


def build(config: dict[str, Any], dtype: torch.dtype, seed: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # built in its dtype: a float32 model first would be the peak
    try:
        return UNet2DConditionModel(**config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def _inspect(program: Program) -> tuple[tuple[Site, ...], list[dict[str, int]]]:
    sites = find_sites(program)
    return sites, [{"params": site_params(program, site), "macs": site_macs(program, site)} for site in sites]


def _plan(program: Program, sites: tuple[Site, ...], keep: float, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    scores = {site.name: torch.rand(site.units, generator=generator, dtype=torch.float64) for site in sites}
    return allocate(program, sites, scores, KeepParams(keep))


def main(
    config: Annotated[str, typer.Argument(help=" | ".join(CONFIGS))] = "sd15",
    keep: Annotated[float, typer.Option(help="Share to keep.")] = 0.7,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Take a published configuration through the compiler."""
    console = Console()
    try:
        if config not in CONFIGS:
            raise UsageError(f"no configuration {config!r}; choose one of {', '.join(CONFIGS)}")
        result = measure_scale(CONFIGS[config], DTYPES[config], whole=config == "sd15", keep=keep)
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    table = Table(title=f"{config}: {result['params'] / 1e6:.1f}M parameters in {result['dtype']}, {result['sites']}")
    for column in ("stage", "seconds", "CPU seconds", "peak over loaded, GB"):
        table.add_column(column, justify="right")
    for name, stage in result["stages"].items():
        table.add_row(
            name, f"{stage['seconds']:.1f}", f"{stage['cpu_seconds']:.1f}", f"{stage['peak_over_loaded_gb']:.2f}"
        )
    console.print(table)
    console.print(
        f"{result['seconds']} s in all ({result['cpu_seconds']} s of processor time); peak {result['peak_gb']} GB, "
        f"over the loaded model {result['peak_over_loaded_ratio']}× the weights' size"
    )
    console.print(f"written to {write_result(f'scale-{config}', result, output)}")


if __name__ == "__main__":
    typer.run(main)
