"""Which of a pipeline's weight files are loaded: those of a variant such as fp16, where there are no others."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import list_repo_files, try_to_load_from_cache

from passes.errors import CheckpointError, UsageError

# The names that diffusers and transformers give: model.safetensors, model.fp16.safetensors, and of several files
# model-00001-of-00002.safetensors, model.fp16-00001-of-00002.safetensors (once model-00001-of-00002.fp16.safetensors).
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:-\d{5}-of-\d{5})?(?:\.(?P<variant>(?!safetensors$|bin$)[\w-]+?))?(?:-\d{5}-of-\d{5})?"
    r"\.(?P<format>safetensors|bin)"
)
_NAME = re.compile(r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*")


@dataclass
class _Weights:
    """What a component's weights lie there as: None stands for files of no variant."""

    safe: set[str | None] = field(default_factory=set)
    pickled: dict[str | None, str] = field(default_factory=dict)


def component_files(folder: Path, components: Iterable[str]) -> dict[str, list[str]]:
    """List the names in the folder of each component of a local pipeline."""
    return {
        name: sorted(file.name for file in (folder / name).iterdir()) for name in components if (folder / name).is_dir()
    }


def local_variant(folder: Path, model: str, components: Iterable[str], asked: str | None) -> str | None:
    """Choose as `choose_variant` does, among the files of a local pipeline.

    Raises:
        UsageError: see `choose_variant`.
        CheckpointError: see `choose_variant`; or diffusers would stumble over a file's name.
    """
    files = component_files(folder, components)
    variant = choose_variant(model, files, asked)
    bare = next(
        (folder / component / name for component, names in files.items() for name in names if "." not in name), None
    )
    if variant is not None and bare is not None:
        raise CheckpointError(
            f"{bare} has no ending, and diffusers can't choose the variant {variant!r} beside such a name; move it"
        )
    return variant


def grouped(files: Iterable[str]) -> dict[str, list[str]]:
    """Group a repository's files, "unet/config.json", by component."""
    groups: dict[str, list[str]] = {}
    for file in sorted(files):
        component, _, name = file.partition("/")
        if name and "/" not in name:
            groups.setdefault(component, []).append(name)
    return groups


def choose_variant(model: str, files: Mapping[str, Iterable[str]], asked: str | None) -> str | None:
    """Choose the variant to load, which diffusers takes where a component has it, and plain files where it has not.

    Args:
        model: as the user gave it, for messages.
        files: names of the files of each component.
        asked: what the user asked for.

    Returns:
        The variant; None where plain files are enough.

    Raises:
        UsageError: no component has what was asked for; or the user has to choose.
        CheckpointError: a component has pickled weights only, or no one variant gives weights to all components.
    """
    found = {name: weights for name, weights in ((name, _weights(each)) for name, each in files.items()) if weights}
    if asked is not None:
        check_name(asked)
        return _asked(model, found, asked)
    needy: dict[str, set[str]] = {}
    for name, weights in found.items():
        if not weights.safe:
            raise _pickled(model, name, weights, None)
        if None not in weights.safe:
            needy[name] = {each for each in weights.safe if each is not None}
    if not needy:
        return None
    common = set.intersection(*needy.values())
    if len(common) == 1:
        return common.pop()
    if common:
        raise UsageError(f"{model} has its weights as several variants, {_listed(common)}; choose one with `variant`")
    each = "; ".join(f"{name} has {_listed(variants)}" for name, variants in needy.items())
    raise CheckpointError(
        f"{model}: no one variant has all weights ({each}); load it in Python, component by component, and save it anew"
    )


def check_name(variant: str) -> None:
    """Refuse what can't be part of a file's name.

    Raises:
        UsageError: it is no such name.
    """
    if not _NAME.fullmatch(variant):
        raise UsageError(f"a variant is a word such as fp16 or ema, not {variant!r}")


def _asked(model: str, found: Mapping[str, _Weights], asked: str) -> str:
    for name, weights in found.items():
        if asked not in weights.safe and (asked in weights.pickled or not weights.safe):
            raise _pickled(model, name, weights, asked)
        if asked not in weights.safe and None not in weights.safe:
            raise UsageError(f"{model}: {name} has {_listed(weights.safe)}, and neither {asked} nor plain weights")
    if not any(asked in weights.safe for weights in found.values()):
        others = {each for weights in found.values() for each in weights.safe if each is not None}
        there = f"there is {_listed(others)}" if others else "there is none, so leave `variant` out"
        raise UsageError(f"{model} has no weights of the variant {asked!r}; {there}")
    return asked


def _weights(files: Iterable[str]) -> _Weights | None:
    weights = _Weights()
    for file in files:
        match = _WEIGHTS.fullmatch(file)
        if match is None:
            continue
        if match["format"] == "safetensors":
            weights.safe.add(match["variant"])
        else:
            weights.pickled[match["variant"]] = file
    return weights if weights.safe or weights.pickled else None


def _pickled(model: str, name: str, weights: _Weights, asked: str | None) -> CheckpointError:
    variant = asked if asked in weights.pickled else next(iter(weights.pickled))
    option = f", variant={json.dumps(variant)}" if variant else ""
    source, target = json.dumps(model), json.dumps(f"{Path(model).name}-safetensors")
    code = (
        f"from diffusers import DiffusionPipeline as P; P.from_pretrained({source}{option}).save_pretrained({target})"
    )
    return CheckpointError(
        f"{model}: {name} has its weights only as {weights.pickled[variant]}, a pickle, and this loads safetensors "
        f"alone. Convert it once, if you trust it, and give the new folder: python -c {shlex.quote(code)}"
    )


def _listed(variants: Iterable[Any]) -> str:
    return " and ".join(sorted(str(each) for each in variants))


def hub_files(repo_id: str) -> dict[str, list[str]]:
    """List the files of each component of a pipeline on the hub; without a network, those in the local cache."""
    try:
        return grouped(list_repo_files(repo_id))
    except Exception:  # which error depends on the HTTP library; the caller raises its own
        index = try_to_load_from_cache(repo_id, "model_index.json")
    if not isinstance(index, str):
        return {}
    snapshot = Path(index).parent
    return grouped(file.relative_to(snapshot).as_posix() for file in snapshot.glob("*/*") if file.is_file())
