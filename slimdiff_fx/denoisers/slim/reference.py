"""What a slim denoiser predicted when it was made, to compare the saved one with later."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from passes.errors import UsageError, ValidationError
from passes.program.fresh_inputs import small_input
from passes.program.ownership import weights_digest
from passes.program.program import Program
from passes.program.torch_private import MODULES, own_parts, tree_map
from passes.prove.validate import TOLERANCES, relative_error
from slimdiff_fx.denoisers.families import DenoiserInputs


@dataclass(frozen=True)
class Reference:
    """A slim denoiser's prediction on one small input, and the weights it had.

    Attributes:
        call: wrapper with the program's inputs, in which the denoiser is `root`; it holds none by itself.
        root: the attribute of `call` that holds the denoiser.
        timestep: name of the input that keeps its dtype when a model is cast.
        args: the input's positional part.
        kwargs: its keywords.
        prediction: what was predicted.
        weights: digest of the denoiser's weights, see `passes.program.ownership.weights_digest`.
    """

    call: nn.Module
    root: str
    timestep: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    prediction: Tensor
    weights: str

    def has_these_weights(self, model: nn.Module) -> bool:
        """Say whether a denoiser's weights are, bit for bit, those that made the prediction."""
        return weights_digest(model) == self.weights

    def predict(self, model: nn.Module) -> Tensor:
        """Give a denoiser's prediction on the input, in the dtype and on the device of the denoiser."""
        args, kwargs = self.args, self.kwargs
        parameter = next(model.parameters(), None)
        if parameter is not None:
            names = list(inspect.signature(self.call.forward).parameters)
            args = tuple(self._fit(name, each, parameter) for name, each in zip(names, args, strict=False))
            kwargs = {name: self._fit(name, each, parameter) for name, each in kwargs.items()}
        return _predict(_holding(self.call, self.root, model), args, kwargs)

    def _fit(self, name: str, value: Any, parameter: Tensor) -> Any:
        def fit(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            casts = leaf.is_floating_point() and name != self.timestep
            return leaf.to(parameter.device, parameter.dtype if casts else leaf.dtype)

        return tree_map(fit, value)


def make_reference(inputs: DenoiserInputs, program: Program, model: nn.Module, *, check: bool = True) -> Reference:
    """Run the eager slim model, which is what users draw with, and show that it is the slim program.

    Args:
        inputs: how the dense model was captured.
        program: the slim program.
        model: the slim model.
        check: compare the two.

    Raises:
        ValidationError: they differ by more than rounding, or a prediction isn't finite.
    """
    try:
        args, kwargs = small_input(program)
    except UsageError:  # the graph takes no other size
        args, kwargs = program.args, program.kwargs
    prediction = _predict(_holding(inputs.module, inputs.root, model), args, kwargs)
    if check:
        with torch.no_grad():
            error = relative_error(prediction, program(*args, **kwargs))
        limit = TOLERANCES.get(prediction.dtype, 1e-5)
        if error > limit:
            raise ValidationError(
                f"the eager {type(model).__name__} differs from the slim program by {error:.2e} (at most {limit:.0e} "
                "is rounding); don't use it: find the site by slimming one at a time"
            )
    call = _holding(inputs.module, inputs.root, nn.Identity())
    return Reference(call, inputs.root, inputs.timestep, args, kwargs, prediction, weights_digest(model))


def _holding(call: nn.Module, root: str, model: nn.Module) -> nn.Module:
    """Copy a wrapper, with another denoiser in it."""
    held = copy.copy(call)
    vars(held)[MODULES] = {**own_parts(call), root: model}
    return held


def _predict(call: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    training = {part: part.training for part in call.modules()}
    call.eval()
    try:
        with torch.no_grad():
            result: Tensor = call(*args, **kwargs)
        return result
    finally:
        for part, mode in training.items():
            part.training = mode
