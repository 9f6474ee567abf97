"""Second moments while they grow, against sums over all rows at once; every sum has counts and weights of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import passes.calibrate.moment_sums
from passes.calibrate.moment_sums import MomentSums
from passes.calibrate.moments import COUNT, FIRST, KEY, KEY_COUNT, KEY_FIRST, QUERY, SECOND, moment_shapes
from passes.sites.site import Site
from tests.sites import linear_site

HEADS = linear_site("heads", "attention", 2, 3, ("q", "k", "v"), "out")
NEURONS = linear_site("neurons", "feed_forward", 5, 1, ("up",), "down")
SHAPES = {site.name: moment_shapes(site) for site in (HEADS, NEURONS)}


def rows_of(site: Site, queries: int, keys: int, seed: int) -> dict[str, Tensor]:
    """Draw rows with unequal weights; an attention has other numbers of keys than of queries."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    rows = {FIRST: draw(queries, site.width), COUNT: draw(queries).abs()}
    if site.kind == "attention":
        rows |= {QUERY: draw(queries, site.units, site.unit_width), KEY: draw(keys, site.units, site.unit_width)}
        rows[KEY_COUNT] = draw(keys).abs()
    return rows


def by_hand(site: Site, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Add up row by row."""
    sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in moment_shapes(site).items()}
    for part in parts:
        for row, weight in zip(part[FIRST], part[COUNT], strict=True):
            sums[COUNT] += weight
            sums[FIRST] += weight * row
            sums[SECOND] += weight * torch.outer(row, row)
        for query, weight in zip(part.get(QUERY, ()), part[COUNT], strict=False):
            sums[QUERY] += weight * torch.stack([torch.outer(head, head) for head in query])
        for key, weight in zip(part.get(KEY, ()), part.get(KEY_COUNT, ()), strict=True):
            sums[KEY_COUNT] += weight
            sums[KEY_FIRST] += weight * key
            sums[KEY] += weight * torch.stack([torch.outer(head, head) for head in key])
    return sums


def assert_same(found: Any, expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-12, atol=1e-12)


PARTS = [rows_of(HEADS, 4, 7, 0), rows_of(HEADS, 2, 7, 1), rows_of(HEADS, 6, 1, 2)]
ODD = [True, False, True]


@pytest.mark.parametrize("limit", [0, 1500, 2**29])
def test_sums_and_their_odd_half_are_those_of_all_rows(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes.calibrate.moment_sums, "WAITING_BYTES", limit)
    sums = MomentSums(SHAPES)
    others = [rows_of(NEURONS, count, 0, count) for count in (3, 5)]
    for part, odd in zip(PARTS, ODD, strict=True):
        sums.add("heads", part, odd=odd)
    for part in others:
        sums.add("neurons", part, odd=True)
    sums.settle()
    assert_same(sums.sums["heads"], by_hand(HEADS, PARTS))
    assert_same(sums.halves["heads"], by_hand(HEADS, [PARTS[0], PARTS[2]]))
    assert_same(sums.sums["neurons"], by_hand(NEURONS, others))
    assert sums.halves.keys() == {"heads"}


def test_rows_wait_until_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    (part,) = [rows_of(NEURONS, 3, 0, 3)]
    size = 8 * (3 * 5 + 3)
    # Two of them fit, the third is too much.
    monkeypatch.setattr(passes.calibrate.moment_sums, "WAITING_BYTES", 2 * size)
    sums = MomentSums({"neurons": moment_shapes(NEURONS)})
    for _ in range(2):
        sums.add("neurons", part, odd=False)
        assert (sums.whole, float(sums.sums["neurons"][COUNT])) == (True, 0)
    sums.add("neurons", part, odd=False)
    assert not sums.whole
    assert_same(sums.sums["neurons"], by_hand(NEURONS, [part] * 3))
    # What was added no longer waits: it isn't added again, nor counted towards the limit.
    sums.add("neurons", part, odd=False)
    assert_same(sums.sums["neurons"], by_hand(NEURONS, [part] * 3))
    sums.settle()
    assert sums.whole
    assert_same(sums.sums["neurons"], by_hand(NEURONS, [part] * 4))
    sums.settle()
    assert_same(sums.sums["neurons"], by_hand(NEURONS, [part] * 4))


def test_rows_that_wait_can_be_forgotten() -> None:
    sums = MomentSums(SHAPES)
    sums.add("heads", PARTS[0], odd=True)
    sums.settle()
    sums.add("heads", PARTS[1], odd=True)
    sums.forget_waiting()
    sums.settle()
    assert_same(sums.sums["heads"], by_hand(HEADS, PARTS[:1]))
    assert_same(sums.halves["heads"], by_hand(HEADS, PARTS[:1]))


def test_rows_may_be_reused_by_who_gave_them_under_inference() -> None:
    with torch.inference_mode():
        part = rows_of(NEURONS, 3, 0, 3)
    assert part[FIRST].is_inference()
    expected = by_hand(NEURONS, [{name: values.clone() for name, values in part.items()}])
    sums = MomentSums(SHAPES)
    sums.add("neurons", part, odd=False)
    with torch.inference_mode():
        part[FIRST].zero_()
    sums.settle()
    assert_same(sums.sums["neurons"], expected)
    assert not sums.sums["neurons"][SECOND].is_inference()


@pytest.mark.parametrize("before", [True, False])
def test_writing_replaces_all_and_forgets_what_waits(before: bool) -> None:
    sums, other = MomentSums(SHAPES), MomentSums(SHAPES)
    other.add("heads", PARTS[1], odd=True)
    other.add("heads", PARTS[2], odd=False)
    other.settle()
    if before:
        sums.add("heads", PARTS[0], odd=True)
        sums.settle()
    sums.add("heads", PARTS[0], odd=True)
    sums.write(other.sums, other.halves)
    sums.settle()
    assert_same(sums.sums["heads"], by_hand(HEADS, PARTS[1:]))
    assert_same(sums.halves["heads"], by_hand(HEADS, PARTS[1:2]))
    # A copy: what is added from now on isn't the other's.
    sums.add("heads", PARTS[0], odd=True)
    sums.settle()
    assert_same(other.sums["heads"], by_hand(HEADS, PARTS[1:]))
    assert_same(sums.sums["heads"], by_hand(HEADS, [*PARTS[1:], PARTS[0]]))


def test_clearing_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes.calibrate.moment_sums, "WAITING_BYTES", 0)
    sums = MomentSums(SHAPES)
    sums.add("heads", PARTS[0], odd=True)
    assert not sums.whole
    monkeypatch.setattr(passes.calibrate.moment_sums, "WAITING_BYTES", 2**29)
    sums.add("heads", PARTS[1], odd=True)
    sums.clear()
    assert sums.whole
    sums.settle()
    for own in (sums.sums, sums.halves):
        assert all(not bool(values.any()) for each in own.values() for values in each.values())


def test_sums_live_where_the_storage_puts_them() -> None:
    made: list[Tensor] = []

    def storage(shape: tuple[int, ...]) -> Tensor:
        made.append(torch.zeros(shape, dtype=torch.float64))
        return made[-1]

    sums = MomentSums({"heads": moment_shapes(HEADS)}, storage)
    assert [tuple(each.shape) for each in made] == list(moment_shapes(HEADS).values())
    sums.add("heads", PARTS[0], odd=True)
    sums.settle()
    # The very tensors that were made, and the half beside them in memory.
    assert {id(values) for values in sums.sums["heads"].values()} == {id(each) for each in made}
    assert_same(dict(zip(moment_shapes(HEADS), made, strict=True)), by_hand(HEADS, PARTS[:1]))
    assert_same(sums.halves["heads"], by_hand(HEADS, PARTS[:1]))
    assert sums.sums["heads"][COUNT].dtype == torch.float64
