"""Replace a saved folder, and only what slimdiff_fx wrote: anything else in it is a refusal."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from passes.errors import CheckpointError, OutputError
from slimdiff_fx.files.atomic_write import refuse_occupied, replaced_folder
from slimdiff_fx.files.manifest import MANIFEST_FILE, files_in, manifest_of, read_manifest
from slimdiff_fx.files.output_paths import check_folder_place, expand, follow, refuse_overlap
from slimdiff_fx.files.partial_files import is_partial, place_of_partial, remove_leftovers
from slimdiff_fx.files.plan_file import PLAN_FILE

# What versions before the record wrote, by name. Companions of the dense pipeline (licences, credits) and notes of the
# user can't be told apart, so they aren't here.
_TOP = re.compile(
    r"(model_index|report|analysis|captions|sampling)\.json|statistics\.safetensors|README(-dense)?\.md|report\.html"
    r"|dense_and_slim\.png|pictures/\d+-(dense|slim)\.png"
)
_IN_COMPONENT = re.compile(
    r"((scheduler_|tokenizer_|preprocessor_|processor_|generation_|feature_extractor_)?config|slim_plan|checksums|vocab"
    r"|tokenizer|special_tokens_map|added_tokens)\.json|merges\.txt|(spiece|sentencepiece\.bpe)\.model"
    r"|(model|diffusion_pytorch_model|slim_plan)(-\d+-of-\d+)?\.safetensors"
    r"|(model|diffusion_pytorch_model)\.safetensors\.index\.json"
)
_EXPORTED = re.compile(
    r"(unet|transformer)(\.int8)?\.((tensorrt\.)?onnx(\.data)?|(aoti\.)?pt2|xml|bin|pte)|report\.html"
)


@contextmanager
def own_folder(
    path: str | Path, *, overwrite: bool, inputs: Mapping[str, str | Path | None] | None = None
) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes `path`'s place, with a record of what was written in it.

    Args:
        path: the folder to create or replace.
        overwrite: replace a folder in which there is nothing but what slimdiff_fx wrote.
        inputs: what is read, by what the user knows it as.

    Raises:
        OutputError: the folder can't be written, or something else would be lost.
        CheckpointError: writing failed; nothing is half-written.
    """
    place = check_own_folder(path, overwrite=overwrite, inputs=inputs)
    with replaced_folder(place, overwrite=overwrite) as partial:
        yield partial
        (partial / MANIFEST_FILE).write_text(manifest_of(partial), encoding="utf-8")
        _refuse_others(place, expand(path))  # what came there meanwhile


def check_own_folder(
    path: str | Path,
    *,
    overwrite: bool,
    inputs: Mapping[str, str | Path | None] | None = None,
    endings: tuple[str, ...] = (),
) -> Path:
    """Refuse an output folder that must not or can't be written, before any work; see `slimdiff_fx.files.output_paths`.

    Args:
        path: the output.
        overwrite: allow replacing a folder in which there is nothing but what slimdiff_fx wrote.
        inputs: what is read, by what the user knows it as.
        endings: of the names of files that are written beside it.

    Returns:
        Where it goes, absolute and with links followed.

    Raises:
        OutputError: says why; names the first file that slimdiff_fx didn't write.
    """
    place = check_folder_place(path, endings=endings)
    refuse_overlap(path, inputs or {})
    remove_leftovers(place)
    refuse_occupied(expand(path), overwrite=overwrite)
    _refuse_others(place, expand(path))
    return place


def later_files(path: str | Path) -> tuple[str, ...]:
    """Name what was put into a saved folder after it was saved, exports and pages, and goes when it is replaced."""
    place = follow(path)
    if not place.is_dir():
        return ()
    listed = read_manifest(place)
    if listed is None:
        return tuple(sorted(name for name in files_in(place) if _EXPORTED.fullmatch(name)))
    return tuple(sorted(name for name, entry in listed.items() if entry.later and (place / name).exists()))


def _refuse_others(folder: Path, path: Path) -> None:
    """Refuse a folder that holds what slimdiff_fx didn't write, or what was changed since."""
    if not folder.is_dir():
        return
    try:
        _look_for_others(folder, path)
    except OSError as error:
        raise OutputError(
            f"{path} is not replaced: {error.filename or folder} can't be read ({error.strerror}); choose "
            "another output"
        ) from error


def _look_for_others(folder: Path, path: Path) -> None:
    for name in [name for name in os.listdir(folder) if is_partial(name)]:
        remove_leftovers(place_of_partial(folder / name))
        if (folder / name).exists():
            raise OutputError(
                f"{path} is not replaced: another process is writing {place_of_partial(Path(name))} there; wait for it"
            )
    present = sorted(files_in(folder))
    try:
        listed = read_manifest(folder)
    except CheckpointError as error:
        raise OutputError(f"{path} is not replaced: {error}") from error
    known = _legacy_names(folder, present) if listed is None else {*listed, MANIFEST_FILE}
    for name in present:
        if name not in known or not (folder / name).is_file() or (folder / name).is_symlink():
            raise OutputError(
                f"{path} is not replaced: slimdiff_fx didn't write {name} in it; move that elsewhere, or choose "
                "another output"
            )
    parents = {parent.as_posix() for name in present for parent in Path(name).parents}
    for place, folders, _ in os.walk(folder):
        for each in sorted(folders):
            name = (Path(place) / each).relative_to(folder).as_posix()
            if name not in parents:
                raise OutputError(
                    f"{path} is not replaced: slimdiff_fx didn't make the folder {name} in it; move that elsewhere, or "
                    "choose another output"
                )
    for name, entry in (listed or {}).items():
        if (folder / name).exists() and not entry.is_unchanged(folder / name):
            raise OutputError(
                f"{path} is not replaced: {name} in it was changed since slimdiff_fx wrote it; move that elsewhere, or "
                "choose another output"
            )


def _legacy_names(folder: Path, present: list[str]) -> set[str]:
    """Name those files of a folder without a record that an earlier version had written: none if it isn't one."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        if not {"format", "policy", "summary"} <= report.keys():
            return set()
        components = {name for name, entry in index.items() if isinstance(entry, list)}
    except (OSError, ValueError, AttributeError):
        return set()
    if not any((folder / name / PLAN_FILE).is_file() for name in components):
        return set()
    return {name for name in present if _is_legacy(name, components)}


def _is_legacy(name: str, components: set[str]) -> bool:
    folder, _, last = name.partition("/")
    if folder in components and last:
        return _IN_COMPONENT.fullmatch(last) is not None
    return bool(_TOP.fullmatch(name) or _EXPORTED.fullmatch(name))
