"""What quantizing costs, summed over calls of unequal size and energy."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from passes.errors import ExportError, UsageError
from passes.program.inputs import call_flat
from slimdiff_fx.quantize.export_int8 import _in_rows
from slimdiff_fx.quantize.int8_report import Int8Report, measure_int8
from tests.toy_block import samples, toy

CALLS = [[samples(size, size) * scale, torch.tensor(100 * size)] for size, scale in ((1, 5.0), (4, 0.2), (2, 1.0))]


def _off(share: float, size: int | None = None):  # type: ignore[no-untyped-def]
    def run(tensors: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            result = call_flat(toy()[0], tensors)
        return result * (1 + share) if size in (None, len(tensors[0])) else result

    return run


def _report(run, **options):  # type: ignore[no-untyped-def]
    return measure_int8(toy()[0], run, CALLS, runtime="toy", mode="static", **options)


@pytest.mark.parametrize("size", [1, 4, 2])
def test_squares_are_summed_over_all_calls_before_they_are_divided(size: int) -> None:
    with torch.no_grad():
        energy = {len(call[0]): float(call_flat(toy()[0], call).square().sum()) for call in CALLS}
    report = _report(_off(0.1, size), path="x")
    assert report.relative_mse == pytest.approx(0.01 * energy[size] / sum(energy.values()), rel=1e-9)
    assert report == Int8Report("toy", "static", report.relative_mse, 0.05, 3, "x")


def test_the_limit_is_a_limit() -> None:
    assert _report(_off(0.2)).relative_mse == pytest.approx(0.04)
    with pytest.raises(ExportError, match=r"is 4\.0e-02, at most 4e-02 is allowed"):
        _report(_off(0.2), max_error=0.0399)
    with pytest.raises(ExportError, match="aren't finite"):
        _report(_off(float("nan"), 2))
    with pytest.raises(UsageError, match="nothing to compare on"):
        measure_int8(toy()[0], _off(0), [], runtime="toy", mode="static")


@pytest.mark.parametrize("bad", ["shape", "nan"])
def test_sizes_that_were_not_drawn_are_run_too(bad: str) -> None:
    drawn = {len(call[0]) for call in CALLS}
    seen = []

    def run(tensors: Sequence[Tensor]) -> Tensor:
        result = _off(0)(tensors)
        seen.append(len(tensors[0]))
        if len(tensors[0]) in drawn and len(seen) <= len(CALLS):
            return result
        return result[:0] if bad == "shape" else result * torch.nan

    with pytest.raises(ExportError, match="baked" if bad == "shape" else "finite"):
        _report(run)
    seen.clear()
    assert _report(run, sizes=False).calls == 3


def test_calls_are_split_with_guidances_halves_side_by_side() -> None:
    # Rows 0...3 have no prompt, 4...7 have one: a row and the one four further belong together.
    call = [torch.arange(8.0), torch.arange(8.0) * 10]
    parts = _in_rows([call], 2)
    assert [[each.tolist() for each in part] for part in parts] == [
        [[row, row + 4.0], [10.0 * row, 10 * (row + 4.0)]] for row in range(4)
    ]
    assert [part[0].tolist() for part in _in_rows([[torch.arange(2.0)]], 2)] == [[0, 1]]
    assert [part[0].tolist() for part in _in_rows([[torch.arange(3.0)], [torch.arange(6.0)]], 3)] == [
        [0, 1, 2],
        [0, 2, 4],
        [1, 3, 5],
    ]
