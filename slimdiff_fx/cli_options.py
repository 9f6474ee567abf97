"""The command line's options, each named once and shared by the commands that take it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from slimdiff_fx.output_paths import expand


def expanded(path: Path | None) -> Path | None:
    """Replace `~` in an option's path, which a shell leaves as it is in `--out=~/slim`."""
    return None if path is None else expand(path)


class Method(StrEnum):
    """How a plan is made."""

    best = "best"
    slimdiff = "slimdiff"
    obs = "obs"
    threshold = "threshold"


class Compensate(StrEnum):
    """What the kept units make up for."""

    none = "none"
    bias = "bias"
    lstsq = "lstsq"


class TimestepWeights(StrEnum):
    """How much timesteps count."""

    uniform = "uniform"
    noise = "noise"
    detail = "detail"


class CalibrateOn(StrEnum):
    """What the denoiser is watched on."""

    trajectory = "trajectory"
    pictures = "pictures"


class Normalize(StrEnum):
    """How scores are made comparable between sites."""

    max = "max"
    minmax = "minmax"


class Format(StrEnum):
    """What to export to."""

    onnx = "onnx"
    pt2 = "pt2"
    aoti = "aoti"
    openvino = "openvino"
    executorch = "executorch"
    tensorrt = "tensorrt"


class Int8(StrEnum):
    """How to quantize what is exported."""

    static = "static"
    dynamic = "dynamic"
    weights = "weights"


class Target(StrEnum):
    """Which runtimes an ONNX file is for."""

    generic = "generic"
    onnxruntime = "onnxruntime"


class Residuals(StrEnum):
    """What adds to a UNet's activations."""

    controlnet = "controlnet"
    t2i_adapter = "t2i_adapter"


class Align(StrEnum):
    """Multiples that kernels like."""

    eight = "8"
    sixteen = "16"
    sixty_four = "64"


class Dtype(StrEnum):
    """In which precision to load."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Diffusers pipeline folder, hub id, or `emoji`, the built-in pipeline.")
]
OutFolder = Annotated[
    Path, typer.Option("--out", "-o", callback=expanded, help="Folder to write the slim pipeline to.")
]
OutFile = Annotated[Path, typer.Option("--out", "-o", callback=expanded, help="File to write.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what slimdiff_fx wrote at the output, and nothing else.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[str, typer.Option("--device", help="Where to run, as torch names it.")]
Variant = Annotated[
    str | None,
    typer.Option(
        "--variant", help="Weight files to load, such as fp16. [plain ones; the variant there is if there are none]"
    ),
]
LoadDtype = Annotated[Dtype, typer.Option("--dtype", help="Precision to load and run in.")]

Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        callback=expanded,
        help="Prompts to calibrate on: text, one a line; .json, .jsonl or .csv, with what is called prompt, caption or "
        "text; - for standard input.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        callback=expanded,
        help="Folder of pictures to calibrate on, each with a caption in a .txt beside it.",
    ),
]
CalibrateOnOption = Annotated[
    CalibrateOn | None,
    typer.Option(
        "--calibrate-on",
        help="trajectory: the model's own denoising from pure noise; pictures: those of --images with noise added. "
        "[pictures if --images is given, else trajectory]",
    ),
]
Samples = Annotated[int, typer.Option("--samples", help="How many prompts or pictures to calibrate on.")]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Denoising steps of a sample; the pipeline's default if not given.")
]
ObserveSteps = Annotated[
    int | None, typer.Option("--observe-steps", help="Observe only this many of the steps, chosen by the seed.")
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", help="Guidance scale; the pipeline's default if not given.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of noise, prompts and steps.")]
Batch = Annotated[int, typer.Option("--batch", help="Samples in one pipeline call.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue an interrupted calibration, or reuse one if what came after it failed; without one, start anew.",
    ),
]

MethodOption = Annotated[
    Method | None,
    typer.Option(
        "--method",
        help="best: least expected error, whatever it takes; slimdiff: spectral modules; obs: the same share of each "
        "site; threshold: by score. [best, or threshold if --tau or --criterion is given]",
    ),
]
Tau = Annotated[
    float | None,
    typer.Option("--tau", help="Keep units whose score is at least this share of their site's largest; such as 0.05."),
]
KeepParamsOption = Annotated[
    float | None, typer.Option("--keep-params", help="Keep this share of the denoiser's parameters.")
]
KeepMacsOption = Annotated[
    float | None, typer.Option("--keep-macs", help="Keep this share of the denoiser's multiply-adds.")
]
KeepLatencyOption = Annotated[
    float | None, typer.Option("--keep-latency", help="Keep this share of the denoiser's latency, measured here.")
]
Backend = Annotated[
    str | None,
    typer.Option("--backend", help="Whose latency: ort, eager, inductor, aoti, openvino, ort-cuda, tensorrt. [ort]"),
]
LatencyBatch = Annotated[
    int | None, typer.Option("--latency-batch", help="Batch to time at; what the pipeline runs for a picture.")
]
LatencyHeight = Annotated[int | None, typer.Option("--latency-height", help="Latents' height; the model's own.")]
LatencyWidth = Annotated[int | None, typer.Option("--latency-width", help="Latents' width; the model's own.")]
LatencyTokens = Annotated[int | None, typer.Option("--latency-tokens", help="Text tokens; the pipeline's own.")]
LatencyThreads = Annotated[int | None, typer.Option("--latency-threads", help="CPU threads; as many as torch uses.")]
LatencyCache = Annotated[
    Path | None,
    typer.Option(
        "--latency-cache",
        callback=expanded,
        help="Folder for what was timed; SLIMDIFF_FX_LATENCY_CACHE, or the platform's own.",
    ),
]
AlignOption = Annotated[
    Align | None,
    typer.Option("--align", help="Hold the widths of everything that is cut to multiples of this, as kernels like."),
]
Uniform = Annotated[
    bool,
    typer.Option(
        "--uniform", help="Keep repeated blocks alike: one size for what is the same in each, as block compilers like."
    ),
]
MaxErrorOption = Annotated[
    float | None,
    typer.Option(
        "--max-error",
        help="Remove as much as this relative squared error of the prediction allows. [0.001]",
    ),
]
CompensateOption = Annotated[
    Compensate | None,
    typer.Option("--compensate", help="With --method threshold: let the kept units make up for the removed. [none]"),
]
TimestepWeightsOption = Annotated[
    TimestepWeights,
    typer.Option("--timestep-weights", help="Let noisy timesteps, or those of detail, count for more."),
]
MomentsOption = Annotated[
    bool, typer.Option("--moments/--no-moments", help="Take second moments; only --method threshold does without.")
]
AttentionWeights = Annotated[
    bool,
    typer.Option(
        "--attention-weights",
        help="Measure attention's entropy and confidence, which the criteria of these names need.",
    ),
]
MomentsFolder = Annotated[
    Path | None,
    typer.Option(
        "--moments-folder",
        callback=expanded,
        help="Keep second moments in files there: for models whose moments outgrow memory.",
    ),
]
Sequential = Annotated[
    int | None,
    typer.Option(
        "--sequential",
        help="Solve for the new weights in so many groups of sites, calibrating each behind the slim groups before it.",
    ),
]
Criterion = Annotated[
    list[str] | None,
    typer.Option(
        "--criterion",
        help="Score: mean_abs or mean_square for neurons; l2, l1, entropy or confidence for heads; "
        "contribution, fluctuation, obs or leverage for both. "
        "Give it twice to choose both.",
    ),
]
NormalizeOption = Annotated[
    Normalize, typer.Option("--normalize", help="Divide by the site's largest score, or min–max.")
]
Pictures = Annotated[
    int, typer.Option("--pictures", help="Draw this many pictures with dense and slim side by side; 0 for none.")
]

Sweep = Annotated[
    int,
    typer.Option(
        "--sweep",
        min=0,
        max=20,
        help="Measure error and latency at so many other sizes too, for the report; each takes a plan and a drawing.",
    ),
]
