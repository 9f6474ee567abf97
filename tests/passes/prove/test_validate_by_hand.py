"""Validation of a program whose input comes by name, and what the report says of each input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from passes.errors import ValidationError
from passes.plan.fingerprint import fingerprint
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.prove.validate import describe_inputs, relative_error, validate
from passes.prove.verify import verify
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites

ATEN = torch.ops.aten


def program() -> Program:
    """Give down(relu(up(x))) · gain, where the gain comes by name."""
    graph = fx.Graph()
    x, gain = graph.placeholder("x"), graph.placeholder("gain")
    up = graph.call_module("up", (x,))
    hidden = graph.call_function(ATEN.relu.default, (up,))
    down = graph.call_module("down", (hidden,))
    result = graph.call_function(ATEN.mul.Tensor, (down, gain))
    graph.output(result)
    shapes = {x: (2, 3, 2), gain: (2, 1, 1), up: (2, 3, 4), hidden: (2, 3, 4), down: (2, 3, 2), result: (2, 3, 2)}
    mode = FakeTensorMode()
    for node, shape in shapes.items():
        node.meta["val"] = mode.from_tensor(torch.zeros(shape, dtype=torch.float64))
    torch.manual_seed(0)
    owner = nn.Module()
    owner.up, owner.down = nn.Linear(2, 4).double(), nn.Linear(4, 2).double()
    made = Program(fx.GraphModule(owner, graph), (drawn(2, 3, 2),), {"gain": drawn(2, 1, 1)}, timestep=None)
    verify(made)
    return made


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plan_of(made: Program) -> SlimPlan:
    sites = find_sites(made)
    (site,) = sites
    return SlimPlan(fingerprint(made, sites), {site.name: SitePlan("feed_forward", 4, (0, 2))})


INPUTS = [((drawn(2, 3, 2, seed=seed),), {"gain": drawn(2, 1, 1, seed=9 - seed)}) for seed in range(3)]


def test_inputs_by_name_reach_both_programs() -> None:
    made = program()
    plan = plan_of(made)
    report = validate(made, plan, rewrite(made, plan), INPUTS)
    assert report.relative_error <= 1e-15
    assert report.inputs == ("[2, 3, 2], [2, 1, 1]",) * 3
    assert (len(report.errors), report.dtype, report.tolerance) == (3, "float64", 1e-12)


@torch.no_grad()
def test_the_worst_input_is_named_and_every_error_is_told() -> None:
    made = program()
    plan = plan_of(made)
    slim = rewrite(made, plan)
    slim.module("down").bias = nn.Parameter(slim.module("down").bias + 1e-3)
    dense = [made(*args, **kwargs) for args, kwargs in INPUTS]
    assert all(bool(each.any()) for each in dense)
    report = validate(made, plan, slim, INPUTS, tolerance=1.0)
    masked_errors = list(report.errors)
    assert report.relative_error == max(masked_errors) > 1e-5
    assert len(set(masked_errors)) == 3
    single = [validate(made, plan, slim, [each], tolerance=1.0).relative_error for each in INPUTS]
    assert masked_errors == single
    with pytest.raises(ValidationError, match=f"by {max(masked_errors):.2e}"):
        validate(made, plan, slim, INPUTS)
    # Exactly the tolerance is within it.
    validate(made, plan, slim, INPUTS, tolerance=max(masked_errors))
    with pytest.raises(ValidationError, match="nothing to validate on"):
        validate(made, plan, slim, [])


def test_errors_by_hand() -> None:
    reference = torch.tensor([3.0, 4.0])
    assert relative_error(torch.tensor([3.0, 4.0]), reference) == 0
    assert relative_error(torch.tensor([3.0, 9.0]), reference) == 1
    assert relative_error(torch.tensor([0.0, 2.0]), torch.zeros(2)) == 2
    # In float64: half precision would lose the difference.
    ones = torch.ones(4, dtype=torch.bfloat16)
    assert relative_error(ones * 1.0078125, ones) == pytest.approx(0.0078125)
    with pytest.raises(ValidationError, match=r"\(2,\), not \(1, 2\), on there"):
        relative_error(reference, reference.unsqueeze(0), "there")
    for result, other, whose in (
        (torch.tensor([float("nan")]), torch.ones(1), "slim"),
        (torch.ones(1), torch.tensor([float("inf")]), "masked dense"),
    ):
        with pytest.raises(ValidationError, match=f"the {whose} program's prediction is not finite on here"):
            relative_error(result, other, "here")


def test_inputs_are_described_by_their_tensors() -> None:
    assert describe_inputs((torch.zeros(2, 3), 5), {"more": {"a": torch.zeros(())}}) == "[2, 3], []"
