from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from passes.capture.capture import capture
from passes.errors import CaptureError, UsageError
from slimdiff_fx.denoisers.families import describe
from tests.families import TRANSFORMERS_FIRST
from tests.plans import captured as captured_family
from tests.toy_denoisers import FAMILIES

BATCH = Dim("batch", min=1)


class Branching(nn.Module):
    """Does something else from some batch size on."""

    def __init__(self, bound: int, same: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.bound, self.same = bound, same

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] >= self.bound:
            x = x.clone(memory_format=torch.contiguous_format) if self.same else 2 * x
        result: Tensor = self.linear(x)
        return result


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x) * int(x.shape[0])
        return result.view(int(x.shape[0]), 4)


def _capture(module: nn.Module, batch: int = 2) -> object:
    return capture(module, (torch.randn(batch, 4),), {}, ({0: BATCH},), timestep=None)


@TRANSFORMERS_FIRST
def test_keys_and_parameters_are_the_models_own(family: str) -> None:
    model = FAMILIES[family](3, torch.float32)
    inputs = describe(model)
    program = capture(
        inputs.module, inputs.args, inputs.kwargs, inputs.dynamic_shapes, root=inputs.root, timestep=inputs.timestep
    )
    own, found = dict(model.named_parameters()), dict(program.graph_module.named_parameters())
    assert found.keys() == own.keys()
    assert all(found[name] is own[name] for name in own)
    assert program.graph_module.state_dict().keys() == model.state_dict().keys()
    # Linears, convolutions and norms with parameters are modules; all that computes has its shape noted.
    for node in program.graph.nodes:
        assert node.op == "output" or "val" in node.meta
        assert "linear" not in str(node.target) or node.op != "call_function"
    # batch 1, batch 65, other sizes, square and not
    for batch, height, width, tokens in ((1, 8, 8, 5), (65, 8, 8, 1), (3, 6, 16, 9)):
        if family == "dit":
            height = width = 8
        other = describe(model, batch=max(batch, 2), height=height, width=width, tokens=tokens, seed=7)
        args = torch.utils._pytree.tree_map(lambda value, batch=batch: value[:batch], other.args)
        with torch.no_grad():
            expected, result = inputs.module(*args), program(*args)
        # the same operators; convolutions pick other kernels for other strides: measured 8e-7
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_a_bound_that_changes_nothing_is_dropped() -> None:
    module = Branching(8, same=True)
    program = _capture(module)
    for batch in (1, 7, 8, 100):
        x = torch.randn(batch, 4)
        assert torch.equal(program(x), module(x))  # type: ignore[operator]


def test_a_bound_that_changes_the_result_is_enforced() -> None:
    module = Branching(8, same=False)
    program = _capture(module)
    x = torch.randn(7, 4)
    assert torch.equal(program(x), module(x))  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"x\.size\(0\)"):
        program(torch.randn(8, 4))  # type: ignore[operator]


@pytest.mark.slow
def test_a_size_that_halves_do_not_fit_is_refused() -> None:
    program = captured_family("unet_unconditional", 0)
    with pytest.raises(UsageError, match=r"sample\.size\(2\) % 2 == 0 \(a multiple of 2\)"):
        program(program.args[0][:, :, :7], *program.args[1:])


def test_a_size_that_the_graph_cannot_do_is_refused() -> None:
    program = captured_family("unet_sd15", 0)
    sample, *rest = program.args
    with pytest.raises(UsageError, match="'sample' is"):
        program(sample[:, :3], *rest)
    with pytest.raises(UsageError, match="takes 3 inputs"):
        program(sample)
    with pytest.raises(UsageError, match=r"sample\.size\(0\) == timestep\.size\(0\)"):
        program(sample[:1], *rest)


def test_nan_weights_are_named() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        module[1].weight[0, 0] = float("nan")
    with pytest.raises(CaptureError, match=r"'1\.weight' holds NaN"):
        _capture(module)


def test_large_finite_weights_pass() -> None:
    module = nn.Linear(4, 4).half()
    with torch.no_grad():
        module.weight.fill_(6e4)  # their sum overflows fp16, they don't
        module.bias.zero_()
    capture(module, (torch.zeros(2, 4, dtype=torch.float16),), {}, ({0: BATCH},), timestep=None)


def test_a_dimension_that_comes_out_fixed_is_refused() -> None:
    with pytest.raises(CaptureError, match="dimension 0 of input 'x' came out fixed at 2"):
        _capture(Fixed())


def test_what_cannot_be_traced_is_a_capture_error() -> None:
    class Data(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError, match="could not trace Data"):
        _capture(Data())


def test_a_module_that_export_sees_wrongly_is_refused() -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.linear(x) * random.random()
            return result

    with pytest.raises(CaptureError, match="differs from Drawing"):
        _capture(Drawing())


def test_training_mode_comes_back() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    module[0].eval()
    program = _capture(module)
    assert module.training
    assert module[1].training
    assert not module[0].training
    x = torch.randn(2, 4)
    assert torch.equal(program(x), module[0](x))  # type: ignore[operator]
