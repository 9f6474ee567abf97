"""What lies beside a slim model's weights: digests of the weight files, and the plan that it was made by."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from diffusers import ModelMixin

from passes.errors import CheckpointError, PlanError
from passes.plan.slim_plan import SlimPlan
from slimdiff_fx.denoisers.altered import processor_with_weights, refuse_unsaved, wrapped_layer
from slimdiff_fx.files.atomic_write import replaced_file
from slimdiff_fx.files.manifest import MANIFEST_FILE, empty_manifest, file_digest
from slimdiff_fx.files.plan_file import PLAN_FILE, load_plan, plan_digest, save_plan

CHECKSUMS_FILE = "checksums.json"
_HUB_ARGUMENTS = ("repo_id", "commit_message", "private", "token", "create_pr")


class SlimModelMixin:
    """What the slim classes add to their diffusers class: checked files, and the plan."""

    # The plan, or the file that it lies in: it is large, and only adapters need it.
    _plan: SlimPlan | Path | None = None

    # diffusers looks at the signature to see whether variants and shards can be had.
    @functools.wraps(ModelMixin.save_pretrained)
    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers does, and beside it the plan and the digest of each weight file.

        Raises:
            CheckpointError: an adapter is loaded: its layers would be written in the place of the model's own; or an
                attention processor has weights.
            UsageError: something is on it that changes what it computes and that a folder doesn't hold.
        """
        wrapped = wrapped_layer(self)  # type: ignore[arg-type]
        if wrapped is not None:
            raise CheckpointError(
                f"{wrapped!r} is wrapped by an adapter and can't be saved so; call unload_lora_weights() on the "
                "pipeline, after fuse_lora() if the adapter is to stay in the weights"
            )
        processor = processor_with_weights(self)  # type: ignore[arg-type]
        if processor is not None:
            raise CheckpointError(
                f"{processor!r} has an attention processor with weights of its own, which diffusers can't load back; "
                "call unload_ip_adapter() or set_attn_processor(AttnProcessor2_0()) first"
            )
        refuse_unsaved(self)  # type: ignore[arg-type]
        push = kwargs.pop("push_to_hub", False)
        hub = {name: kwargs.pop(name) for name in _HUB_ARGUMENTS if name in kwargs}
        folder = Path(save_directory)
        _disown(folder.absolute().parent)
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        weights = (file for file in sorted(folder.glob("*.safetensors")) if file.stem != Path(PLAN_FILE).stem)
        digests = {file.name: file_digest(file) for file in weights}
        with replaced_file(folder / CHECKSUMS_FILE) as partial:
            partial.write_text(json.dumps(digests, indent=1), encoding="utf-8")
        if isinstance(self._plan, SlimPlan) or (self._plan is not None and self._plan.is_file()):
            save_plan(self.slim_plan(), folder / PLAN_FILE)
        if push:
            repository = hub.pop("repo_id", folder.name)
            self.push_to_hub(repository, variant=kwargs.get("variant"), **hub)  # type: ignore[attr-defined]

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> Any:
        """Load as diffusers does, after comparing the weight files with their digests.

        Raises:
            CheckpointError: a weight file is not the one that was saved.
        """
        place = Path(folder) / str(kwargs.get("subfolder") or "")
        check_digests(place)
        loaded = super().from_pretrained(folder, **kwargs)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._plan = place / PLAN_FILE
        return loaded

    def slim_plan(self) -> SlimPlan:
        """Give the plan that the model was made by; of a loaded one, from the folder that it was loaded from.

        Raises:
            CheckpointError: the file is gone, was never there, or is another model's.
        """
        if self._plan is None:
            raise CheckpointError(f"this {type(self).__name__} doesn't come from a plan, nor from a saved folder")
        if isinstance(self._plan, Path) and not self._plan.is_file():
            raise CheckpointError(
                f"{self._plan} is missing, without which nobody knows what was removed. diffusers doesn't fetch it "
                "from the hub by itself: give from_pretrained the folder that "
                "huggingface_hub.snapshot_download(repo_id) gives"
            )
        plan = load_plan(self._plan) if isinstance(self._plan, Path) else self._plan
        if plan_digest(plan) != self.config.get("slim_plan"):  # type: ignore[attr-defined]
            raise CheckpointError(
                f"{self._plan if isinstance(self._plan, Path) else 'the plan'} is not the one that this model was made "
                "by; keep a saved folder together, or slim anew with this version"
            )
        return plan

    def plan_from_dense(self) -> SlimPlan:
        """Give the plan, if it leads from the dense model to this one.

        Raises:
            PlanError: the model was slimmed more than once.
            CheckpointError: see `slim_plan`.
        """
        plan = self.slim_plan()
        for name, entry in self.config.slim_units.items():  # type: ignore[attr-defined]
            found = plan.sites.get(name)
            made = None if found is None else (found.units, len(found.kept), found.width)
            if made != (entry["units"], entry["kept"], entry.get("width")):
                raise PlanError(
                    f"site {name!r} was slimmed more than once, and adapters of the dense model can follow one plan "
                    "only; slim the dense model once, as far as it shall go"
                )
        return plan


def check_digests(folder: Path) -> None:
    """Compare weight files with the digests that lie beside them; a folder without digests passes.

    Raises:
        CheckpointError: a file is missing or differs.
    """
    listed = folder / CHECKSUMS_FILE
    if not listed.is_file():
        return
    try:
        digests: dict[str, str] = dict(json.loads(listed.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{listed} is garbled; save the pipeline anew") from error
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; save the pipeline anew")
        if file_digest(folder / name) != digest:
            raise CheckpointError(
                f"{folder / name} is not the file that was saved (truncated or altered); save it anew"
            )


def _disown(folder: Path) -> None:
    """Empty a pipeline folder's record of files, if it has one: a part was saved again, so the record is outdated."""
    if (folder / MANIFEST_FILE).is_file():
        with replaced_file(folder / MANIFEST_FILE) as partial:
            partial.write_text(empty_manifest(), encoding="utf-8")
