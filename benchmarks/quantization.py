"""What do slimming and int8 cost and save, each alone and both? Size, latency, error, pictures.

    python -m benchmarks.quantization [--slim DIR]

ONNX Runtime (static and dynamic int8), Inductor (PT2E's static int8) and eager torch (torchao's int8 weights). Errors
are against the dense float model's prediction, on prompts that neither the plan nor the quantizer has seen.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from benchmarks.measure import RESULTS, interleave, machine, paired_ratio, write_result
from benchmarks.readme_blocks import write_block
from passes.errors import SlimDiffError, UsageError
from passes.plan.costs import program_params
from passes.program.inputs import example_tensors, unflatten
from slimdiff_fx.denoisers.call import translate_call
from slimdiff_fx.export.to_onnx.export import export_onnx
from slimdiff_fx.export.to_onnx.runtime import onnx_runner
from slimdiff_fx.pipelines.captured import CapturedDenoiser, capture_pipeline
from slimdiff_fx.pipelines.inputs.prompts import read_captions
from slimdiff_fx.pipelines.load import LoadedPipeline, load_pipeline
from slimdiff_fx.pipelines.sampling import denoiser_name, draw
from slimdiff_fx.pipelines.trajectory import DenoiserOutput, in_place_of
from slimdiff_fx.quantize.calibration_data import QuantizationSettings, record_calibration, record_held_out
from slimdiff_fx.quantize.onnx_int8 import export_onnx_int8
from slimdiff_fx.quantize.pt2e import quantize_pt2e
from slimdiff_fx.quantize.recorded_calls import flat_calls
from slimdiff_fx.quantize.weight_only import quantize_weights, weight_bytes
from slimdiff_fx.saved.pictures import pick_conditions
from slimdiff_fx.timing.bench import clock_of
from slimdiff_fx.timing.interleave import CLOCKS

NAME = "quantization"
DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "quantization.md", DOCS / "pictures" / "quantization.png"
SETTINGS = QuantizationSettings()
SIDE, LABEL = 96, 20
Run = Callable[[Sequence[Tensor]], Tensor]
Calls = list[list[Tensor]]


@dataclass(frozen=True)
class Contestant:
    """One denoiser as one runtime runs it: takes a tensor for each input."""

    runtime: str
    name: str
    int8: str
    bytes: int
    run: Run


def measure_quantization(
    dense: LoadedPipeline,
    slim: LoadedPipeline,
    *,
    settings: QuantizationSettings = SETTINGS,
    pictures: int = 8,
    repeats: int = 20,
    min_seconds: float = 5.0,
) -> tuple[dict[str, Any], Image.Image]:
    """Time all in turn, measure their errors, and draw.

    Args:
        dense: the float pipeline.
        slim: the same, slim.
        settings: what int8 is calibrated on.
        pictures: how many held-out prompts to draw.
        repeats: rounds at least.
        min_seconds: time at least to spend on each.

    Returns:
        the result as JSON values, and the sheet of pictures.
    """
    record = machine()
    captured = {"dense": capture_pipeline(dense.pipe), "slim": capture_pipeline(slim.pipe)}
    calls = {
        name: flat_calls(record_calibration(loaded, captured[name], settings))
        for name, loaded in (("dense", dense), ("slim", slim))
    }
    held_out = flat_calls(record_held_out(dense, captured["dense"], settings))
    clock = clock_of("ort", torch.get_num_threads())
    example = example_tensors(captured["dense"].program)
    with tempfile.TemporaryDirectory() as folder:
        contestants = [
            *_onnx(captured, calls, held_out, Path(folder)),
            *_inductor(captured, calls),
            *_eager(captured),
        ]
        with torch.inference_mode():
            timings = interleave(
                {_key(each): lambda each=each: each.run(example) for each in contestants},
                repeats=repeats,
                warmup=3,
                min_seconds=min_seconds,
                clock=CLOCKS[clock],
            )
            expected = [contestants[0].run(call).double() for call in held_out]
            rows = []
            for each in contestants:
                reference = next(other for other in contestants if other.runtime == each.runtime)
                lost = sum(
                    float((each.run(call) - want).square().sum()) for call, want in zip(held_out, expected, strict=True)
                )
                rows.append(
                    {
                        "runtime": each.runtime,
                        "name": each.name,
                        "int8": each.int8,
                        "bytes": each.bytes,
                        "relative_mse": lost / sum(float(want.square().sum()) for want in expected),
                        **timings[_key(each)].to_dict(),
                        "time_ratio": round(paired_ratio(timings[_key(each)], timings[_key(reference)]), 4),
                    }
                )
            sheet = _sheet(
                dense, captured["dense"], [each for each in contestants if each.int8 in ("", "static")], pictures
            )
    return {
        "benchmark": NAME,
        "model": dense.name,
        "params": {name: program_params(each.program) for name, each in captured.items()},
        "inputs": {"batch": int(example[0].shape[0]), "sample": list(example[0].shape)},
        "calibration": {"samples": settings.samples, "seed": settings.seed},
        "clock": clock,
        "held_out_calls": len(held_out),
        "machine": record,
        "rows": rows,
    }, sheet


def _key(each: Contestant) -> str:
    return f"{each.runtime}/{each.name}/{each.int8}"


def _onnx(
    captured: dict[str, CapturedDenoiser], calls: dict[str, Calls], held_out: Calls, folder: Path
) -> list[Contestant]:
    made = []
    for int8 in ("", "static", "dynamic"):
        for name, each in captured.items():
            path = folder / f"{name}{int8}.onnx"
            if not int8:
                export_onnx(each.program, path, inputs=[example_tensors(each.program)])
            else:
                seen = calls[name] if int8 == "static" else []
                export_onnx_int8(each.program, path, held_out, mode=int8, calls=seen)
            made.append(
                Contestant(
                    "ONNX Runtime",
                    name,
                    int8,
                    path.stat().st_size,
                    onnx_runner(path, threads=torch.get_num_threads(), spinning=True)[0],
                )
            )
    return made


def _inductor(captured: dict[str, CapturedDenoiser], calls: dict[str, Calls]) -> list[Contestant]:
    made = []
    for int8 in ("", "static"):
        for name, each in captured.items():
            program = quantize_pt2e(each.program, calls[name]) if int8 else each.program
            # Compiled for each size that it meets: what is timed is what a server with a fixed batch would run.
            compiled = torch.compile(program.graph_module, dynamic=False)
            made.append(Contestant("Inductor", name, int8, weight_bytes(program.graph_module), _frozen(compiled, each)))
    return made


def _frozen(compiled: Callable[..., Tensor], captured: CapturedDenoiser) -> Run:
    """Call what is compiled with weights as constants: integer kernels want them packed ahead."""
    call = _unflattened(compiled, captured)

    def run(tensors: Sequence[Tensor]) -> Tensor:
        with torch._inductor.config.patch(freezing=True):
            return call(tensors)

    return run


def _eager(captured: dict[str, CapturedDenoiser]) -> list[Contestant]:
    made = []
    for int8 in ("", "weights"):
        for name, each in captured.items():
            model = quantize_weights(each.model) if int8 else each.model
            made.append(Contestant("eager torch", name, int8, weight_bytes(model), _module(model, each)))
    return made


def _module(model: nn.Module, captured: CapturedDenoiser) -> Run:
    wrapper = copy.copy(captured.inputs.module)
    wrapper._modules = {captured.inputs.root: model}
    return _unflattened(wrapper, captured)


def _unflattened(call: Callable[..., Tensor], captured: CapturedDenoiser) -> Run:
    def run(tensors: Sequence[Tensor]) -> Tensor:
        args, kwargs = unflatten(captured.program, tensors)
        return call(*args, **kwargs)

    return run


def _sheet(
    dense: LoadedPipeline, captured: CapturedDenoiser, contestants: Sequence[Contestant], pictures: int
) -> Image.Image:
    """Draw the same prompts from the same noise with ONNX Runtime's contestants, a row for each."""
    drawn = [each for each in contestants if each.runtime == "ONNX Runtime"]
    prompts = pick_conditions(read_captions(dense.folder, "held_out"), pictures)
    sheet = Image.new("RGB", (LABEL + len(prompts) * SIDE, LABEL + len(drawn) * (SIDE + LABEL)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, each in enumerate(drawn):

        def forward(*args: Any, each: Contestant = each, **kwargs: Any) -> Any:
            (call,) = flat_calls([translate_call(captured.inputs, args, kwargs)])
            prediction = each.run(call)
            return (prediction,) if kwargs.get("return_dict") is False else DenoiserOutput(prediction)

        with in_place_of(getattr(dense.pipe, denoiser_name(dense.pipe)), forward):
            images = draw(dense.pipe, prompts, SETTINGS.seed, dense.sampling)
        top = row * (SIDE + LABEL)
        pen.text((LABEL, top + 3), _title(each.name, each.int8), fill="black", font=font)
        for column, image in enumerate(images):
            small = image.convert("RGB").resize((SIDE - 4, SIDE - 4), Image.Resampling.NEAREST)
            sheet.paste(small, (LABEL + column * SIDE, top + LABEL))
    return sheet


def _title(name: str, int8: str) -> str:
    if not int8:
        return name
    return f"{'slim + ' if name == 'slim' else ''}int8 {int8}"


def quantization_table(result: dict[str, Any]) -> str:
    """Give a row for each contestant."""
    lines = ["| runtime | denoiser | size | latency | over dense | error |", "|---|---|---:|---:|---:|---:|"]
    dense = result["rows"][0]
    for row in result["rows"]:
        error = "–" if row["name"] == "dense" and not row["int8"] else f"{row['relative_mse']:.1e}"
        lines.append(
            f"| {row['runtime']} | {_title(row['name'], row['int8'])} | {row['bytes'] / 1e6:.1f} MB "
            f"({row['bytes'] / dense['bytes']:.0%}) | {row['median_ms']:.1f} ms | {row['time_ratio']:.2f} | {error} |"
        )
    return "\n".join(lines)


def main(
    model: Annotated[str, typer.Argument(help="The dense pipeline.")] = "emoji",
    slim: Annotated[str, typer.Option(help="The slim pipeline, as `slimdiff-fx slim` saved it.")] = "slim-emoji",
    pictures: Annotated[int, typer.Option(help="Held-out prompts to draw.")] = 8,
    repeats: Annotated[int, typer.Option(help="Rounds at least.")] = 20,
    min_seconds: Annotated[float, typer.Option(help="Time at least to spend on each.")] = 5.0,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
    picture: Annotated[Path, typer.Option(help="File for the pictures.")] = PICTURE,
) -> None:
    """Measure dense, slim, int8 and slim in int8 against each other."""
    try:
        result, sheet = measure_quantization(
            load_pipeline(model), load_pipeline(slim), pictures=pictures, repeats=repeats, min_seconds=min_seconds
        )
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    sheet.save(picture)
    print(f"written to {write_result(NAME, result, output)} and {picture}")
    write_block(NAME, quantization_table(result), PAGE)


if __name__ == "__main__":
    typer.run(main)
