"""How an error reaches the prediction, on a program of which every number can be written down."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, fx, nn

from passes.analyze.sensitivity import Prober, sensitivity_from
from passes.errors import CalibrationError
from passes.plan.slim_plan import SitePlan
from passes.program.program import Program
from passes.sites.site import Site
from tests.sites import linear_site
from tests.toy_block import samples, site_of, toy

PROGRAM, SITES = toy()
FEED_FORWARD = site_of(SITES, "feed_forward")
PROBES = tuple((samples(rows, seed), torch.tensor(float(90 * seed))) for seed, rows in ((1, 4), (2, 2), (3, 3)))


@torch.no_grad()
def by_hand(weight: Tensor | None = None, bias: Tensor | None = None) -> float:
    """Give the relative squared error over all probes, by writing weights over and running the program."""
    down = PROGRAM.module(FEED_FORWARD.tap)
    dense = [PROGRAM(x, t) for x, t in PROBES]
    before = down.weight.clone(), down.bias.clone()
    try:
        if weight is not None:
            down.weight.copy_(weight)
        if bias is not None:
            down.bias.copy_(bias)
        changed = [PROGRAM(x, t) for x, t in PROBES]
    finally:
        down.weight.copy_(before[0])
        down.bias.copy_(before[1])
    lost = sum(float((one - other).square().sum()) for one, other in zip(changed, dense, strict=True))
    return lost / sum(float(each.square().sum()) for each in dense)


def test_removed_units_without_new_weights_are_zeros() -> None:
    prober = Prober(PROGRAM, PROBES)
    kept = (0, 3, 4, 9)
    weight = PROGRAM.module(FEED_FORWARD.tap).weight.detach().clone()
    weight[:, [unit for unit in range(FEED_FORWARD.units) if unit not in kept]] = 0
    entry = SitePlan("feed_forward", FEED_FORWARD.units, kept)
    assert prober.relative_mse([(FEED_FORWARD, entry, {})]) == pytest.approx(by_hand(weight), rel=1e-9)
    # A new bias alone doesn't bring the removed columns back.
    bias = torch.linspace(-1, 1, len(weight), dtype=torch.float64)
    updates = {f"{FEED_FORWARD.tap}.bias": bias}
    assert prober.relative_mse([(FEED_FORWARD, entry, updates)]) == pytest.approx(by_hand(weight, bias), rel=1e-9)


def test_a_site_that_keeps_all_changes_nothing() -> None:
    prober = Prober(PROGRAM, PROBES)
    entry = SitePlan("feed_forward", FEED_FORWARD.units, tuple(range(FEED_FORWARD.units)))
    assert prober.relative_mse([(FEED_FORWARD, entry, {})]) == 0
    assert prober.relative_mse([]) == 0
    # Nor does measuring leave anything behind.
    assert by_hand() == 0


def by_name() -> tuple[Program, Site]:
    """Give down(relu(up(x))) · gain, where the gain comes by name."""
    graph = fx.Graph()
    x, gain = graph.placeholder("x"), graph.placeholder("gain")
    up = graph.call_module("up", (x,))
    hidden = graph.call_function(torch.ops.aten.relu.default, (up,))
    down = graph.call_module("down", (hidden,))
    graph.output(graph.call_function(torch.ops.aten.mul.Tensor, (down, gain)))
    shapes = {x: (1, 1, 2), gain: (1, 1, 1), up: (1, 1, 2), hidden: (1, 1, 2), down: (1, 1, 1)}
    for node, shape in shapes.items():
        node.meta["val"] = torch.empty(shape, device="meta")
    owner = nn.Module()
    owner.up, owner.down = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        owner.up.weight.copy_(torch.eye(2))
        owner.down.weight.copy_(torch.tensor([[3.0, 4.0]]))
    program = Program(
        fx.GraphModule(owner, graph), (torch.zeros(1, 1, 2),), {"gain": torch.zeros(1, 1, 1)}, timestep=None
    )
    return program, linear_site("down", "feed_forward", 2, 1, ("up",), "down")


def test_inputs_by_name_are_given_by_name() -> None:
    program, site = by_name()
    probes = (
        (torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[2.0]]])),
        (torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[-1.0]]])),
    )
    prober = Prober(program, probes)
    # Dense: 2·7 = 14 and -6. Without the second unit: 2·3 = 6 and -6.
    seen = prober.relative_mse([(site, SitePlan("feed_forward", 2, (0,)), {})])
    assert seen == pytest.approx(8**2 / (14**2 + 6**2), rel=1e-6)


def test_without_probes_nothing_can_be_measured() -> None:
    program, _ = by_name()
    with pytest.raises(CalibrationError):
        Prober(program, ())


def test_ratios_are_interpolated_by_logarithm() -> None:
    found = sensitivity_from([(4e-2, 8e-2), (1e-2, 1e-2), (1e-3, 0.0)])
    assert found.site_errors == (1e-2, 4e-2)
    assert found.ratios == pytest.approx((1, 2))
    # Half way between by logarithm lies the geometric mean of the ratios; beyond the ends they stay.
    assert found.predict(2e-2) == pytest.approx(2e-2 * math.sqrt(2))
    assert found.predict(1e-4) == pytest.approx(1e-4)
    assert found.predict(1.0) == pytest.approx(2.0)
    assert found.predict(1e-2) == pytest.approx(1e-2)
    assert found.predict(0.0) == 0
    assert found.predict(-1.0) == 0
    three = sensitivity_from([(1e-2, 1e-2), (1e-1, 1e-2), (1.0, 10.0)])
    assert three.predict(10**-0.5) == pytest.approx(10**-0.5 * 1.0)
    nothing = sensitivity_from([(0.0, 0.0)])
    assert nothing.predict(0.5) == 0
