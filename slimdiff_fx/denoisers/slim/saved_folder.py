"""Whether a saved folder still is what was saved: its weights, its plans, and the widths that were cut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passes.errors import CheckpointError
from passes.plan.slim_plan import SlimPlan
from slimdiff_fx.denoisers.slim.files import CHECKSUMS_FILE, check_digests
from slimdiff_fx.files.manifest import MANIFEST_FILE, WrittenFile, read_manifest
from slimdiff_fx.files.plan_file import PLAN_FILE, load_plan, plan_digest, updates_file

_CONFIG = "config.json"
# Settings that users edit by hand, as they may in any diffusers folder.
_SETTINGS = (".json", ".txt", ".md", ".jinja")


def check_saved_folder(folder: Path, components: Mapping[str, Any]) -> tuple[str, ...]:
    """Compare the components of a pipeline folder with what was written, each file once.

    Weights, vocabularies in binary, plans, and the configurations of slim models must be what they were. Others may be
    edited. What has its own digests (`checksums.json`) and is loaded by a class of ours is compared with them when it
    is loaded, and isn't here.

    Args:
        folder: of a pipeline; if it has no record, only what a slim model's own files say is checked.
        components: library and class of each, by the name of its folder, as model_index.json has them.

    Returns:
        Names of the settings that were edited since.

    Raises:
        CheckpointError: a file is missing or differs.
        PlanError: a plan is damaged.
    """
    listed = read_manifest(folder) or {}
    edited = []
    for name, entry in listed.items():
        component = name.partition("/")[0]
        if component not in components or "/" not in name:
            continue
        file = folder / name
        is_setting = file.suffix in _SETTINGS and not _is_slim_record(file)
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; get the folder anew, or save the pipeline anew")
        if _has_own_digest(file, components[component]) or _is_unchanged(file, entry):
            continue
        if not is_setting:
            raise CheckpointError(
                f"{file} is not the file that was saved (truncated or altered); get it anew, or, if it was changed on "
                f"purpose, delete {folder / MANIFEST_FILE}"
            )
        edited.append(name)
    for component, (library, _) in components.items():
        check_slim_component(folder / component)
        if library != "slimdiff_fx":
            check_digests(folder / component)
    return tuple(edited)


def check_slim_component(folder: Path) -> None:
    """Compare the plan in a slim model's folder with the model's configuration; a folder with no plan passes.

    Raises:
        CheckpointError: the plan, or the widths in the configuration, are not those that the model was made by.
        PlanError: the plan is damaged.
    """
    config = _read_config(folder)
    if not config.get("slim_plan") or not (folder / PLAN_FILE).is_file():
        return
    plan = load_plan(folder / PLAN_FILE)
    if plan_digest(plan) != config["slim_plan"]:
        raise CheckpointError(
            f"{folder / PLAN_FILE} is not the plan that the model beside it was made by (truncated or altered); get "
            "the folder anew, or slim anew"
        )
    _check_widths(config.get("slim_units"), plan, folder / _CONFIG)


def _check_widths(units: Any, plan: SlimPlan, file: Path) -> None:
    """Compare what was cut with the plan. After slimming twice the plan is the second, and units are the dense ones."""
    try:
        written = {name: (int(entry["kept"]), entry.get("width")) for name, entry in dict(units or {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: slim_units is garbled ({error}); get the folder anew, or slim anew") from error
    for name, site in plan.sites.items():
        kept, width = written.get(name, (site.units, None))
        if kept != len(site.kept) or (site.width is not None and width != site.width):
            raise CheckpointError(
                f"{file}: slim_units of {name!r} doesn't fit {PLAN_FILE} beside it; get the folder anew, or slim anew"
            )


def _is_unchanged(file: Path, entry: WrittenFile) -> bool:
    try:
        return entry.is_unchanged(file)
    except OSError as error:
        raise CheckpointError(f"{file} can't be read ({error.strerror}); get the file anew") from error


def _is_slim_record(file: Path) -> bool:
    if file.name in (PLAN_FILE, updates_file(Path(PLAN_FILE)).name, CHECKSUMS_FILE):
        return True
    return file.name == _CONFIG and "slim_units" in _read_config(file.parent)


def _has_own_digest(file: Path, entry: Any) -> bool:
    """Say whether a file is compared with a digest elsewhere: gigabytes are read once for that."""
    if entry[0] != "slimdiff_fx" or file.suffix != ".safetensors":
        return False
    if file.name == updates_file(Path(PLAN_FILE)).name:
        return bool(_read_config(file.parent).get("slim_plan")) and (file.parent / PLAN_FILE).is_file()
    try:
        listed = json.loads((file.parent / CHECKSUMS_FILE).read_text(encoding="utf-8"))
        return file.name in listed
    except (OSError, ValueError, TypeError):
        return False


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
