"""What a site's error does to the prediction: measured as the slim program has it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from passes.analyze.sensitivity import Prober, Sensitivity, _joined, sensitivity_from
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.errors import CalibrationError
from passes.plan.updates import is_changed
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from tests.families import of_families
from tests.plans import captured, plan_of, updated_plan
from tests.toy_block import samples, toy


@of_families(["unet_sd15", "unet_unconditional", "pixart", "dit"], ["unet_sd15", "unet_unconditional"])
def test_the_measured_error_is_that_of_the_slim_program(family: str) -> None:
    program = captured(family)
    plan = updated_plan(program, 3)
    leaves = [torch.as_tensor(leaf) for leaf in torch.utils._pytree.tree_leaves((program.args, dict(program.kwargs)))]
    sites = find_sites(program)
    changes = [(site, plan.sites[site.name], plan.updates) for site in sites]
    found = Prober(program, [leaves]).relative_mse([each for each in changes if is_changed(*each)])
    with torch.no_grad():
        dense, slim = (each(*program.args, **program.kwargs) for each in (program, rewrite(program, plan)))
    expected = float((slim - dense).square().sum() / dense.square().sum())
    assert found == pytest.approx(expected, rel=1e-9)


def test_probes_may_have_several_batches_and_sizes() -> None:
    program, sites = toy()
    watched = instrument(program, sites, moments=True)
    statistics = calibrate(watched, [((samples(size, size), torch.tensor(100 * size)), {}) for size in (1, 2, 3, 3)])
    assert Prober(program, statistics.probes).relative_mse([]) == 0


def test_inputs_of_another_program_are_refused() -> None:
    program, _ = toy()
    with pytest.raises(CalibrationError, match="kept no inputs"):
        Prober(program, [])
    with pytest.raises(CalibrationError, match="of another program"):
        Prober(program, [(torch.ones(1),)])


def test_a_dense_prediction_of_zero_is_refused() -> None:
    program, _ = toy()
    bad: tuple[Tensor, ...] = (torch.full((1, 16, 12), torch.nan, dtype=torch.float64), torch.tensor(3))
    with pytest.raises(CalibrationError, match="not finite"):
        Prober(program, [bad])


def test_ratios_are_interpolated_by_logarithm_and_never_extrapolated() -> None:
    found = sensitivity_from([(1.0, 2.0), (100.0, 800.0)])
    assert found.ratios == pytest.approx((2.0, 8.0))
    assert found.predict(10.0) == pytest.approx(10 * 4.0)
    assert found.predict(1e-3) == pytest.approx(2e-3)
    assert found.predict(1e4) == pytest.approx(8e4)
    assert found.predict(0.0) == 0


def test_what_moves_the_prediction_is_not_free_where_its_own_error_is_nothing() -> None:
    found = sensitivity_from([(0.0, 1e-3), (0.0, 5e-3), (1.0, 2e-3), (100.0, 8.0)])
    assert found.unseen == 5e-3
    assert found.predict(0.0) == found.predict(1e-9) == found.predict(1.0) == 5e-3
    assert found.predict(100.0) == pytest.approx(8.0)


def test_of_two_measurements_at_one_own_error_the_larger_counts() -> None:
    assert sensitivity_from([(2.0, 8.0), (2.0, 6.0)]) == sensitivity_from([(2.0, 6.0), (2.0, 8.0)])
    assert sensitivity_from([(2.0, 8.0), (2.0, 6.0)]).predict(2.0) == pytest.approx(8.0)


@pytest.mark.parametrize("seen", [math.nan, math.inf])
def test_what_makes_the_prediction_overflow_is_lost_and_not_free(seen: float) -> None:
    found = sensitivity_from([(1e-4, 2e-4), (1.0, seen)])
    assert found.predict(1.0) == pytest.approx(1e12)
    assert found.predict(1e-4) == pytest.approx(2e-4)
    assert sensitivity_from([(1.0, seen)]).predict(1e-3) > 1e6
    assert sensitivity_from([(0.0, seen)]).unseen == 1e12


def test_a_site_that_reaches_nothing_predicts_nothing() -> None:
    assert sensitivity_from([(0.0, 0.0), (1.0, 0.0)]) == Sensitivity((), ())
    assert Sensitivity((), ()).predict(3.0) == 0


@pytest.mark.parametrize("sizes", [[4] * 10, [4] * 8, [3] * 11, [1, 4, 2, 4, 40], [33], [31], [70, 3]])
def test_every_row_of_every_probe_counts(sizes: list[int]) -> None:
    program, _ = toy(each=True)
    plan = updated_plan(program, 1)
    changes = [(site, plan.sites[site.name], plan.updates) for site in find_sites(program)]
    slim = rewrite(program, plan)
    # Later probes are larger: one that is left out would show.
    probes = [
        (
            samples(size, number) * (1 + number),
            torch.randint(1000, (size,), generator=torch.Generator().manual_seed(number)),
        )
        for number, size in enumerate(sizes)
    ]
    lost = energy = 0.0
    with torch.no_grad():
        for sample, timestep in probes:
            for row in range(len(sample)):
                dense, found = (each(sample[row : row + 1], timestep[row : row + 1]) for each in (program, slim))
                lost += float((found - dense).square().sum())
                energy += float(dense.square().sum())
    found_error = Prober(program, probes).relative_mse([each for each in changes if is_changed(*each)])
    assert found_error == pytest.approx(lost / energy, rel=1e-9)


def test_a_unit_that_goes_without_new_weights_is_left_out_of_the_prediction() -> None:
    program, sites = toy(each=True)
    probes = [(samples(5, number), torch.tensor([3, 900, 40, 500, 7])) for number in range(9)]
    for site in sites:
        plan = plan_of(program, {site.name: (1,)})
        slim = rewrite(program, plan)
        with torch.no_grad():
            pairs = [(program(*probe), slim(*probe)) for probe in probes]
        lost, energy = (
            sum(float(each.square().sum()) for each in part)
            for part in ([slim - dense for dense, slim in pairs], [dense for dense, _ in pairs])
        )
        found = Prober(program, probes).relative_mse([(site, plan.sites[site.name], {})])
        assert found == pytest.approx(lost / energy, rel=1e-9)


def test_between_two_points_the_nearer_one_counts_more() -> None:
    found = sensitivity_from([(100.0, 800.0), (1.0, 2.0), (10_000.0, 10_000.0)])  # in any order; ratios 2, 8 and 1
    assert found.site_errors == (1.0, 100.0, 10_000.0)
    assert found.predict(10**0.5) == pytest.approx(10**0.5 * 2 * 4**0.25)  # a quarter of the way, by logarithm
    assert found.predict(10**1.5) == pytest.approx(10**1.5 * 2 * 4**0.75)
    assert found.predict(10**2.5) == pytest.approx(10**2.5 * 8 * 8**-0.25)
    assert found.predict(100.0) == pytest.approx(800.0)


def test_only_probes_whose_tensors_all_have_rows_are_joined() -> None:
    rows = [(torch.full((size, 2), float(size)), torch.full((size,), float(size))) for size in (4, 3, 30)]
    first, second = _joined(rows)
    assert [len(leaf) for leaf in (*first, *second)] == [32, 32, 5, 5]
    assert torch.cat([first[1], second[1]]).tolist() == [4.0] * 4 + [3.0] * 3 + [30.0] * 30
    for apart in (torch.ones(3), torch.tensor(1.0)):  # another length than the batch's, and none
        alone = [(torch.ones(4, 2), apart), (torch.ones(4, 2), apart)]
        assert [[leaf.shape for leaf in each] for each in _joined(alone)] == [[leaf.shape for leaf in alone[0]]] * 2
