"""A plan on disk: JSON, and beside it, where weights were solved for, their .safetensors file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from passes.errors import CheckpointError, PlanError
from passes.plan.slim_plan import SlimPlan
from slimdiff_fx.files.atomic_write import replaced_files
from slimdiff_fx.files.output_paths import expand, follow
from slimdiff_fx.files.own_files import PLAN, TENSORS_MARK, refuse_foreign_file

PLAN_FILE = "slim_plan.json"


def save_plan(plan: SlimPlan, file: Path) -> None:
    """Write a plan as JSON, and its tensors, if it has any, as .safetensors under the same name: both or neither.

    The tensors come into place first. Whatever stops a write between them, the text names its tensors by their digests,
    so that no plan is ever read with another's.

    Args:
        plan: what to write.
        file: the JSON file; `~` is expanded. Another plan there is replaced, with its tensors.

    Raises:
        OutputError: something else is there.
        CheckpointError: a file can't be written.
    """
    place = follow(file)
    refuse_foreign_file(place, PLAN)
    tensors = plan.tensors()
    with replaced_files(place, updates_file(place)) as (text, beside):
        if tensors:
            save_file({name: value.contiguous() for name, value in tensors.items()}, beside, TENSORS_MARK)
        text.write_text(plan.to_json(), encoding="utf-8")


def updates_file(plan_file: Path) -> Path:
    """Name the file beside a plan that holds its tensors."""
    return plan_file.with_suffix(".safetensors")


def load_plan(file: Path) -> SlimPlan:
    """Read a plan back.

    Raises:
        CheckpointError: the file is missing or no text.
        PlanError: it holds no plan; names the file.
    """
    file = expand(file)
    if not file.is_file():
        raise CheckpointError(f"there is no plan at {file}; make one with `slimdiff-fx plan`")
    try:
        # Beside a link to the plan, or else beside the plan itself.
        beside = next((each for each in (updates_file(file), updates_file(file.resolve())) if each.is_file()), file)
        tensors = load_file(beside) if beside != file else {}
        return SlimPlan.from_json(file.read_text(encoding="utf-8"), tensors)
    except (PlanError, RecursionError) as error:
        raise PlanError(f"{file}: {error}") from error
    except (UnicodeDecodeError, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} can't be read as a plan ({error}); make it anew with `slimdiff-fx plan`"
        ) from error


def plan_digest(plan: SlimPlan) -> str:
    """Give the digest by which a slim model knows its plan; the plan's tensors are in it by their own digests."""
    return hashlib.sha256(plan.to_json().encode()).hexdigest()
