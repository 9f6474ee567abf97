"""Check that a saved folder loads as the pipeline that was saved, before it replaces what was there.

Nothing is held twice for it: files are compared with the tensors in memory one by one, and what the configurations
describe is built on those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from passes.errors import CheckpointError, SlimDiffError, ValidationError
from passes.program.torch_private import own_buffers, uncompiled
from passes.prove.validate import TOLERANCES, relative_error
from slimdiff_fx.denoisers.altered import refuse_unsaved, refuse_wrapped
from slimdiff_fx.denoisers.slim.reference import Reference
from slimdiff_fx.files.plan_file import PLAN_FILE, updates_file
from slimdiff_fx.other_libraries import first_line, quiet_libraries
from slimdiff_fx.pipelines.sampling import denoiser_name
from slimdiff_fx.pipelines.sketch import sketch

# Largest difference of a picture's values, which are 0 to 1: less than one step of 8-bit colour.
_SEEN = 2e-3


def refuse_unsavable(pipe: DiffusionPipeline, model: nn.Module) -> None:
    """Refuse what a folder can't hold, before anything is written.

    Args:
        pipe: the pipeline that is to be saved.
        model: the denoiser that it shall hold.

    Raises:
        CheckpointError: another denoiser is in the pipeline, an adapter is loaded, or something sits on the denoiser
            that its configuration doesn't know.
    """
    name = denoiser_name(pipe)
    held = getattr(pipe, name)
    if uncompiled(held) is not model:
        raise CheckpointError(
            f"the pipeline's {name} is no longer the result's slim model; save that pipeline by its own "
            "save_pretrained, or put result.model back into it"
        )
    try:
        refuse_wrapped(pipe)
        refuse_unsaved(model)
    except SlimDiffError as error:
        raise CheckpointError(f"the slim {type(pipe).__name__} can't be saved as it is now: {error}") from error


def check_saved_pipeline(
    folder: Path, pipe: DiffusionPipeline, model: nn.Module, reference: Reference | None, *, changed: bool
) -> None:
    """Load a saved pipeline anew and show that it is the one that was to be saved; see `check_saved`.

    Of the other components, weights are compared in the same way. What they do shows in a picture that is drawn with
    both pipelines, in two steps of a stand-in for the denoiser, which costs nothing and hangs on all that it is given.

    Args:
        folder: the saved pipeline's.
        pipe: the slim pipeline; it is as before when this returns or raises.
        model: the slim model in it.
        reference: as for `check_saved`.
        changed: likewise.

    Raises:
        CheckpointError: the folder would bring back something else.
    """
    name = denoiser_name(pipe)
    parts = {name: check_saved(folder / name, model, reference, changed=changed)}
    for part, module in pipe.components.items():
        if isinstance(module, nn.Module) and part != name:
            with _named(part):
                module = uncompiled(module)
                _compare_files(folder / part, module)
                parts[part] = _built_on_weights_of(module, folder / part)
    try:
        with quiet_libraries():
            anew = type(pipe).from_pretrained(folder, **parts)
    except Exception as error:  # whatever the library raises on one of the files
        raise CheckpointError(
            f"the saved {type(pipe).__name__} can't be loaded ({first_line(error)}); nothing was saved"
        ) from error
    expected = sketch(pipe)
    if expected is None:  # the pipeline needs more than a prompt, so no picture is drawn: weights alone were compared
        return
    found = sketch(anew)
    if found is None or found.shape != expected.shape or not torch.allclose(found, expected, rtol=0, atol=_SEEN):
        raise CheckpointError(
            f"the saved {type(pipe).__name__}, loaded anew, draws another picture than the one in memory: something on "
            f"a component beside the {name} isn't in its configuration or its weights, such as a hook, a patched "
            "method, a changed layer or a changed table of the scheduler. Take it off; nothing was saved"
        )


def check_saved(folder: Path, model: nn.Module, reference: Reference | None, *, changed: bool) -> nn.Module:
    """Load a saved denoiser anew and show that it is the one that was to be saved.

    Its files are compared with the model's weights bit for bit, one tensor at a time. Then the model that its
    configuration describes is built on those weights, with no second copy of them, and has to predict the same.

    Args:
        folder: the saved component's.
        model: the slim model.
        reference: what it predicted when it was made; None compares files only.
        changed: whether its weights are others by now: then it is what the model predicts now that counts.

    Returns:
        The model that the folder describes, on the weights in memory.

    Raises:
        CheckpointError: the folder would bring back something else.
    """
    _compare_files(folder, model)
    anew = _built_on_weights_of(model, folder)
    if reference is None:
        return anew
    expected = reference.predict(model) if changed else reference.prediction
    try:
        error = relative_error(reference.predict(anew), expected, "a small input")
    except ValidationError as failure:
        raise CheckpointError(f"the slim model can't be saved: {failure}") from failure
    if error > TOLERANCES.get(expected.dtype, 1e-5):
        raise CheckpointError(
            f"the saved {type(model).__name__}, loaded anew, predicts something else than the one in memory (off by "
            f"{error:.1e}): something on it isn't in its configuration or its weights, such as a hook, a patched "
            "method or a changed attribute. Take it off, or load the pipeline and slim it anew; nothing was saved"
        )
    return anew


def _compare_files(folder: Path, module: nn.Module) -> None:
    """Compare a component's files with its tensors: by name, those of transformers by value, for it renames some."""
    state: dict[str, Tensor] = module.state_dict()
    renames = isinstance(module, PreTrainedModel)
    keys = {name: _value_of(value) if renames else name for name, value in state.items()}
    known = {key: state[name] for name, key in keys.items()}
    found, places = set(), set()
    for file, name in _stored(folder):
        # The file is opened again for each tensor: what is read stays in memory as long as the file is open.
        with safe_open(file, framework="pt") as opened:
            value = opened.get_tensor(name)
            key = _value_of(value) if renames else name
            mine = known.get(key)
            if mine is None or not torch.equal(value.to(mine.dtype), mine.detach().cpu()):
                raise CheckpointError(f"{file.name} doesn't hold the model's {name!r}; nothing was saved")
        found.add(key)
        places.add(mine.data_ptr())  # tied weights are stored once
    for name, value in state.items():
        if keys[name] not in found and value.data_ptr() not in places:
            raise CheckpointError(f"the saved files lack the model's {name!r}; nothing was saved")


def _value_of(tensor: Tensor) -> str:
    """Tell values apart, whichever floating dtype they are stored in."""
    plain = tensor.detach().cpu().contiguous()
    plain = plain.float() if plain.is_floating_point() else plain
    return f"{tuple(plain.shape)} {hashlib.sha256(plain.flatten().view(torch.uint8).numpy().data).hexdigest()}"


def _stored(folder: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(folder.glob("*.safetensors")):
        if file.name != updates_file(Path(PLAN_FILE)).name:
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
            yield from ((file, name) for name in names)


def _built_on_weights_of(module: nn.Module, folder: Path) -> nn.Module:
    """Build the module that a folder's configuration describes, on the tensors of the one in memory."""
    kind: Any = type(module)
    try:
        with quiet_libraries(), init_empty_weights(include_buffers=False):
            if issubclass(kind, PreTrainedModel):
                anew: nn.Module = kind(kind.config_class.from_pretrained(folder))
            else:
                anew = kind.from_config(kind.load_config(folder))
        anew.load_state_dict(module.state_dict(), assign=True)
    except Exception as error:  # whatever the class's own code raises on its configuration
        raise CheckpointError(
            f"the saved configuration doesn't build the model that is in memory ({first_line(error)}); nothing was "
            "saved: load it anew, and change no layer by hand"
        ) from error
    buffers = dict(module.named_buffers())
    for path, part in anew.named_modules():
        for name, buffer in own_buffers(part).items():
            mine = buffers.get(f"{path}.{name}" if path else name)
            if buffer is not None and mine is not None:
                own_buffers(part)[name] = buffer.to(mine.device, mine.dtype)
    return anew.eval()


@contextmanager
def _named(component: str) -> Iterator[None]:
    """Say in an error which component it is of."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{component}: {error}") from error
