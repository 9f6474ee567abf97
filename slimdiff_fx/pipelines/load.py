"""Load MODEL: a diffusers pipeline folder, a hub id, or `emoji`, the pipeline that ships with the package."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import nn

from passes.capture.refuse_quantized import is_quantized
from passes.errors import CheckpointError, SlimDiffError, UsageError
from slimdiff_fx.denoisers.slim.saved_folder import check_saved_folder
from slimdiff_fx.files.output_paths import expand
from slimdiff_fx.names import AUTO, PRECISIONS
from slimdiff_fx.other_libraries import first_line, quiet_libraries
from slimdiff_fx.pipelines.auto_choice import chosen_device, chosen_dtype, stored_dtype
from slimdiff_fx.pipelines.sampling import DENOISERS, Sampling, read_sampling
from slimdiff_fx.pipelines.variants import check_name, choose_variant, hub_files, local_variant

EMOJI = "emoji"
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in PRECISIONS}
_INDEX = "model_index.json"
_REASON = 120  # characters of a library's message that still tell something
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline and where it came from.

    Attributes:
        pipe: in evaluation mode, on the device and in the dtype asked for.
        name: as the user gave it.
        folder: local folder, or None for the hub.
        sampling: the defaults that lie beside it, see `slimdiff_fx.pipelines.sampling`.
        edited: settings in the folder that were changed since slimdiff_fx wrote it, by name.
    """

    pipe: DiffusionPipeline
    name: str
    folder: Path | None
    sampling: Sampling
    edited: tuple[str, ...] = ()


def emoji_folder() -> Path:
    """Find the built-in pipeline inside the installed package."""
    return Path(str(resources.files("slimdiff_fx") / "assets" / EMOJI))


def load_pipeline(
    model: str, *, device: str = "cpu", dtype: str = "float32", variant: str | None = None
) -> LoadedPipeline:
    """Load a pipeline, from safetensors only.

    Args:
        model: folder, hub id, or "emoji".
        device: as torch names it, or "auto".
        dtype: "float32", "float16" or "bfloat16"; weights stored in another are cast. "auto" is what they are stored
            in, and float32 for float16 on a CPU; see `slimdiff_fx.pipelines.auto_choice`.
        variant: of the weight files, such as "fp16"; None takes plain ones, and the variant there is if there are none.

    Raises:
        UsageError: unknown dtype or device, or no such variant.
        CheckpointError: no such pipeline, no network, damaged files, or weights that aren't finite. Names the file.
    """
    if dtype not in DTYPES and dtype != AUTO:
        raise UsageError(f"unknown dtype {dtype!r}; there are {AUTO}, {', '.join(DTYPES)}")
    device = chosen_device(device)
    place = _device(device)
    folder = _local_folder(model)
    edited: tuple[str, ...] = ()
    if folder is not None:
        edited = _check_folder(folder)
        variant = local_variant(folder, model, _components(folder), variant)
    elif variant is not None:
        check_name(variant)
    try:
        with quiet_libraries():
            pipe = _from_folder_or_hub(model, folder, variant, dtype, device)
            check_weights(pipe, model)
            pipe.to(place)
    except SlimDiffError:
        raise
    except Exception as error:
        raise _load_error(model, folder, error) from error
    return LoadedPipeline(pipe, model, folder, read_sampling(folder), edited)


def check_weights(pipe: DiffusionPipeline, name: str) -> None:
    """Refuse weights that are missing or not finite: every later figure would be worthless.

    Raises:
        CheckpointError: names the first such parameter.
    """
    for component, module in pipe.components.items():
        if not isinstance(module, nn.Module):
            continue
        for parameter, values in module.named_parameters():
            if values.is_meta:
                raise CheckpointError(f"{name}: {component} lacks the weights of {parameter}; get the files anew")
            # A quantizer's tensors can't be asked; the denoiser's own are refused when it is captured.
            if not is_quantized(values) and not bool(torch.isfinite(values).all()):
                raise CheckpointError(
                    f"{name}: {component} has NaN or infinite weights in {parameter}; get the files anew"
                )


def _device(device: str) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except Exception as error:  # each backend has its own way to say that it isn't there
        raise UsageError(f'device {device!r} can\'t be used here ({first_line(error)}); try `device="cpu"`') from error
    if place.type == "meta":
        raise UsageError("device 'meta' holds no values, so nothing can be seen there; try `device=\"cpu\"`")
    return torch.device("cpu") if place.type == "cpu" else place  # it has no number that means anything


def _local_folder(model: str) -> Path | None:
    """Find MODEL on disk; None for a hub id."""
    if model == EMOJI and not Path(model).is_dir():
        return emoji_folder()
    path = expand(model)
    if path.exists():
        return path
    if _HUB_ID.fullmatch(model) and not model.startswith("."):
        return None
    raise CheckpointError(
        f"{model!r} is no folder here and no hub id (owner/name); give a pipeline folder, a hub id, or `emoji`"
    )


def _from_folder_or_hub(
    model: str, folder: Path | None, variant: str | None, dtype: str, device: str
) -> DiffusionPipeline:
    def load(place: str, *, variant: str | None) -> DiffusionPipeline:
        chosen = dtype
        if dtype == AUTO:
            # Of the hub's files the same are loaded again below, from the local cache.
            local = folder or Path(DiffusionPipeline.download(model, variant=variant, use_safetensors=True))
            denoiser = denoiser_in(local)
            chosen = chosen_dtype(None if denoiser is None else stored_dtype(local / denoiser, variant), device)
        return DiffusionPipeline.from_pretrained(place, variant=variant, dtype=DTYPES[chosen], use_safetensors=True)

    if folder is not None:
        return load(str(folder), variant=variant)
    try:
        return load(model, variant=variant)
    except (OSError, ValueError):
        # What a repository holds is asked only here: it takes one more request.
        files = hub_files(model)
        chosen = choose_variant(model, files, variant) if files else variant
        if chosen == variant:
            raise
        return load(model, variant=chosen)


def _components(folder: Path) -> list[str]:
    entries = _read_json(folder / _INDEX).items()
    return [name for name, entry in entries if not name.startswith("_") and isinstance(entry, list)]


def model_input(model: str) -> Path | None:
    """Find the pipeline folder that will be read, for comparing an output with it; None if there is none."""
    folder = emoji_folder() if model == EMOJI and not Path(model).is_dir() else expand(model)
    return folder if (folder / _INDEX).is_file() else None


def denoiser_in(folder: Path) -> str | None:
    """Name the component that denoises, by what a pipeline folder's model_index.json says; None if it doesn't."""
    index = _read_json(folder / _INDEX)
    return next((name for name in DENOISERS if isinstance(index.get(name), list) and index[name][:1] != [None]), None)


def _check_folder(folder: Path) -> tuple[str, ...]:
    """Look at every file a load will touch, so that an error can name it; give the settings that were edited."""
    index = folder / _INDEX
    if not index.is_file():
        raise CheckpointError(
            f"{folder} is not a pipeline folder: it has no {_INDEX}; give a diffusers pipeline folder"
        )
    entries = _read_json(index)
    components = {
        name: entry
        for name, entry in entries.items()
        if not name.startswith("_") and isinstance(entry, list) and len(entry) == 2 and entry[0] is not None
    }
    for name in components:
        part = folder / name
        if not part.is_dir():
            raise CheckpointError(f"{folder} lacks the folder {name}/ that {_INDEX} names; get the pipeline anew")
        for file in sorted(part.glob("*.json")):
            _read_json(file)
        for file in sorted(part.glob("*.safetensors")):
            _check_safetensors(file)
    return check_saved_folder(folder, components)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{file} is no valid JSON ({error}); get the file anew") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} holds no JSON object; get the file anew")
    return data


def _check_safetensors(file: Path) -> None:
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is truncated or no safetensors file ({error}); get the file anew") from error


def _load_error(model: str, folder: Path | None, error: Exception) -> CheckpointError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines or [type(error).__name__])[0]
    reason = reason if len(reason) <= _REASON else f"{reason[:_REASON]}…"
    if folder is None:
        return CheckpointError(
            f"hub id {model!r} is neither in the local cache nor can it be fetched ({type(error).__name__}: {reason}); "
            "check the name and the network, or give a local pipeline folder"
        )
    return CheckpointError(f"{folder} can't be loaded ({reason}); get the pipeline anew or mend the file named")
