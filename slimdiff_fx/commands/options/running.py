"""The options of where a command runs and of what it reads and writes; those of the plan are in `plan_options`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from slimdiff_fx.commands.options.choices import Dtype, Format, Int8, Residuals, Target
from slimdiff_fx.commands.options.plan import MACHINE, METHOD, MUCH, ON, OUTPUT, expanded
from slimdiff_fx.names import AUTO

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A diffusers pipeline folder, a hub id, or `emoji`, the pipeline that is built in."
    ),
]
OutFolder = Annotated[
    Path,
    typer.Option(
        "--out", "-o", rich_help_panel=OUTPUT, callback=expanded, help="The folder to write the slim pipeline to."
    ),
]
OutFile = Annotated[
    Path,
    typer.Option("--out", "-o", rich_help_panel=OUTPUT, callback=expanded, help="The file to write."),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", rich_help_panel=OUTPUT, help="Replace what slimdiff_fx wrote at the output, and nothing else."
    ),
]
Pictures = Annotated[
    int,
    typer.Option(
        "--pictures",
        rich_help_panel=OUTPUT,
        help="How many pictures to draw with dense and slim, side by side; 0 draws none.",
    ),
]
Sweep = Annotated[
    int,
    typer.Option(
        "--sweep",
        rich_help_panel=OUTPUT,
        min=0,
        max=20,
        help="Measure error and latency at so many other sizes too, for the page. Each takes a plan and a drawing.",
    ),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", rich_help_panel=OUTPUT, help="Show the traceback of an error."),
]
Variant = Annotated[
    str | None,
    typer.Option(
        "--variant",
        rich_help_panel=MACHINE,
        help="The weight files to load, such as fp16. By default the plain ones, or the variant that is there "
        "if there are none.",
    ),
]
Sequential = Annotated[
    int | None,
    typer.Option(
        "--sequential",
        rich_help_panel=METHOD,
        help="Solve for the new weights in so many groups of sites, calibrating each behind the slim groups before it.",
    ),
]
Statistics = Annotated[
    Path,
    typer.Option("--statistics", rich_help_panel=ON, callback=expanded, help="What `calibrate` wrote."),
]
Plan = Annotated[
    Path,
    typer.Option("--plan", rich_help_panel=MUCH, callback=expanded, help="What `plan` wrote."),
]
ReportFolder = Annotated[
    Path, typer.Argument(metavar="DIR", callback=expanded, help="The folder that `slim` or `apply` wrote.")
]
Page = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        rich_help_panel=OUTPUT,
        callback=expanded,
        help="The page to write; by default report.html in the folder.",
    ),
]
ExportFormat = Annotated[
    Format,
    typer.Option("--format", rich_help_panel=OUTPUT, help="What to export to."),
]
ExportFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        rich_help_panel=OUTPUT,
        callback=expanded,
        help="The file to write; by default in the pipeline's folder.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Where and how a pipeline is loaded."""

    device: Annotated[
        str,
        typer.Option(
            "--device",
            rich_help_panel=MACHINE,
            help="Where to run, as torch names it; auto is cuda where torch finds a GPU of that kind, else cpu.",
        ),
    ] = "auto"
    dtype: Annotated[
        Dtype,
        typer.Option(
            "--dtype",
            rich_help_panel=MACHINE,
            help="The precision to load and run in; auto is the checkpoint's own, but float32 for float16 on a CPU.",
        ),
    ] = Dtype(AUTO)
    variant: Variant = None


@dataclass(frozen=True, kw_only=True)
class Machine(Loading):
    """Where a calibration runs, and what of it is kept."""

    moments_folder: Annotated[
        Path | None,
        typer.Option(
            "--moments-folder",
            rich_help_panel=MACHINE,
            callback=expanded,
            help="Keep second moments in files in this folder, for models whose moments outgrow memory.",
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=MACHINE,
            help="Continue an interrupted calibration, or reuse one if what came after it failed. Without one, it "
            "starts anew.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Quantizing:
    """How an export is quantized, and what that is calibrated on."""

    int8: Annotated[
        Int8 | None,
        typer.Option(
            "--int8",
            rich_help_panel="Int8",
            help="Quantize: onnx static or dynamic, openvino weights, pt2, aoti and executorch static.",
        ),
    ] = None
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            rich_help_panel="Int8",
            callback=expanded,
            help="Prompts to calibrate int8 on, in a file as `calibrate` takes them.",
        ),
    ] = None
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", rich_help_panel="Int8", min=1, help="With --int8 static, how many prompts; 8 by default."
        ),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", rich_help_panel="Int8", help="Denoising steps of a sample; by default the pipeline's own."
        ),
    ] = None
    seed: Annotated[
        int,
        typer.Option("--seed", rich_help_panel="Int8", help="The seed of noise and prompts."),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What an export is written as."""

    dtype: Annotated[
        Dtype,
        typer.Option(
            "--dtype",
            rich_help_panel=OUTPUT,
            help="The precision of the exported weights; auto is the checkpoint's own where the format has it, else "
            "float32.",
        ),
    ] = Dtype(AUTO)
    target: Annotated[
        Target | None,
        typer.Option(
            "--target",
            rich_help_panel=OUTPUT,
            help="ONNX for any runtime (generic, the default), or with operators that only ONNX Runtime has.",
        ),
    ] = None
    opset: Annotated[
        int | None,
        typer.Option("--opset", rich_help_panel=OUTPUT, min=18, max=25, help="The ONNX operator set; 20 by default."),
    ] = None
    residuals: Annotated[
        list[Residuals] | None,
        typer.Option(
            "--residuals",
            rich_help_panel=OUTPUT,
            help="Make inputs of what these add inside the UNet. Can be given twice.",
        ),
    ] = None
