"""Slicing, mending and sharing. That the result is the right function is for tests/invariants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from passes.errors import CouplingError, PlanError
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.plan.updates import changed_sites
from passes.rewrite.constants import mend_constants
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from passes.sites.site_nodes import Constant
from tests.families import of_families
from tests.plans import captured, plan_of, random_plan
from tests.sites import linear_site

ATEN = torch.ops.aten


def _node_with_constants() -> fx.Node:
    graph = fx.Graph()
    source = graph.placeholder("x")
    return graph.call_function(ATEN.view.default, (source, [2, -1, 4, 8]), {"sizes": [16, 32], "width": 32})


def test_mend_constants_reaches_arguments_and_keywords() -> None:
    node = _node_with_constants()
    site = linear_site("s", "attention", 4, 8, ("q",), "out")
    slim = linear_site("s", "attention", 3, 5, ("q",), "out")
    constants = [
        Constant(node, (1, 2)),
        Constant(node, (1, 3), counts_units=False, counts_width=True),
        Constant(node, ("sizes", 1), counts_width=True),
        Constant(node, ("width",), counts_width=True),
    ]
    mend_constants(site, slim, constants)
    assert list(node.args[1]) == [2, -1, 3, 5]
    assert list(node.kwargs["sizes"]) == [16, 15]
    assert node.kwargs["width"] == 15


@pytest.mark.parametrize("constant", [((1, 3),), (("width",), True, False), ((1, 0),)])
def test_mend_constants_refuses_another_number(constant: tuple[Any, ...]) -> None:
    node, site = _node_with_constants(), linear_site("s", "attention", 4, 8, ("q",), "out")
    with pytest.raises(CouplingError, match="expected"):
        mend_constants(site, site, [Constant(node, *constant)])


@pytest.mark.parametrize("family", ["unet_sd15", "pixart"])
def test_untouched_modules_are_shared_and_touched_ones_new(family: str) -> None:
    program = captured(family)
    plan = random_plan(program, seed=3, touched=0.5)
    changed = changed_sites(program, plan)
    assert 0 < len(changed) < len(plan.sites)
    touched = {path for site, _ in changed for path in site.paths}
    slim = rewrite(program, plan)
    dense_parameters = dict(program.graph_module.named_parameters())
    for name, parameter in slim.graph_module.named_parameters():
        if name.rpartition(".")[0] in touched:
            assert parameter.numel() < dense_parameters[name].numel() or name.endswith("bias")
        else:
            assert parameter is dense_parameters[name]
    assert slim.graph_module.state_dict().keys() == program.graph_module.state_dict().keys()
    assert [s.name for s in find_sites(slim)] == [s.name for s in find_sites(program)]
    assert [s.units for s in find_sites(slim)] == [len(plan.sites[s.name].kept) for s in find_sites(program)]


def test_program_is_left_as_it_was() -> None:
    program = captured("unet_sd15")
    code = program.graph_module.code
    shapes = {node.name: str(node.meta.get("val")) for node in program.graph.nodes}
    weights = {name: (p, p.detach().clone()) for name, p in program.graph_module.named_parameters()}
    rewrite(program, random_plan(program, seed=5))
    assert program.graph_module.code == code
    assert {node.name: str(node.meta.get("val")) for node in program.graph.nodes} == shapes
    for name, parameter in program.graph_module.named_parameters():
        assert parameter is weights[name][0]
        assert torch.equal(parameter, weights[name][1])


@of_families(["unet_sd15", "unet_sd21", "unet_unconditional", "pixart", "dit"])
def test_recorded_shapes_are_the_true_ones(family: str) -> None:
    program = captured(family)
    slim = rewrite(program, random_plan(program, seed=7, touched=1.0))
    expected: dict[str, tuple[int, ...]] = {}

    class Record(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                expected[n.name] = tuple(result.shape)
            return result

    leaves = torch.utils._pytree.tree_leaves((slim.args, dict(slim.kwargs)))
    with torch.no_grad():
        Record(slim.graph_module).run(*leaves, enable_io_processing=False)
    recorded = {}
    for node in slim.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and node.name in expected:
            recorded[node.name] = tuple(s if isinstance(s, int) else _at_capture(s) for s in value.shape)
    assert recorded == {name: expected[name] for name in recorded}
    assert len(recorded) > 50


def _at_capture(size: torch.SymInt) -> int:
    return int(size.node.expr.xreplace(size.node.shape_env.backed_var_to_val))


def test_slim_program_can_be_slimmed_again() -> None:
    program = captured("unet_sd15")
    once = rewrite(program, random_plan(program, seed=1, touched=1.0))
    twice = rewrite(once, random_plan(once, seed=2, touched=1.0))
    assert sum(s.units for s in find_sites(twice)) < sum(s.units for s in find_sites(once))
    with torch.no_grad():
        assert torch.isfinite(twice(*twice.args, **twice.kwargs)).all()


def test_plan_of_another_model_is_refused() -> None:
    program = captured("unet_sd15")
    with pytest.raises(PlanError):
        rewrite(captured("dit", seed=1), random_plan(captured("dit"), seed=0))
    with pytest.raises(PlanError):
        rewrite(program, random_plan(captured("dit"), seed=0))


@pytest.mark.parametrize("change", ["missing", "more units", "other kind"])
def test_misaligned_plan_is_refused(change: str) -> None:
    program = captured("unet_sd15")
    good = plan_of(program)
    entries = dict(good.sites)
    name, entry = next((name, entry) for name, entry in entries.items() if entry.kind == "attention")
    if change == "missing":
        del entries[name]
    elif change == "more units":
        entries[name] = SitePlan("attention", entry.units + 1, entry.kept)
    else:
        entries[name] = SitePlan("feed_forward", entry.units, entry.kept)
    with pytest.raises(PlanError):
        rewrite(program, SlimPlan(good.fingerprint, entries))
