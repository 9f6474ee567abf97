"""A program with its sizes fixed computes what it did, and knows no symbol any more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from passes.errors import UsageError
from passes.program.shapes import specialize
from passes.rewrite.site_program import signature, site_program
from passes.sites.find import find_sites, locate_all
from passes.sites.kinds import kind_of
from slimdiff_fx.latency.inputs import inputs_at
from tests.plans import captured


@pytest.mark.parametrize("family", ["unet_sd15", "pixart", "dit"])
def test_it_computes_the_same_at_sizes_that_were_not_traced(family: str) -> None:
    program = captured(family)
    args, kwargs = inputs_at(program, {"batch": 1, "tokens": 5} if family != "dit" else {"batch": 3})
    fixed = specialize(program, args, kwargs)
    with torch.no_grad():
        expected = program(*args, **kwargs)
        assert torch.equal(fixed(*args, **kwargs), expected)
    for node in fixed.graph.nodes:
        for leaf in tree_leaves(node.meta["val"]):
            sizes = leaf.shape if isinstance(leaf, Tensor) else (leaf,)
            assert all(not isinstance(size, torch.SymInt) for size in sizes)
    output = next(node for node in fixed.graph.nodes if node.op == "output")
    assert tree_leaves(output.meta["val"])[0].shape == expected.shape
    assert find_sites(fixed) == find_sites(program)


def test_the_program_is_left_as_it_was() -> None:
    program = captured("unet_sd15")
    before = [str(node.meta.get("val")) for node in program.graph.nodes]
    fixed = specialize(program)
    assert [str(node.meta.get("val")) for node in program.graph.nodes] == before
    assert fixed.args == program.args
    shared = dict(program.graph_module.named_parameters())
    assert all(shared[name] is value for name, value in fixed.graph_module.named_parameters())


def test_sizes_that_do_not_fit_are_refused() -> None:
    program = captured("unet_sd15")
    with pytest.raises(UsageError, match="inputs"):
        specialize(program, program.args[:1], {})


class Watch(torch.fx.Interpreter):
    """Keeps what every node gives."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, Tensor] = {}

    def run_node(self, node: torch.fx.Node) -> object:
        self.seen[node.name] = result = super().run_node(node)
        return result


@pytest.mark.parametrize("family", ["unet_sd15", "pixart"])
def test_a_site_alone_computes_its_part_of_the_program(family: str) -> None:
    fixed = specialize(captured(family))
    for site, nodes in locate_all(fixed).items():
        alone = site_program(fixed, site, nodes, site.units)
        with torch.no_grad():
            watch = Watch(fixed.graph_module)
            watch.run(*tree_leaves((fixed.args, dict(fixed.kwargs))))
            seen = watch.seen
            entering = []
            for node in alone.graph.nodes:
                if node.op == "placeholder":
                    entering.append(node.meta["val"].shape)
            first = nodes.writers[0].args[0]
            inputs = [seen[first.name]]
            inputs += [seen[str(call.args[0])] for call in nodes.writers[1:] if call.args[0] is not first]
            distinct = list({id(value): value for value in inputs}.values())
            if [value.shape for value in distinct] != entering:
                continue  # a mask or the like enters as well
            found = alone(*distinct)
        assert torch.equal(found, seen[nodes.reader.name]), site.name


def test_a_site_becomes_as_small_as_it_is_asked_to() -> None:
    fixed = specialize(captured("unet_sd15"))
    for site, nodes in locate_all(fixed).items():
        units, width = (
            (site.units, site.unit_width // 2) if kind_of(site.kind).narrowable(site) else (site.units // 2, None)
        )
        small = site_program(fixed, site, nodes, units, width)
        reader = small.module(site.tap)
        assert reader.in_features == units * (width or site.unit_width)
        with torch.no_grad():
            assert small(*small.args).shape == nodes.reader.meta["val"].shape
        whole = fixed.module(site.tap)
        assert whole.in_features == site.width  # the program's own is left


def test_equal_sites_have_equal_signatures() -> None:
    fixed = specialize(captured("unet_sd15"))
    by_shape: dict[object, set[str]] = {}
    for site, nodes in locate_all(fixed).items():
        entering = tuple(tuple(call.args[0].meta["val"].shape) for call in nodes.writers)
        text = signature(site_program(fixed, site, nodes, site.units))
        by_shape.setdefault((site.kind, site.units, site.unit_width, entering), set()).add(text)
        assert signature(site_program(fixed, site, nodes, 1)) != text
    assert all(len(texts) == 1 for texts in by_shape.values())
    assert len(set.union(*by_shape.values())) == len(by_shape)
