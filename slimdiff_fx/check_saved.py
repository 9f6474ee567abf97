"""Does a saved folder bring back the pipeline that was to be saved? Looked at before it takes its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor, nn

from passes.errors import CheckpointError, SlimDiffError, ValidationError
from passes.validate import TOLERANCES, relative_error
from slimdiff_fx.altered_models import refuse_unsaved, wrapped_layer
from slimdiff_fx.first_line import first_line
from slimdiff_fx.plan_file import PLAN_FILE, updates_file
from slimdiff_fx.quiet import quiet_libraries
from slimdiff_fx.reference import Reference
from slimdiff_fx.sampling import denoiser_name


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
    if getattr(held, "_orig_mod", held) is not model:
        raise CheckpointError(
            f"the pipeline's {name} is no longer the result's slim model; save that pipeline by its own "
            "save_pretrained, or put result.model back into it"
        )
    for component, module in pipe.components.items():
        wrapped = wrapped_layer(module) if isinstance(module, nn.Module) else None
        if wrapped is not None:
            raise CheckpointError(
                f"{component}: {wrapped!r} is wrapped by an adapter and can't be saved so; call unload_lora_weights() "
                "on the pipeline, after fuse_lora() if the adapter is to stay in the weights"
            )
    try:
        refuse_unsaved(model)
    except SlimDiffError as error:
        raise CheckpointError(f"the slim {type(model).__name__} can't be saved as it is now: {error}") from error


def check_saved(folder: Path, model: nn.Module, reference: Reference | None, *, changed: bool) -> None:
    """Load a saved denoiser anew and show that it is the one that was to be saved.

    Its files are compared with the model's weights bit for bit, one tensor at a time. Then the model that its
    configuration describes is built on those weights, with no second copy of them, and has to predict the same.

    Args:
        folder: the saved component's.
        model: the slim model.
        reference: what it predicted when it was made; None compares files only.
        changed: whether its weights are others by now: then it is what the model predicts now that counts.

    Raises:
        CheckpointError: the folder would bring back something else.
    """
    _compare_files(folder, model)
    anew = _built_on_weights_of(model, folder)
    if reference is None:
        return
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


def _compare_files(folder: Path, model: nn.Module) -> None:
    state: dict[str, Tensor] = model.state_dict()
    missing = dict(state)
    for file in sorted(folder.glob("*.safetensors")):
        if file.name == updates_file(Path(PLAN_FILE)).name:
            continue
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                value, mine = opened.get_tensor(name), missing.pop(name, None)
                if mine is None or not torch.equal(value.to(mine.dtype), mine.detach().cpu()):
                    raise CheckpointError(f"{file.name} doesn't hold the model's {name!r}; nothing was saved")
    stored = {state[name].data_ptr() for name in state.keys() - missing.keys()}
    lost = [name for name, value in missing.items() if value.data_ptr() not in stored]  # tied weights are stored once
    if lost:
        raise CheckpointError(f"the saved files lack the model's {lost[0]!r}; nothing was saved")


def _built_on_weights_of(model: nn.Module, folder: Path) -> nn.Module:
    """Build the model that a folder's configuration describes, on the tensors of the one in memory."""
    kind: Any = type(model)
    try:
        with quiet_libraries(), init_empty_weights(include_buffers=False):
            anew: nn.Module = kind.from_config(kind.load_config(folder))
        anew.load_state_dict(model.state_dict(), assign=True)
    except Exception as error:  # whatever the class's own code raises on its configuration
        raise CheckpointError(
            f"the saved configuration doesn't build the model that is in memory ({first_line(error)}); nothing was "
            "saved: slim anew, and change no layer by hand"
        ) from error
    buffers = dict(model.named_buffers())
    for path, part in anew.named_modules():
        for name, buffer in part._buffers.items():
            mine = buffers.get(f"{path}.{name}" if path else name)
            if buffer is not None and mine is not None:
                part._buffers[name] = buffer.to(mine.device, mine.dtype)
    return anew.eval()
