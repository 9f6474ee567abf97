"""The tests' own shortcut: a graph is shared between models that are made alike, and with no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from passes.program.program import Program
from slimdiff_fx.denoisers.families import DenoiserInputs, describe
from tests.shared_captures import SharedCaptures
from tests.toy_denoisers import pixart


def _capture(shared: SharedCaptures, inputs: DenoiserInputs) -> Program:
    return shared(inputs.module, inputs.args, inputs.kwargs, inputs.dynamic_shapes, root=inputs.root)


def _model(seed: int = 0, **sizes: Any) -> DenoiserInputs:
    """Describe a model: always the same one, but for its weights."""
    model = pixart(0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return describe(model, **sizes)


@pytest.fixture(scope="module")
def shared() -> SharedCaptures:
    found = SharedCaptures()
    _capture(found, _model())
    return found


def test_other_weights_are_the_graph_s_own(shared: SharedCaptures) -> None:
    given, inputs = shared.given, _model(1)
    program = _capture(shared, inputs)
    assert shared.given == given + 1
    with torch.no_grad():
        assert torch.equal(program(*program.args, **program.kwargs), inputs.module(*inputs.args, **inputs.kwargs))
        for name, parameter in inputs.module.denoiser.named_parameters():
            assert program.graph_module.get_parameter(name) is parameter
        before = program(*program.args, **program.kwargs)
        _capture(shared, _model(2))  # and nobody else's
        assert torch.equal(program(*program.args, **program.kwargs), before)


def _hooked(model: nn.Module) -> None:
    next(part for part in model.modules() if isinstance(part, nn.Linear)).register_forward_hook(lambda *_: None)


def _patched(model: nn.Module) -> None:
    part = next(part for part in model.modules() if isinstance(part, nn.Conv2d))
    part.forward = lambda *args: type(part).forward(part, *args) * 2  # type: ignore[method-assign]


def _set(model: nn.Module) -> None:
    next(part for part in model.modules() if isinstance(part, nn.LayerNorm)).eps = 0.1


def _cast(model: nn.Module) -> None:
    model.double()


def _broken(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)


def _tied(model: nn.Module) -> None:
    first, second = [part for part in model.modules() if type(part).__name__ == "Attention"][:2]
    second.to_q.weight = first.to_q.weight


@pytest.mark.parametrize("change", [_hooked, _patched, _set, _cast, _broken, _tied])
def test_what_differs_is_captured_itself(
    change: Callable[[nn.Module], None], shared: SharedCaptures, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[nn.Module] = []

    def real(module: nn.Module, *_: Any, **__: Any) -> Program:
        reached.append(module)
        return next(iter(shared._known.values()))

    monkeypatch.setattr("tests.shared_captures.capture", real)
    inputs = _model(3)
    _capture(shared, inputs)
    assert not reached, "the same model as it is made is not"
    change(inputs.module)
    _capture(shared, inputs)
    assert len(reached) == 1


def test_other_sizes_are_captured(shared: SharedCaptures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.shared_captures.capture", lambda *_, **__: (_ for _ in ()).throw(KeyError("captured")))
    with pytest.raises(KeyError, match="captured"):
        _capture(shared, _model(batch=3))


def test_weights_that_don_t_give_the_same_bits_are_not_enough(
    shared: SharedCaptures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.shared_captures.capture", lambda *_, **__: (_ for _ in ()).throw(KeyError("captured")))
    monkeypatch.setattr("tests.shared_captures.torch.equal", lambda *_: False)
    with pytest.raises(KeyError, match="captured"):
        _capture(shared, _model())
