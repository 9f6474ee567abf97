from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from passes.plan.costs import program_macs, program_params, site_macs, site_params, unit_macs, unit_params
from passes.sites.find import find_sites
from tests.families import EVERY_FAMILY
from tests.hand_modules import HEAD_DIM, HEADS, NEURONS, WIDTH, Attention, FeedForward, captured
from tests.plans import captured as captured_family

BATCH, TOKENS = 2, 5


def test_feed_forward_by_hand() -> None:
    program = captured(FeedForward(way="geglu"))
    (site,) = find_sites(program)
    # two rows of the up linear with a bias each, one column of the down linear
    assert unit_params(program, site) == 2 * (WIDTH + 1) + WIDTH
    assert unit_macs(program, site) == BATCH * TOKENS * 3 * WIDTH
    assert site_params(program, site) == NEURONS * unit_params(program, site)
    assert program_params(program) == NEURONS * unit_params(program, site) + WIDTH  # and the down linear's bias
    assert program_macs(program) == site_macs(program, site)


def test_attention_by_hand() -> None:
    program = captured(Attention())
    (site,) = find_sites(program)
    assert unit_params(program, site) == HEAD_DIM * (3 * (WIDTH + 1) + WIDTH)
    matmuls = 2 * BATCH * TOKENS * TOKENS * HEAD_DIM
    assert unit_macs(program, site) == BATCH * TOKENS * 4 * HEAD_DIM * WIDTH + matmuls
    assert site_macs(program, site) == HEADS * unit_macs(program, site) == program_macs(program)


@EVERY_FAMILY
def test_macs_are_half_the_flops_that_torch_counts(family: str) -> None:
    program = captured_family(family, 0)
    # fused attention on the CPU is not counted; written out, it is
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        program(*program.args, **program.kwargs)
    assert 2 * program_macs(program) == counter.get_total_flops()
    assert program_params(program) == sum(value.numel() for value in program.graph_module.parameters())
    sites = find_sites(program)
    assert 0 < sum(site_macs(program, site) for site in sites) < program_macs(program)
    assert 0 < sum(site_params(program, site) for site in sites) < program_params(program)
