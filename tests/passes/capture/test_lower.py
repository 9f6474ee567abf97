from __future__ import annotations

import pytest
import torch
from torch import nn

from passes.capture.lower import lower
from passes.errors import ExportError
from passes.program.program import Program
from slimdiff_fx.denoisers.families import describe
from tests.families import of_families
from tests.hand_modules import WIDTH, Attention, captured
from tests.plans import captured as captured_family
from tests.toy_denoisers import FAMILIES


# What is peculiar to lowering: the upsampler's batches and a text (sd15), layouts (unconditional), masks (pixart).
@of_families(["unet_sd15", "unet_unconditional", "pixart"], ["unet_sd15", "unet_unconditional"])
def test_lowered_programs_take_any_batch_and_size(family: str) -> None:
    program = captured_family(family)
    graph = str(program.graph)
    lowered = lower(program)
    assert str(program.graph) == graph
    assert lowered.state_dict.keys() >= program.graph_module.state_dict().keys()
    assert set(dict(lowered.named_parameters())) == set(dict(program.graph_module.named_parameters()))
    module = lowered.module()
    model = FAMILIES[family](0, torch.float64)
    for batch, height, width, tokens in ((1, 8, 8, 5), (65, 4, 8, 3), (3, 6, 16, 1)):
        inputs = describe(model, batch=max(batch, 2), height=height, width=width, tokens=tokens, seed=9)
        args = torch.utils._pytree.tree_map(lambda value, batch=batch: value[:batch], inputs.args)
        with torch.no_grad():
            # fp64: kernels may differ, not the function
            torch.testing.assert_close(module(*args), inputs.module(*args), rtol=1e-12, atol=1e-12)


def test_lowered_programs_refuse_sizes_that_they_cannot_do() -> None:
    module = lower(captured(Attention())).module()
    assert module(torch.randn(1, 3, WIDTH)).shape == (1, 3, WIDTH)
    with pytest.raises(Exception, match=r"Guard|size|shape"):
        module(torch.randn(1, 3, WIDTH + 1))


def test_what_cannot_be_exported_is_an_export_error() -> None:
    program = captured(nn.Sequential(nn.Linear(WIDTH, WIDTH))).copy()
    call = next(node for node in program.graph.nodes if node.op == "call_module")
    call.args = ()
    program.graph_module.recompile()
    broken = Program(program.graph_module, program.args, program.kwargs, program.dynamic_shapes, None)
    with pytest.raises(ExportError, match="could not lower"):
        lower(broken)
