"""Both kinds of observers in one graph see, bit for bit, what each sees alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx

from passes.calibrate.calibrate import Batch, calibrate
from passes.calibrate.instrument import instrument
from passes.program.inputs import call_flat, unflatten
from passes.program.program import Program
from passes.sites.find import find_sites
from slimdiff_fx.denoisers.families import capture_denoiser
from slimdiff_fx.export.parity import random_inputs
from slimdiff_fx.quantize.one_walk import flatten_modules, prepare_both
from slimdiff_fx.quantize.pt2e import insert_pt2e_observers, quantize_pt2e
from tests.toy_block import build, capture_block
from tests.toy_denoisers import unet_sd15

pytest.importorskip("torchao")


@pytest.fixture(scope="module", params=["block", pytest.param("unet", marks=pytest.mark.slow)])
def program(request: pytest.FixtureRequest) -> Program:
    return capture_block(build(dtype=torch.float32)) if request.param == "block" else capture_denoiser(unet_sd15(0))


@pytest.fixture(scope="module")
def batches(program: Program) -> list[Batch]:
    return [unflatten(program, case) for case in random_inputs(program, 3)]


def _ranges(prepared: fx.GraphModule) -> dict[str, Tensor]:
    return {name: value for name, value in prepared.state_dict().items() if name.startswith("activation_post_process")}


@pytest.mark.slow
def test_statistics_are_those_of_separate_runs(program: Program, batches: list[Batch]) -> None:
    sites = find_sites(program)
    walk = prepare_both(program, sites, moments=True)
    together = calibrate(walk.instrumented, batches)
    alone = calibrate(instrument(program, sites, moments=True), batches)
    assert together.calls == alone.calls == len(batches)
    assert together.fingerprint == alone.fingerprint
    for name, sums in alone.sites.items():
        for key, value in sums.items():
            torch.testing.assert_close(together.sites[name][key], value, rtol=0, atol=0)
    for name, moments in alone.moments.items():
        for key, value in moments.items():
            torch.testing.assert_close(together.moments[name][key], value, rtol=0, atol=0)

    prepared = insert_pt2e_observers(flatten_modules(program))
    with torch.no_grad():
        for args, kwargs in batches:
            prepared(*args, **kwargs)
    ranges = _ranges(prepared)
    assert len(ranges) >= 8
    assert ranges.keys() == _ranges(walk.prepared).keys()
    for name, value in _ranges(walk.prepared).items():
        torch.testing.assert_close(value, ranges[name], rtol=0, atol=0)


@pytest.mark.slow
def test_the_walk_quantizes_the_dense_program(program: Program, batches: list[Batch]) -> None:
    walk = prepare_both(program, find_sites(program))
    calibrate(walk.instrumented, batches)
    calls = random_inputs(program, 3)
    found, wanted = walk.quantized(), quantize_pt2e(program, calls)
    assert _weights(found) == _weights(wanted) == _weights_of(program)
    # Lowering lays inputs out anew, so some activations are matched to other patterns: errors are compared.
    assert 0.25 < _error(program, found, calls) / _error(program, wanted, calls) < 2
    walk.instrumented(*batches[0][0], **batches[0][1])
    assert walk.instrumented.statistics().calls == len(batches) + 1


def _weights(program: Program) -> int:
    return sum("dequantize_per_channel" in str(node.target) for node in program.graph.nodes)


def _weights_of(program: Program) -> int:
    used = {str(node.target) for node in program.graph.nodes if node.op == "call_module"}
    modules = [program.module(path) for path in used]
    return sum(isinstance(module, torch.nn.Linear | torch.nn.Conv2d) for module in modules)


def _error(program: Program, quantized: Program, calls: list[list[Tensor]]) -> float:
    lost = energy = 0.0
    with torch.no_grad():
        for call in calls:
            expected = call_flat(program, call)
            lost += float((call_flat(quantized, call) - expected).square().sum())
            energy += float(expected.square().sum())
    return lost / energy


def test_flattened_modules_compute_the_same(program: Program) -> None:
    flat = flatten_modules(program)
    kinds = {type(flat.get_submodule(str(node.target))) for node in flat.graph.nodes if node.op == "call_module"}
    assert not kinds & {torch.nn.Linear, torch.nn.Conv2d}
    for case in random_inputs(program, 2):
        args, kwargs = unflatten(program, case)
        torch.testing.assert_close(flat(*args, **kwargs), program(*args, **kwargs), rtol=0, atol=0)
