"""Tell files that slimdiff_fx writes from others, by what is in them: only those are ever replaced.

Plans, statistics and pages are known for certain. An export is known by its format alone: what is no ONNX file is not
replaced by one.
"""

from __future__ import annotations

import json
import mmap
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from passes.errors import CheckpointError, OutputError
from slimdiff_fx.files.manifest import read_manifest
from slimdiff_fx.files.output_paths import check_file_place, refuse_overlap

RECORD = "calibration"  # metadata of statistics files
TENSORS_MARK = {"slimdiff_fx": "plan"}  # metadata of plans' tensors
PAGE_MARK = '<meta name="generator" content="slimdiff_fx">'
_OLD_PAGE_MARK = b'<p class="over">slimdiff_fx report</p>'  # of earlier versions
_HEAD = 4096  # bytes that tell a format


@dataclass(frozen=True)
class FileKind:
    """A kind of file that is written.

    Attributes:
        words: what it is called in messages.
        recognize: says whether a file is one.
        beside: names what belongs to a file of this kind, by the file's path.
        belongs: (file, other) says whether the other, one of `beside`, is that file's own; the file may be missing.
    """

    words: str
    recognize: Callable[[Path], bool]
    beside: Callable[[Path], tuple[Path, ...]] = lambda file: ()
    belongs: Callable[[Path, Path], bool] = lambda file, other: file.exists()


def check_output_file(
    path: str | Path,
    kind: FileKind,
    *,
    overwrite: bool,
    inputs: Mapping[str, str | Path | None] | None = None,
    endings: tuple[str, ...] = (),
) -> Path:
    """Refuse an output file that must not or can't be written, before any work; see `slimdiff_fx.files.output_paths`.

    Args:
        path: the output.
        kind: what will be written.
        overwrite: allow replacing a file, and what belongs to it, if it is of this kind or empty.
        inputs: what is read, by what the user knows it as.
        endings: of the names of further files that are written beside it.

    Returns:
        Where it goes, absolute and with links followed.

    Raises:
        OutputError: says why.
    """
    place = check_file_place(path, endings=endings)
    beside = tuple(check_file_place(other) for other in kind.beside(place))
    for each in (place, *beside):
        refuse_overlap(path if each == place else each, inputs or {})
    if place in beside:
        raise OutputError(f"{path} is how the file beside {kind.words} is named; choose another ending")
    for each in (place, *beside):
        if each.exists() and not overwrite:
            raise OutputError(
                f"{path if each == place else each} exists; choose another output, or pass `overwrite=True` to replace "
                "it"
            )
    refuse_foreign_file(place, kind)
    return place


def refuse_foreign_file(file: Path, kind: FileKind) -> None:
    """Refuse to replace a file that isn't of a kind, nor empty.

    Args:
        file: what will be replaced, if it is there.
        kind: what will be written, with what belongs to it.

    Raises:
        OutputError: names the file, or the one beside it, that would be lost.
    """
    if file.exists():
        _refuse_part_of_saved(file, kind)
    if file.exists() and not is_own_file(file, kind):
        raise OutputError(f"{file} is not {kind.words}, and nothing else is replaced; choose another output or move it")
    for other in kind.beside(file):
        if other.exists() and not _is_own(kind.belongs, file, other):
            raise OutputError(
                f"{other} would be replaced, and it doesn't belong to {kind.words} at {file}; choose another output or "
                "move it"
            )


def is_own_file(file: Path, kind: FileKind) -> bool:
    """Say whether a file is of a kind, or empty: then there is nothing to lose."""
    return _is_own(kind.recognize, file)


def _is_own(check: Callable[..., bool], *files: Path) -> bool:
    """Run a check that may meet anything; an empty file, the last, needs none."""
    try:
        return not files[-1].stat().st_size or check(*files)
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        SafetensorError,
        RecursionError,
        zipfile.BadZipFile,
    ):
        return False


def export_place(path: str | Path, kind: FileKind) -> Path:
    """Give where an export of the Python API goes: it replaces an earlier export of its format, and nothing else.

    Args:
        path: the file to write; `~` is expanded and links are followed.
        kind: of what is written.

    Raises:
        OutputError: it can't be written there; or something else is there, or beside it where its data goes.
    """
    place = check_file_place(path)
    for each in kind.beside(place):
        check_file_place(each)
    refuse_foreign_file(place, kind)
    return place


def _refuse_part_of_saved(file: Path, kind: FileKind) -> None:
    """Refuse to replace what a saved folder was saved with, but for its page, or what was changed since."""
    for folder in list(file.parents)[:3]:
        try:
            entry = (read_manifest(folder) or {}).get(file.relative_to(folder).as_posix())
            if entry is None:
                continue
            goes = entry.later or (kind is PAGE and _is_page(file))
            if goes and entry.is_unchanged(file):
                continue
        except (CheckpointError, OSError):  # a folder that isn't ours to read
            continue
        why = "was changed since slimdiff_fx wrote it" if goes else f"belongs to the pipeline saved in {folder}"
        raise OutputError(f"{file} is not replaced: it {why}; choose another output, or move it")


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_HEAD)


def _is_json(file: Path) -> bool:
    return _head(file).lstrip()[:1] in (b"{", b"[")


def _is_safetensors(file: Path) -> bool:
    head = _head(file)
    return head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= file.stat().st_size


def _read_plan(file: Path) -> dict[str, Any]:
    if not _is_json(file):
        return {}
    data = json.loads(file.read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}


def _is_plan(file: Path) -> bool:
    return {"format", "fingerprint", "sites"} <= _read_plan(file).keys()


def _is_of_plan(file: Path, other: Path) -> bool:
    with safe_open(other, framework="pt") as opened:
        if TENSORS_MARK.items() <= (opened.metadata() or {}).items():
            return True
        # Earlier versions wrote no mark.
        plan = _read_plan(file) if file.exists() else {}
        named = {*plan.get("updates", {}), *(f"adapter_maps/{path}" for path in plan.get("adapter_maps", {}))}
        return bool(named) and set(opened.keys()) == named


def _is_statistics(file: Path) -> bool:
    if not _is_safetensors(file):
        return False
    with safe_open(file, framework="pt") as opened:
        return RECORD in (opened.metadata() or {})


def _is_page(file: Path) -> bool:
    return PAGE_MARK.encode() in _head(file) or _contains(file, _OLD_PAGE_MARK)


def _is_onnx(file: Path) -> bool:
    # The first field is the version of the format, a small number; then the graph's, the producer's or others.
    head = _head(file)
    return head[:1] == b"\x08" and 0 < head[1] < 32 and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b":")


def _names_data(file: Path, other: Path) -> bool:
    return _contains(file, os.fsencode(other.name))


def _contains(file: Path, words: bytes) -> bool:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(words) >= 0


def _is_pt2(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        formats = [name for name in archive.namelist() if name.rpartition("/")[2] == "archive_format"]
        return any(archive.read(name).strip() == b"pt2" for name in formats)


def _is_openvino(file: Path) -> bool:
    head = _head(file)
    return head.startswith(b"<?xml") and b"<net " in head and b"<layers" in head


def _is_executorch(file: Path) -> bool:
    return _head(file)[4:6] == b"ET"


PLAN = FileKind(
    "a plan of slimdiff_fx", _is_plan, lambda file: (file.with_suffix(".safetensors"),), belongs=_is_of_plan
)
STATISTICS = FileKind("statistics of slimdiff_fx", _is_statistics)
PAGE = FileKind("a page of slimdiff_fx", _is_page)
# An export, which is known by its format alone.
ONNX = FileKind("an ONNX file", _is_onnx, lambda file: (file.with_name(f"{file.name}.data"),), belongs=_names_data)
PT2 = FileKind("an archive of torch.export or AOTInductor", _is_pt2)
OPENVINO = FileKind("an OpenVINO file", _is_openvino, lambda file: (file.with_suffix(".bin"),))
EXECUTORCH = FileKind("an ExecuTorch file", _is_executorch)
