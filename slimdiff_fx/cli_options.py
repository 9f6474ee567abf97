"""The command line's options, each named once and shared by the commands that take it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from passes.errors import UsageError

if TYPE_CHECKING:
    from passes.allocate import Policy


class Method(StrEnum):
    """How units are chosen."""

    threshold = "threshold"


class Normalize(StrEnum):
    """How scores are made comparable between sites."""

    max = "max"
    minmax = "minmax"


class Format(StrEnum):
    """What to export to."""

    onnx = "onnx"
    pt2 = "pt2"


class Dtype(StrEnum):
    """In which precision to load."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Diffusers pipeline folder, hub id, or `emoji`, the built-in pipeline.")
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder to write the slim pipeline to.")]
OutFile = Annotated[Path, typer.Option("--out", "-o", help="File to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at the output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[str, typer.Option("--device", help="Where to run, as torch names it.")]
LoadDtype = Annotated[Dtype, typer.Option("--dtype", help="Precision to load and run in.")]

Prompts = Annotated[Path | None, typer.Option("--prompts", help="Prompts to calibrate on: text, one a line, or .json.")]
Images = Annotated[
    Path | None, typer.Option("--images", help="Pictures to calibrate on, each with a caption in a .txt beside it.")
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
    typer.Option("--resume", help="Continue an interrupted calibration, or reuse one if what came after it failed."),
]

MethodOption = Annotated[Method, typer.Option("--method", help="How units are chosen.")]
Tau = Annotated[
    float | None,
    typer.Option("--tau", help="Keep units whose score is at least this share of their site's largest. [0.05]"),
]
KeepParamsOption = Annotated[
    float | None, typer.Option("--keep-params", help="Solve for the tau that keeps this share of the parameters.")
]
KeepMacsOption = Annotated[
    float | None, typer.Option("--keep-macs", help="Solve for the tau that keeps this share of the multiply-adds.")
]
Criterion = Annotated[
    list[str] | None,
    typer.Option(
        "--criterion",
        help="Score: mean_abs or mean_square for neurons; l2, l1, entropy or confidence for heads. "
        "Give it twice to choose both.",
    ),
]
NormalizeOption = Annotated[
    Normalize, typer.Option("--normalize", help="Divide by the site's largest score, or min–max.")
]
Pictures = Annotated[
    int, typer.Option("--pictures", help="Draw this many pictures with dense and slim side by side; 0 for none.")
]


def choose_policy(
    tau: float | None, keep_params: float | None, keep_macs: float | None, normalize: Normalize
) -> Policy:
    """Make the policy that the options name; tau 0.05 if they name none.

    Raises:
        UsageError: more than one is given, or one is out of range.
    """
    from passes.allocate import KeepMacs, KeepParams, Threshold  # imports torch: not for --help

    given = {"--tau": tau, "--keep-params": keep_params, "--keep-macs": keep_macs}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} are given together; give one of them")
    if keep_params is not None:
        return KeepParams(keep_params, normalize.value)
    if keep_macs is not None:
        return KeepMacs(keep_macs, normalize.value)
    return Threshold(0.05 if tau is None else tau, normalize.value)
