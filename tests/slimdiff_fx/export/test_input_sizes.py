"""Exported files draw every size that the model does, and say what they don't take."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from passes.errors import UsageError
from passes.program.program import Program
from passes.program.size_limits import SizeLimit
from passes.rewrite.rewrite import rewrite
from slimdiff_fx.denoisers.families import capture_denoiser, describe
from slimdiff_fx.denoisers.slim.apply_plan import apply_plan
from slimdiff_fx.export.input_sizes import SIZES, fixed_sizes, input_sizes
from slimdiff_fx.export.openvino import export_openvino
from slimdiff_fx.export.parity import untraced_inputs
from slimdiff_fx.export.pt2 import export_pt2
from slimdiff_fx.export.to_onnx.export import export_onnx
from slimdiff_fx.export.to_onnx.runtime import onnx_runner
from tests.plans import captured, random_plan
from tests.toy_denoisers import unet_sd15

Run = Callable[[Sequence[Tensor]], Tensor]
# Even, uneven, a square of uneven sides, a single row, a single column, a single pixel.
MATRIX = [(8, 12), (7, 9), (5, 5), (1, 4), (6, 1), (1, 1)]
ANY = SizeLimit(1, 1)


@pytest.fixture(scope="module")
def slim() -> tuple[nn.Module, Program]:
    dense = unet_sd15(0)
    program = capture_denoiser(dense, height=8, width=8, tokens=5)
    plan = random_plan(program, 0)
    return apply_plan(dense, plan), rewrite(program, plan)


@pytest.fixture(scope="module", params=["onnx", "pt2", "openvino"])
def exported(request: pytest.FixtureRequest, slim: tuple[nn.Module, Program], tmp_path_factory) -> tuple[Run, str]:
    """Give what runs the file on the inputs in order, and the sizes in its metadata."""
    folder = tmp_path_factory.mktemp("exported")
    _, program = slim
    if request.param == "onnx":
        report = export_onnx(program, folder / "unet.onnx")
        (entry,) = (e for e in onnx.load(folder / "unet.onnx").metadata_props if e.key == SIZES)
        runner, written = onnx_runner(folder / "unet.onnx")[0], entry.value
    elif request.param == "pt2":
        report = export_pt2(program, folder / "unet.pt2")
        extra = {f"{SIZES}.json": ""}
        module = torch.export.load(folder / "unet.pt2", extra_files=extra).module()
        runner, written = (lambda tensors: module(*tensors)), extra[f"{SIZES}.json"]
    else:
        openvino = pytest.importorskip("openvino")
        from slimdiff_fx.export.openvino import openvino_runner

        report = export_openvino(program, folder / "unet.xml")
        runner = openvino_runner(folder / "unet.xml")
        written = openvino.Core().read_model(folder / "unet.xml").get_rt_info(SIZES).astype(str)
    assert report.sizes == json.loads(written)
    # an uneven picture is among what every export is compared on
    assert any(height % 2 for height in (case.shapes["sample"][2] for case in report.cases))
    return runner, written


@pytest.mark.slow
def test_files_draw_what_the_eager_model_draws(slim: tuple[nn.Module, Program], exported: tuple[Run, str]) -> None:
    model, _ = slim
    run, written = exported
    limits = json.loads(written)["sizes"]
    assert {name: limit["multiple"] for name, limit in limits.items()} == dict.fromkeys(
        ("batch", "height", "width", "tokens"), 1
    )
    torch.manual_seed(0)
    for height, width in MATRIX:
        for batch in (1, 3):
            inputs = describe(model, batch=3, height=8, width=8, tokens=4)
            sample = torch.randn(batch, 4, height, width)
            rest = [value[:batch] for value in inputs.args[1:]]
            with torch.no_grad():
                expected = model(sample, *rest, return_dict=False)[0]
                # fp32 of other kernels: measured 1e-6 of the largest value, which is about 1
                torch.testing.assert_close(run([sample, *rest]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_limit_of_the_model_is_in_the_file_the_report_and_the_errors(tmp_path: Path) -> None:
    program = captured("unet_unconditional", 0, torch.float32)
    report = export_pt2(program, tmp_path / "unet.pt2")
    assert report.sizes["sizes"]["height"] == {
        "multiple": 2,
        "least": 2,
        "most": None,
        "but": [],
        "words": "a multiple of 2",
    }
    module = torch.export.load(tmp_path / "unet.pt2").module()
    timestep = torch.tensor([5.0])
    for height, width in ((2, 2), (2, 8), (10, 6)):
        sample = torch.randn(1, 3, height, width)
        torch.testing.assert_close(module(sample, timestep), program(sample, timestep), rtol=1e-4, atol=1e-5)
    for height, width, axis in ((7, 8, 2), (8, 5, 3), (1, 4, 2)):
        sample = torch.randn(1, 3, height, width)
        with pytest.raises(AssertionError, match=rf"sample\.size\(\)\[{axis}\] % 2 == 0"):
            module(sample, timestep)
        with pytest.raises(UsageError, match=rf"sample\.size\({axis}\) % 2 == 0 \(a multiple of 2\)"):
            program(sample, timestep)


@pytest.mark.parametrize(
    ("family", "limits"),
    [
        pytest.param("unet_sd15", {"batch": ANY, "height": ANY, "width": ANY, "tokens": ANY}, marks=pytest.mark.slow),
        pytest.param(
            "unet_unconditional",
            {"batch": ANY, "height": SizeLimit(2, 2), "width": SizeLimit(2, 2)},
            marks=pytest.mark.slow,
        ),
        # patches of 2: a row that fills none is left out of the prediction
        ("pixart", {"batch": ANY, "height": SizeLimit(2, 2), "width": SizeLimit(2, 2), "tokens": ANY}),
        ("dit", {"batch": ANY}),
    ],
)
def test_limits_are_found_in_the_guards(family: str, limits: dict[str, SizeLimit]) -> None:
    program = captured(family, 0, torch.float32)
    sizes = input_sizes(program)
    assert sizes.limits == limits
    first = next(iter(sizes.inputs.values()))
    assert first[2:] == ((8, 8) if family == "dit" else ("height", "width"))
    assert json.loads(sizes.to_json()) == sizes.to_dict()
    if family == "dit":
        assert str(sizes) == "batch: at least 1; hidden_states batch×4×8×8"


@pytest.mark.slow
def test_pictures_inside_the_network_are_parts_of_the_input() -> None:
    program = capture_denoiser(unet_sd15(0), height=8, width=12, tokens=5, residuals=("controlnet",))
    sizes = input_sizes(program)
    assert sizes.inputs["mid_block_additional_residual"][2:] == ("ceil(height/2)", "ceil(width/2)")
    assert sizes.inputs["down_block_additional_residuals_0"][2:] == ("height", "width")
    assert sizes.limits == {"batch": ANY, "height": ANY, "width": ANY, "tokens": ANY}
    # inputs to compare on are uneven too, in every picture
    _, uneven, _ = untraced_inputs(program)
    assert [tuple(uneven[at].shape[2:]) for at in (0, -1)] == [(15, 7), (8, 4)]


@pytest.mark.slow
def test_a_file_for_one_size_says_it() -> None:
    sizes = fixed_sizes(captured("unet_unconditional", 0, torch.float32))
    assert sizes.to_dict() == {"inputs": {"sample": [2, 3, 8, 8], "timestep": [2]}, "sizes": {}}
    assert str(sizes) == "sample 2×3×8×8"
