"""Criteria that know the output: against their definitions."""

from __future__ import annotations

import pytest
import torch

from passes.analyze.criteria import CRITERIA, choose, score
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.moments import covariance
from passes.errors import UsageError
from passes.solve.elimination import leverage_scores
from tests.toy_block import samples, site_of, toy

PROGRAM, SITES = toy()
PARAMETERS = dict(PROGRAM.graph_module.named_parameters())
STATISTICS = calibrate(
    instrument(PROGRAM, SITES, moments=True), [((samples(8, seed), torch.tensor(seed)), {}) for seed in range(4)]
)


@pytest.mark.parametrize("kind", ["attention", "feed_forward"])
def test_contribution_and_fluctuation_are_energies_at_the_output(kind: str) -> None:
    site = site_of(SITES, kind)
    weight = PARAMETERS[f"{site.tap}.weight"].detach()
    for name, centred in (("contribution", False), ("fluctuation", True)):
        matrix = covariance(site, STATISTICS.moments[site.name], centred=centred).matrix
        expected = []
        for unit in range(site.units):
            mine = slice(unit * site.unit_width, (unit + 1) * site.unit_width)
            expected.append(float(torch.trace(weight[:, mine] @ matrix[mine, mine] @ weight[:, mine].T)))
        found = score([site], STATISTICS, name, parameters=PARAMETERS)[site.name]
        assert found.tolist() == pytest.approx(expected)


def test_leverage_of_heads_sums_their_channels() -> None:
    site = site_of(SITES, "attention")
    matrix = covariance(site, STATISTICS.moments[site.name], centred=False)
    found = score([site], STATISTICS, "leverage", parameters=PARAMETERS)[site.name]
    assert found.tolist() == pytest.approx(leverage_scores(matrix).reshape(site.units, -1).sum(1).tolist())


def test_a_unit_that_is_not_read_scores_nothing() -> None:
    site = site_of(SITES, "feed_forward")
    weight = PARAMETERS[f"{site.tap}.weight"].detach().clone()
    weight[:, 3] = 0
    parameters = {**PARAMETERS, f"{site.tap}.weight": torch.nn.Parameter(weight)}
    for name in ("contribution", "fluctuation", "obs"):
        found = score([site], STATISTICS, name, parameters=parameters)[site.name]
        assert float(found[3]) == pytest.approx(0, abs=1e-12)
        assert int(found.argmin()) == 3


def test_one_name_is_for_both_kinds() -> None:
    assert choose("obs") == choose(["obs", "obs"]) == {"attention": "obs", "feed_forward": "obs"}
    for names in (["obs", "entropy"], ["entropy", "obs"]):
        with pytest.raises(UsageError, match="both for attention sites"):
            choose(names)
    with pytest.raises(UsageError, match="contribution"):
        choose("magnitude")


@pytest.mark.parametrize("name", [name for name, each in CRITERIA.items() if each.needs == "moments"])
def test_what_they_need_is_asked_for(name: str) -> None:
    with pytest.raises(UsageError, match="parameters"):
        score(SITES, STATISTICS, name)
    bare = calibrate(instrument(PROGRAM, SITES), [((samples(2), torch.tensor(1)), {})])
    with pytest.raises(UsageError, match="second moments"):
        score(SITES, bare, name, parameters=PARAMETERS)
