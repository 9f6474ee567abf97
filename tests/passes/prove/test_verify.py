"""Each check of `verify` has a program broken by hand that trips it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from passes.errors import VerificationError
from passes.program.program import Program
from passes.prove.verify import verify
from passes.sites.find import find_sites, locate
from tests.families import of_families
from tests.hand_modules import NEURONS, WIDTH, Attention, FeedForward, captured
from tests.plans import captured as captured_family


def _program() -> Program:
    return captured(Attention()).copy()


@of_families(["unet_sdxl", "pixart"])
def test_a_sound_program_passes(family: str) -> None:
    program = captured_family(family)
    verify(program, find_sites(program))


def test_a_node_before_its_input_trips_lint() -> None:
    program = _program()
    nodes = list(program.graph.nodes)
    nodes[-2].append(nodes[1])  # moves the first call behind the last one
    with pytest.raises(VerificationError, match="malformed"):
        verify(program)


def test_a_missing_module_is_named() -> None:
    program = _program()
    del program.graph_module.q
    with pytest.raises(VerificationError, match="uses 'q', which the program lacks"):
        verify(program)


def test_a_dead_parameter_is_named() -> None:
    program = _program()
    program.graph_module.add_module("left_over", nn.Linear(2, 2))
    with pytest.raises(VerificationError, match=r"nothing uses parameter 'left_over\.weight'"):
        verify(program)


def test_linears_that_no_longer_fit_trip_the_shapes() -> None:
    program = captured(FeedForward()).copy()
    program.graph_module.set_submodule("up", nn.Linear(WIDTH, NEURONS - 1))
    with pytest.raises(VerificationError, match="shapes don't fit"):
        verify(program)


def test_a_stale_head_count_trips_the_shapes() -> None:
    # Rows go, the view keeps its count: 3 heads' channels viewed as 4 heads are swallowed by the -1 of the tokens.
    program = _program()
    for path in ("q", "k", "v"):
        program.graph_module.set_submodule(path, nn.Linear(WIDTH, WIDTH - 4))
    with pytest.raises(VerificationError):
        verify(program)


def test_stale_meta_is_told() -> None:
    program = captured(FeedForward()).copy()
    program.graph_module.set_submodule("up", nn.Linear(WIDTH, NEURONS - 1))
    program.graph_module.set_submodule("down", nn.Linear(NEURONS - 1, WIDTH))
    with pytest.raises(VerificationError, match="its meta says"):
        verify(program)


def test_missing_meta_is_told() -> None:
    program = _program()
    (site,) = find_sites(program)
    reader = locate(program, site).reader
    del reader.meta["val"]
    with pytest.raises(VerificationError, match='has no meta\\["val"\\]'):
        verify(program)


def test_a_lost_site_is_told() -> None:
    program = _program()
    (site,) = find_sites(program)
    activation = locate(program, site).activation
    with program.graph.inserting_after(activation):
        scaled = program.graph.call_function(torch.ops.aten.mul.Tensor, (activation, 2.0))
    scaled.meta = dict(activation.meta)
    activation.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)
    program.graph_module.recompile()
    verify(program)  # nothing wrong with it, but
    with pytest.raises(VerificationError, match="is gone"):
        verify(program, (site,))


def test_a_changed_site_is_told() -> None:
    program = _program()
    (site,) = find_sites(program)
    with pytest.raises(VerificationError, match="has 4 units"):
        verify(program, (replace(site, units=5),))
