"""What a comparison says of its cases, by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from passes.errors import ExportError
from passes.program.inputs import call_flat, unflatten
from slimdiff_fx.export.parity import ParityCase, ParityReport, measure_parity
from tests.toy_block import samples, toy

SIZES = (1, 2, 3)


def _cases() -> list[list[Tensor]]:
    return [[samples(size), torch.tensor(10 * size)] for size in SIZES]


def _off(shares: dict[int, float]):  # type: ignore[no-untyped-def]
    """A runtime whose largest value is off by a share of it, by batch size."""
    program = toy()[0]

    def run(tensors: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            result = call_flat(program, tensors).clone()
        flat = result.view(-1)
        largest = flat.abs().argmax()
        flat[largest] *= 1 + shares[len(tensors[0])]
        return result

    return run


@pytest.mark.parametrize("worst", SIZES)
def test_the_worst_case_is_reported_wherever_it_stands(worst: int) -> None:
    shares = {size: 1e-3 if size == worst else size * 1e-6 for size in SIZES}
    report = measure_parity(
        toy()[0], _off(shares), _cases(), runtime="toy", tolerance=1e-2, dtype=torch.float64, path="x"
    )
    with torch.no_grad():
        largest = [float(call_flat(toy()[0], case).abs().max()) for case in _cases()]
    relative = [shares[size] for size in SIZES]
    assert [case.relative for case in report.cases] == pytest.approx(relative, rel=1e-6)
    absolute = [share * value for share, value in zip(relative, largest, strict=True)]
    assert [case.absolute for case in report.cases] == pytest.approx(absolute, rel=1e-6)
    assert report.relative == pytest.approx(1e-3, rel=1e-6)
    assert report.absolute == pytest.approx(max(absolute), rel=1e-6)
    written = report.to_dict()
    assert (written["relative"], written["absolute"]) == (report.relative, report.absolute)
    assert [case.timesteps for case in report.cases] == [(10.0,), (20.0,), (30.0,)]
    assert [case.shapes["sample"] for case in report.cases] == [(size, 16, 12) for size in SIZES]
    assert (report.runtime, report.dtype, report.path) == ("toy", "float64", "x")


def test_relative_and_absolute_may_be_worst_in_different_cases() -> None:
    cases = tuple(ParityCase({}, (), absolute, relative) for absolute, relative in ((1.0, 0.1), (9.0, 0.3), (2.0, 0.4)))
    report = ParityReport("toy", "float32", 1.0, cases)
    assert (report.absolute, report.relative) == (9.0, 0.4)


@pytest.mark.parametrize("worst", SIZES)
@pytest.mark.parametrize("share", [2e-3, float("nan"), float("inf")])
def test_one_case_out_of_tolerance_is_enough(worst: int, share: float) -> None:
    shares = {size: share if size == worst else 0.0 for size in SIZES}
    with pytest.raises(ExportError, match=rf"for inputs .*\({worst}, 16, 12\)"):
        measure_parity(toy()[0], _off(shares), _cases(), runtime="toy", tolerance=1e-3, dtype=torch.float64)


def test_another_shape_is_refused() -> None:
    def run(tensors: Sequence[Tensor]) -> Tensor:
        return call_flat(toy()[0], tensors)[:1]

    with pytest.raises(ExportError, match=r"\(1, 16, 12\) where the program returns \(2, 16, 12\)"):
        measure_parity(toy()[0], run, _cases(), runtime="toy", tolerance=1.0, dtype=torch.float64)


def test_tensors_go_back_to_their_places() -> None:
    args, kwargs = unflatten(toy()[0], _cases()[2])
    assert [tuple(each.shape) for each in args] == [(3, 16, 12), ()]
    assert kwargs == {}
