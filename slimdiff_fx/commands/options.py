"""The command line's options, each named once and shared by the commands that take it, in the panels of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimdiff_fx.commands.choices import (
    Align,
    CalibrateOn,
    Compensate,
    Dtype,
    Format,
    Int8,
    Method,
    Normalize,
    Residuals,
    Target,
    TimestepWeights,
)
from slimdiff_fx.files.output_paths import expand

_ON, _MUCH, _LATENCY, _METHOD, _MACHINE, _OUTPUT = (
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


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A diffusers pipeline folder, a hub id, or `emoji`, the pipeline that is built in."
    ),
]
OutFolder = Annotated[
    Path,
    typer.Option(
        "--out", "-o", rich_help_panel=_OUTPUT, callback=expanded, help="The folder to write the slim pipeline to."
    ),
]
OutFile = Annotated[
    Path,
    typer.Option("--out", "-o", rich_help_panel=_OUTPUT, callback=expanded, help="The file to write."),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", rich_help_panel=_OUTPUT, help="Replace what slimdiff_fx wrote at the output, and nothing else."
    ),
]
Pictures = Annotated[
    int,
    typer.Option(
        "--pictures",
        rich_help_panel=_OUTPUT,
        help="How many pictures to draw with dense and slim, side by side; 0 draws none.",
    ),
]
Sweep = Annotated[
    int,
    typer.Option(
        "--sweep",
        rich_help_panel=_OUTPUT,
        min=0,
        max=20,
        help="Measure error and latency at so many other sizes too, for the page. Each takes a plan and a drawing.",
    ),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", rich_help_panel=_OUTPUT, help="Show the traceback of an error."),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        rich_help_panel=_MACHINE,
        help="Where to run, as torch names it; auto is cuda where torch finds a GPU of that kind, else cpu.",
    ),
]
LoadDtype = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        rich_help_panel=_MACHINE,
        help="The precision to load and run in; auto is the checkpoint's own, but float32 for float16 on a CPU.",
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        "--variant",
        rich_help_panel=_MACHINE,
        help="The weight files to load, such as fp16. By default the plain ones, or the variant that is there "
        "if there are none.",
    ),
]
MomentsFolder = Annotated[
    Path | None,
    typer.Option(
        "--moments-folder",
        rich_help_panel=_MACHINE,
        callback=expanded,
        help="Keep second moments in files in this folder, for models whose moments outgrow memory.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        rich_help_panel=_MACHINE,
        help="Continue an interrupted calibration, or reuse one if what came after it failed. Without one, it "
        "starts anew.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        rich_help_panel=_ON,
        callback=expanded,
        help="Prompts to calibrate on: text, one a line; .json, .jsonl or .csv, with what is called prompt, "
        "caption or text; - for standard input.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        rich_help_panel=_ON,
        callback=expanded,
        help="A folder of pictures to calibrate on, each with a caption in a .txt beside it.",
    ),
]
CalibrateOnOption = Annotated[
    CalibrateOn | None,
    typer.Option(
        "--calibrate-on",
        metavar="KIND",
        rich_help_panel=_ON,
        help="trajectory is the model's own denoising from pure noise; pictures are those of --images with "
        "noise added. By default pictures if --images is given, else trajectory.",
    ),
]
Samples = Annotated[
    int,
    typer.Option("--samples", rich_help_panel=_ON, help="How many prompts or pictures to calibrate on."),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", rich_help_panel=_ON, help="Denoising steps of a sample; by default the pipeline's own."),
]
ObserveSteps = Annotated[
    int | None,
    typer.Option(
        "--observe-steps", rich_help_panel=_ON, help="Observe only this many of the steps, chosen by the seed."
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", rich_help_panel=_ON, help="The guidance scale; by default the pipeline's own."),
]
TimestepWeightsOption = Annotated[
    TimestepWeights,
    typer.Option(
        "--timestep-weights",
        metavar="KIND",
        rich_help_panel=_ON,
        help="uniform weighs all timesteps alike; noise lets the noisy ones count for more, detail those of detail.",
    ),
]
Seed = Annotated[
    int,
    typer.Option("--seed", rich_help_panel=_ON, help="The seed of noise, prompts and steps."),
]
Batch = Annotated[
    int,
    typer.Option("--batch", rich_help_panel=_ON, help="Samples in one call of the pipeline."),
]
MomentsOption = Annotated[
    bool,
    typer.Option(
        "--moments/--no-moments", rich_help_panel=_ON, help="Take second moments. Only --method threshold does without."
    ),
]
AttentionWeights = Annotated[
    bool,
    typer.Option(
        "--attention-weights",
        rich_help_panel=_ON,
        help="Measure attention's entropy and confidence, which the criteria of these names need.",
    ),
]
MaxErrorOption = Annotated[
    float | None,
    typer.Option(
        "--max-error",
        rich_help_panel=_MUCH,
        help="Remove as much as this relative squared error of the prediction allows; 0.001 where nothing else "
        "is given.",
    ),
]
KeepParamsOption = Annotated[
    float | None,
    typer.Option(
        "--keep-params",
        rich_help_panel=_MUCH,
        help="Keep at most this share of the denoiser's parameters, such as 0.9.",
    ),
]
KeepMacsOption = Annotated[
    float | None,
    typer.Option("--keep-macs", rich_help_panel=_MUCH, help="Keep at most this share of the denoiser's multiply-adds."),
]
KeepLatencyOption = Annotated[
    float | None,
    typer.Option(
        "--keep-latency",
        rich_help_panel=_MUCH,
        help="Keep at most this share of the denoiser's latency, as measured here.",
    ),
]
Tau = Annotated[
    float | None,
    typer.Option(
        "--tau",
        rich_help_panel=_MUCH,
        help="Keep units whose score is at least this share of their site's largest, such as 0.05.",
    ),
]
AlignOption = Annotated[
    Align | None,
    typer.Option(
        "--align",
        rich_help_panel=_MUCH,
        help="Hold the widths of everything that is cut to multiples of this, as kernels like.",
    ),
]
Uniform = Annotated[
    bool,
    typer.Option(
        "--uniform",
        rich_help_panel=_MUCH,
        help="Keep repeated blocks alike: one size for what is the same in each, as compilers of blocks like.",
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        rich_help_panel=_LATENCY,
        help="Whose latency: ort (the default), eager, inductor, aoti, openvino, ort-cuda or tensorrt.",
    ),
]
LatencyBatch = Annotated[
    int | None,
    typer.Option(
        "--latency-batch",
        rich_help_panel=_LATENCY,
        help="The batch to time at; by default what the pipeline runs for one picture.",
    ),
]
LatencyHeight = Annotated[
    int | None,
    typer.Option("--latency-height", rich_help_panel=_LATENCY, help="The latents' height; by default the model's own."),
]
LatencyWidth = Annotated[
    int | None,
    typer.Option("--latency-width", rich_help_panel=_LATENCY, help="The latents' width; by default the model's own."),
]
LatencyTokens = Annotated[
    int | None,
    typer.Option(
        "--latency-tokens", rich_help_panel=_LATENCY, help="How many text tokens; by default the pipeline's own number."
    ),
]
LatencyThreads = Annotated[
    int | None,
    typer.Option("--latency-threads", rich_help_panel=_LATENCY, help="CPU threads; by default as many as torch uses."),
]
LatencyCache = Annotated[
    Path | None,
    typer.Option(
        "--latency-cache",
        rich_help_panel=_LATENCY,
        callback=expanded,
        help="A folder for what was timed; by default SLIMDIFF_FX_LATENCY_CACHE, or the platform's own.",
    ),
]
MethodOption = Annotated[
    Method | None,
    typer.Option(
        "--method",
        rich_help_panel=_METHOD,
        help="best has the least expected error; slimdiff is the spectral modules; obs takes the same share of "
        "each site; threshold goes by score. By default best, or threshold if --tau or --criterion is "
        "given.",
    ),
]
Criterion = Annotated[
    list[str] | None,
    typer.Option(
        "--criterion",
        rich_help_panel=_METHOD,
        help="The score of --method threshold: mean_abs or mean_square for neurons; l2, l1, entropy or "
        "confidence for heads; contribution, fluctuation, obs or leverage for both. Give it twice to "
        "choose both.",
    ),
]
NormalizeOption = Annotated[
    Normalize,
    typer.Option(
        "--normalize",
        rich_help_panel=_METHOD,
        help="Divide scores by the site's largest (max), or map them to 0 to 1 first (minmax).",
    ),
]
CompensateOption = Annotated[
    Compensate | None,
    typer.Option(
        "--compensate",
        rich_help_panel=_METHOD,
        help="With --method threshold, what lets the kept units make up for the removed; by default none.",
    ),
]
Sequential = Annotated[
    int | None,
    typer.Option(
        "--sequential",
        rich_help_panel=_METHOD,
        help="Solve for the new weights in so many groups of sites, calibrating each behind the slim groups before it.",
    ),
]
Statistics = Annotated[
    Path,
    typer.Option("--statistics", rich_help_panel=_ON, callback=expanded, help="What `calibrate` wrote."),
]
Plan = Annotated[
    Path,
    typer.Option("--plan", rich_help_panel=_MUCH, callback=expanded, help="What `plan` wrote."),
]
ReportFolder = Annotated[
    Path, typer.Argument(metavar="DIR", callback=expanded, help="The folder that `slim` or `apply` wrote.")
]
Page = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        rich_help_panel=_OUTPUT,
        callback=expanded,
        help="The page to write; by default report.html in the folder.",
    ),
]
ExportFormat = Annotated[
    Format,
    typer.Option("--format", rich_help_panel=_OUTPUT, help="What to export to."),
]
ExportFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        rich_help_panel=_OUTPUT,
        callback=expanded,
        help="The file to write; by default in the pipeline's folder.",
    ),
]
ExportDtype = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        rich_help_panel=_OUTPUT,
        help="The precision of the exported weights; auto is the checkpoint's own where the format has it, else "
        "float32.",
    ),
]
ExportTarget = Annotated[
    Target | None,
    typer.Option(
        "--target",
        rich_help_panel=_OUTPUT,
        help="ONNX for any runtime (generic, the default), or with operators that only ONNX Runtime has.",
    ),
]
Opset = Annotated[
    int | None,
    typer.Option("--opset", rich_help_panel=_OUTPUT, min=18, max=25, help="The ONNX operator set; 20 by default."),
]
ExportResiduals = Annotated[
    list[Residuals] | None,
    typer.Option(
        "--residuals",
        rich_help_panel=_OUTPUT,
        help="Make inputs of what these add inside the UNet. Can be given twice.",
    ),
]
Int8Option = Annotated[
    Int8 | None,
    typer.Option(
        "--int8",
        rich_help_panel="Int8",
        help="Quantize: onnx static or dynamic, openvino weights, pt2, aoti and executorch static.",
    ),
]
Int8Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        rich_help_panel="Int8",
        callback=expanded,
        help="Prompts to calibrate int8 on, in a file as `calibrate` takes them.",
    ),
]
Int8Samples = Annotated[
    int | None,
    typer.Option(
        "--samples", rich_help_panel="Int8", min=1, help="With --int8 static, how many prompts; 8 by default."
    ),
]
Int8Steps = Annotated[
    int | None,
    typer.Option("--steps", rich_help_panel="Int8", help="Denoising steps of a sample; by default the pipeline's own."),
]
Int8Seed = Annotated[
    int,
    typer.Option("--seed", rich_help_panel="Int8", help="The seed of noise and prompts."),
]
