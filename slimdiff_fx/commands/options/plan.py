"""The options that decide what goes: what is calibrated on, how much goes, whose latency, by which method."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from slimdiff_fx.calibration.timestep_weights import DEFAULT_WEIGHTS
from slimdiff_fx.commands.options.choices import Align, CalibrateOn, Compensate, Method, Normalize, TimestepWeights
from slimdiff_fx.files.output_paths import expand

ON, MUCH, LATENCY, METHOD, MACHINE, OUTPUT = (
    "What to calibrate on",
    "How much goes",
    "Latency",
    "Method",
    "Machine",
    "Output",
)


def expanded(path: Path | None) -> Path | None:
    """Replace `~` in an option's path, which a shell leaves as it is in `--out=~/slim`."""
    return None if path is None else expand(path)


def option_name(argument: str) -> str:
    """Give the option that an argument or a field is: `observe_steps` is --observe-steps."""
    return f"--{argument.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class Watching:
    """What to calibrate on, as the user gave it."""

    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            rich_help_panel=ON,
            callback=expanded,
            help="Prompts to calibrate on: text, one a line; .json, .jsonl or .csv, with what is called prompt, "
            "caption or text; - for standard input.",
        ),
    ] = None
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            rich_help_panel=ON,
            callback=expanded,
            help="A folder of pictures to calibrate on, each with a caption in a .txt beside it.",
        ),
    ] = None
    calibrate_on: Annotated[
        CalibrateOn | None,
        typer.Option(
            "--calibrate-on",
            metavar="KIND",
            rich_help_panel=ON,
            help="trajectory is the model's own denoising from pure noise; pictures are those of --images with "
            "noise added. By default pictures if --images is given, else trajectory.",
        ),
    ] = None
    samples: Annotated[
        int,
        typer.Option("--samples", rich_help_panel=ON, help="How many prompts or pictures to calibrate on."),
    ] = 500
    steps: Annotated[
        int | None,
        typer.Option("--steps", rich_help_panel=ON, help="Denoising steps of a sample; by default the pipeline's own."),
    ] = None
    observe_steps: Annotated[
        int | None,
        typer.Option(
            "--observe-steps", rich_help_panel=ON, help="Observe only this many of the steps, chosen by the seed."
        ),
    ] = None
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", rich_help_panel=ON, help="The guidance scale; by default the pipeline's own."),
    ] = None
    seed: Annotated[
        int,
        typer.Option("--seed", rich_help_panel=ON, help="The seed of noise, prompts and steps."),
    ] = 0
    timestep_weights: Annotated[
        TimestepWeights,
        typer.Option(
            "--timestep-weights",
            metavar="KIND",
            rich_help_panel=ON,
            help="uniform weighs all timesteps alike; noise lets the noisy ones count for more, detail those of "
            "detail.",
        ),
    ] = TimestepWeights(DEFAULT_WEIGHTS)
    batch: Annotated[
        int,
        typer.Option("--batch", rich_help_panel=ON, help="Samples in one call of the pipeline."),
    ] = 16


@dataclass(frozen=True, kw_only=True)
class Measuring(Watching):
    """What to calibrate on, and what is measured beside, where statistics are all that is wanted."""

    moments: Annotated[
        bool,
        typer.Option(
            "--moments/--no-moments",
            rich_help_panel=ON,
            help="Take second moments. Only --method threshold does without.",
        ),
    ] = True
    attention_weights: Annotated[
        bool,
        typer.Option(
            "--attention-weights",
            rich_help_panel=ON,
            help="Measure attention's entropy and confidence, which the criteria of these names need.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much goes, and whose latency a budget of time is of."""

    tau: Annotated[
        float | None,
        typer.Option(
            "--tau",
            rich_help_panel=MUCH,
            help="Keep units whose score is at least this share of their site's largest, such as 0.05.",
        ),
    ] = None
    keep_params: Annotated[
        float | None,
        typer.Option(
            "--keep-params",
            rich_help_panel=MUCH,
            help="Keep at most this share of the denoiser's parameters, such as 0.9.",
        ),
    ] = None
    keep_macs: Annotated[
        float | None,
        typer.Option(
            "--keep-macs", rich_help_panel=MUCH, help="Keep at most this share of the denoiser's multiply-adds."
        ),
    ] = None
    keep_latency: Annotated[
        float | None,
        typer.Option(
            "--keep-latency",
            rich_help_panel=MUCH,
            help="Keep at most this share of the denoiser's latency, as measured here.",
        ),
    ] = None
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            rich_help_panel=MUCH,
            help="Remove as much as this relative squared error of the prediction allows; 0.001 where nothing else "
            "is given.",
        ),
    ] = None
    align: Annotated[
        Align | None,
        typer.Option(
            "--align",
            rich_help_panel=MUCH,
            help="Hold the widths of everything that is cut to multiples of this, as kernels like.",
        ),
    ] = None
    uniform: Annotated[
        bool,
        typer.Option(
            "--uniform",
            rich_help_panel=MUCH,
            help="Keep repeated blocks alike: one size for what is the same in each, as compilers of blocks like.",
        ),
    ] = False
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            rich_help_panel=LATENCY,
            help="Whose latency: ort (the default), eager, inductor, aoti, openvino, ort-cuda or tensorrt.",
        ),
    ] = None
    latency_batch: Annotated[
        int | None,
        typer.Option(
            "--latency-batch",
            rich_help_panel=LATENCY,
            help="The batch to time at; by default what the pipeline runs for one picture.",
        ),
    ] = None
    latency_height: Annotated[
        int | None,
        typer.Option(
            "--latency-height", rich_help_panel=LATENCY, help="The latents' height; by default the model's own."
        ),
    ] = None
    latency_width: Annotated[
        int | None,
        typer.Option(
            "--latency-width", rich_help_panel=LATENCY, help="The latents' width; by default the model's own."
        ),
    ] = None
    latency_tokens: Annotated[
        int | None,
        typer.Option(
            "--latency-tokens",
            rich_help_panel=LATENCY,
            help="How many text tokens; by default the pipeline's own number.",
        ),
    ] = None
    latency_threads: Annotated[
        int | None,
        typer.Option(
            "--latency-threads", rich_help_panel=LATENCY, help="CPU threads; by default as many as torch uses."
        ),
    ] = None
    latency_cache: Annotated[
        Path | None,
        typer.Option(
            "--latency-cache",
            rich_help_panel=LATENCY,
            callback=expanded,
            help="A folder for what was timed; by default SLIMDIFF_FX_LATENCY_CACHE, or the platform's own.",
        ),
    ] = None


# Fields that say how much goes. What follows `keep_` is what `passes.plan.costs` counts, or the latency.
KEEP = "keep_"
AMOUNTS = [each.name for each in fields(Amount) if each.name in ("tau", "max_error") or each.name.startswith(KEEP)]


@dataclass(frozen=True, kw_only=True)
class How:
    """How a plan is made."""

    method: Annotated[
        Method | None,
        typer.Option(
            "--method",
            rich_help_panel=METHOD,
            help="best has the least expected error; slimdiff is the spectral modules; obs takes the same share of "
            "each site; threshold goes by score. By default best, or threshold if --tau or --criterion is "
            "given.",
        ),
    ] = None
    criterion: Annotated[
        list[str] | None,
        typer.Option(
            "--criterion",
            rich_help_panel=METHOD,
            help="The score of --method threshold: mean_abs or mean_square for neurons; l2, l1, entropy or "
            "confidence for heads; contribution, fluctuation, obs or leverage for both. Give it twice to "
            "choose both.",
        ),
    ] = None
    normalize: Annotated[
        Normalize,
        typer.Option(
            "--normalize",
            rich_help_panel=METHOD,
            help="Divide scores by the site's largest (max), or map them to 0 to 1 first (minmax).",
        ),
    ] = Normalize("max")
    compensate: Annotated[
        Compensate | None,
        typer.Option(
            "--compensate",
            rich_help_panel=METHOD,
            help="With --method threshold, what lets the kept units make up for the removed; by default none.",
        ),
    ] = None
