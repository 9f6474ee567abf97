"""PT2E on a lowered program: integers in the graph, any batch, and runtimes compute what the graph says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from passes.errors import ExportError, UsageError
from passes.program.inputs import call_flat
from passes.program.program import Program
from passes.rewrite.rewrite import rewrite
from slimdiff_fx.denoisers.families import capture_denoiser
from slimdiff_fx.export.parity import random_inputs, untraced_inputs
from slimdiff_fx.quantize.export_int8 import export_pt2e_int8
from slimdiff_fx.quantize.int8_report import measure_int8
from slimdiff_fx.quantize.pt2e import quantize_pt2e, x86_quantizer
from tests.plans import random_plan
from tests.toy_denoisers import unet_sd15
from tests.toy_picture import capture_picture

pytest.importorskip("torchao")
Calls = list[list[Tensor]]


@pytest.fixture(scope="module")
def program() -> Program:
    return capture_picture()


@pytest.fixture(scope="module")
def calls(program: Program) -> Calls:
    return random_inputs(program, 4)


@pytest.fixture(scope="module")
def quantized(program: Program, calls: Calls) -> Program:
    return quantize_pt2e(program, calls)


def _run(program: Program, call: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return call_flat(program, call)


def test_weights_are_integers(program: Program, quantized: Program) -> None:
    stored = {name: value for name, value in quantized.graph_module.named_buffers() if value.dtype == torch.int8}
    floats = {name: value for name, value in program.graph_module.named_parameters() if name.endswith("weight")}
    assert sum(value.numel() for value in stored.values()) == sum(value.numel() for value in floats.values())
    assert all(value.dtype == torch.float32 for value in floats.values())


def test_close_to_float_at_any_size(program: Program, quantized: Program) -> None:
    held_out = random_inputs(program, 2, seed=50)
    report = measure_int8(program, lambda call: _run(quantized, call), held_out, runtime="eager", mode="static")
    assert 1e-7 < report.relative_mse < 0.01  # 5e-4 is measured
    for call in untraced_inputs(program):
        assert _run(quantized, call).shape == call[0].shape


@pytest.mark.slow
def test_inductor_computes_the_quantized_graph(program: Program, quantized: Program, calls: Calls) -> None:
    with torch._inductor.config.patch(freezing=True), torch.no_grad():
        compiled = torch.compile(quantized.graph_module, dynamic=False)
        found, expected = compiled(*calls[0]), _run(quantized, calls[0])
    wanted = _run(program, calls[0])
    lost = (found - wanted).square().sum() / wanted.square().sum()
    assert lost < 2 * (expected - wanted).square().sum() / wanted.square().sum()
    assert not torch.equal(found, wanted)


def test_the_archive_holds_the_quantized_graph(program: Program, calls: Calls, tmp_path: Path) -> None:
    held_out = random_inputs(program, 2, seed=50)
    report = export_pt2e_int8(program, "pt2", tmp_path / "toy.pt2", calls, held_out)
    assert report.runtime.startswith("PT2E, torch.export")
    loaded = torch.export.load(tmp_path / "toy.pt2")
    assert any(value.dtype == torch.int8 for value in loaded.state_dict.values())
    with pytest.raises(ExportError, match="calibrate on more samples"):
        export_pt2e_int8(program, "pt2", tmp_path / "other.pt2", calls, held_out, max_error=1e-9)
    assert [file.name for file in tmp_path.iterdir()] == ["toy.pt2"]


def test_seven_bits_of_activations(program: Program, calls: Calls) -> None:
    graph = quantize_pt2e(program, calls, x86_quantizer(reduce_range=True)).graph
    ends = {node.args[4] for node in graph.nodes if "quantize_per_tensor" in str(node.target)}
    assert ends == {127}


def test_nothing_to_calibrate_on(program: Program) -> None:
    with pytest.raises(UsageError, match="nothing to calibrate on"):
        quantize_pt2e(program, [])


@pytest.mark.slow
def test_a_slim_unet(tmp_path: Path) -> None:
    dense = capture_denoiser(unet_sd15(0))
    slim = rewrite(dense, random_plan(dense, 0))
    calls = random_inputs(slim, 4)
    report = export_pt2e_int8(slim, "pt2", tmp_path / "toy.pt2", calls, random_inputs(slim, 2, seed=50))
    assert 1e-7 < report.relative_mse < 0.02
