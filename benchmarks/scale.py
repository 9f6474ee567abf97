"""Do real sizes fit? UNet configurations with random weights through the compiler: sites, time and peak memory.

Part of `python -m benchmarks.cost`.
"""

from __future__ import annotations

import collections
import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers import UNet2DConditionModel

from benchmarks.measure import Watch, machine, resident
from benchmarks.uniform_plan import uniform_plan
from passes.analyze.thresholds import allocate
from passes.capture.lower import lower
from passes.plan.costs import program_macs, program_params
from passes.plan.policies import KeepParams
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.prove.validate import validate
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites, find_unsupported
from slimdiff_fx.denoisers.families import capture_denoiser
from slimdiff_fx.saved.summary import Summary, summarize

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
# One transformer of SDXL's deepest level, ten blocks at 32×32, between convolutions: the whole in one precision, dense
# and slim, with a runtime's copies, doesn't fit in 24 GiB.
CONFIGS["sdxl-stage"] = {
    **CONFIGS["sdxl"],
    "sample_size": 32,
    "layers_per_block": 1,
    "block_out_channels": (1280,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "attention_head_dim": 20,
    "transformer_layers_per_block": 10,
}
DTYPES = {"sd15": torch.float32, "sdxl": torch.bfloat16, "sdxl-stage": torch.bfloat16}


@dataclass(frozen=True)
class Size:
    """A model on the way from 10 million to 2.6 billion parameters.

    Attributes:
        config: of the UNet2DConditionModel.
        dtype: of its weights.
    """

    config: Mapping[str, Any]
    dtype: torch.dtype


def _narrow(name: str, width: int, **changes: Any) -> dict[str, Any]:
    """Give a published configuration with its widths scaled: `width` channels at the first level."""
    published = CONFIGS[name]
    factor = width / published["block_out_channels"][0]
    scaled = {"block_out_channels": tuple(int(channels * factor) for channels in published["block_out_channels"])}
    return {**published, **scaled, **changes}


# SD 1.5 growing in width, then SDXL, whose graph is several times as long. At 320 channels they are the published ones.
SIZES: Mapping[str, Size] = {
    "sd-32": Size(_narrow("sd15", 32), torch.float32),
    "sd-96": Size(_narrow("sd15", 96), torch.float32),
    "sd-192": Size(_narrow("sd15", 192), torch.float32),
    "sd15": Size(CONFIGS["sd15"], torch.float32),
    "sdxl-192": Size(_narrow("sdxl", 192, attention_head_dim=(3, 6, 12)), torch.bfloat16),
    "sdxl": Size(CONFIGS["sdxl"], torch.bfloat16),
}


def measure_scale(
    config: Mapping[str, Any],
    dtype: torch.dtype,
    *,
    whole: bool = True,
    keep: float = 0.7,
    budget: float = 0.9,
    seed: int = 0,
) -> dict[str, Any]:
    """Take a UNet of this configuration through the compiler and watch time and memory.

    Args:
        config: of the UNet2DConditionModel; its weights are random.
        dtype: of the weights.
        whole: also rewrite, validate and lower; otherwise stop at the analysis.
        keep: share of the units that stays in the rewrite.
        budget: share of the parameters that the analysis solves for.
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
    sites = find_sites(program)
    found, summary = run("analyze", lambda: _analyze(program, budget, seed))
    result: dict[str, Any] = {"tau": found.policy.get("tau")}
    if whole:
        plan = uniform_plan(program, sites, keep, seed)
        slim = run("rewrite", lambda: rewrite(program, plan))
        report = run("validate", lambda: validate(program, plan, slim))
        run("lower", lambda: lower(slim))
        result |= {
            "relative_error": report.relative_error,
            "slim_params": program_params(slim),
            "slim_macs": program_macs(slim),
        }
    peak = max(watch.peak for watch in stages.values())
    kinds = collections.Counter(site.kind for site in sites)
    return {
        "benchmark": "scale",
        "dtype": str(dtype).removeprefix("torch."),
        "machine": record,
        "params": summary.params,
        "macs": summary.macs,
        "nodes": len(program.graph.nodes),
        "sites": dict(kinds),
        "unsupported": len(find_unsupported(program)),
        "site_params": summary.site_params,
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
        "seconds": round(sum(watch.seconds for watch in stages.values()), 1),
        "cpu_seconds": round(sum(watch.cpu_seconds for watch in stages.values()), 1),
        "peak_gb": round(peak / 1e9, 3),
        "peak_over_loaded_ratio": round((peak - loaded) / weights, 3),
    }


def _stage(call: Callable[[], T]) -> tuple[T, Watch]:
    with Watch() as watch:
        result = call()
    return result, watch


def build(config: Mapping[str, Any], dtype: torch.dtype, seed: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # built in its dtype: a float32 model first would be the peak
    try:
        return UNet2DConditionModel(**config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def _analyze(program: Program, budget: float, seed: int) -> tuple[SlimPlan, Summary]:
    """Find the sites, count what they cost and solve for a threshold; scores are random, as weights are."""
    generator = torch.Generator().manual_seed(seed)
    sites = find_sites(program)
    scores = {site.name: torch.rand(site.units, generator=generator, dtype=torch.float64) for site in sites}
    plan = allocate(program, sites, scores, KeepParams(budget))
    return plan, summarize(program, sites, plan)
