"""Diffusers models that know their slim widths, so that a saved folder loads with `DiffusionPipeline.from_pretrained`.

Each class is its diffusers class plus one configuration entry, `slim_units`: which sites were cut, from how many units
to how many, and how wide their heads are. The model is built dense, on no memory when diffusers loads it, and its
linears are replaced by smaller ones before weights come in. Nothing is pickled and nothing in a folder can run code.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from diffusers import DiTTransformer2DModel, ModelMixin, PixArtTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import nn

from passes.errors import CheckpointError, PlanError, UsageError
from passes.plan import SitePlan, SlimPlan
from slimdiff_fx.apply_plan import apply_plan, eager_site, mend_head_count
from slimdiff_fx.atomic_write import replaced_file

CHECKSUMS_FILE = "checksums.json"
_Model = TypeVar("_Model", bound=type)


class SlimModelMixin:
    """What the slim classes add to their diffusers class: checked files, and the widths (see `_with_widths`)."""

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save as diffusers does, and the digest of each weight file beside it."""
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        folder = Path(save_directory)
        digests = {file.name: _digest(file) for file in sorted(folder.glob("*.safetensors"))}
        with replaced_file(folder / CHECKSUMS_FILE) as partial:
            partial.write_text(json.dumps(digests, indent=1), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> Any:
        """Load as diffusers does, after comparing the weight files with their digests.

        Raises:
            CheckpointError: a weight file is not the one that was saved.
        """
        check_digests(Path(folder) / str(kwargs.get("subfolder") or ""))
        return super().from_pretrained(folder, **kwargs)  # type: ignore[misc]


def _with_widths(cls: _Model) -> _Model:
    """Give a class an `__init__` that takes its dense class's arguments and `slim_units`, and cuts the linears."""
    dense: Any = cls.__mro__[2]
    dense_signature = inspect.signature(dense.__init__)

    def __init__(self: Any, *args: Any, slim_units: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        dense.__init__(self, *args, **kwargs)
        for name, entry in (slim_units or {}).items():
            _narrow(self, name, entry)
        self.register_to_config(slim_units=dict(slim_units or {}))

    # diffusers reads the signature to know which configuration entries to pass.
    widths = inspect.Parameter("slim_units", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = (*dense_signature.parameters.values(), widths)
    __init__.__signature__ = dense_signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    cls.__init__ = __init__  # type: ignore[misc]
    # diffusers writes the module into model_index.json as the library to load the class from.
    cls.__module__ = "slimdiff_fx"
    return cls


@_with_widths
class SlimUNet2DConditionModel(SlimModelMixin, UNet2DConditionModel):  # type: ignore[misc]
    """`UNet2DConditionModel` with fewer heads and neurons."""


@_with_widths
class SlimUNet2DModel(SlimModelMixin, UNet2DModel):  # type: ignore[misc]
    """`UNet2DModel` with fewer heads."""


@_with_widths
class SlimPixArtTransformer2DModel(SlimModelMixin, PixArtTransformer2DModel):  # type: ignore[misc]
    """`PixArtTransformer2DModel` with fewer heads and neurons."""


@_with_widths
class SlimDiTTransformer2DModel(SlimModelMixin, DiTTransformer2DModel):  # type: ignore[misc]
    """`DiTTransformer2DModel` with fewer heads and neurons."""


SLIM_CLASSES: tuple[type, ...] = (
    SlimUNet2DConditionModel,
    SlimUNet2DModel,
    SlimPixArtTransformer2DModel,
    SlimDiTTransformer2DModel,
)


def make_slim(model: ModelMixin, plan: SlimPlan) -> ModelMixin:
    """Carry a plan out on an eager model, as a class that can be saved and loaded.

    Args:
        model: a dense or already slim diffusers denoiser; it is left as it is.
        plan: made for this model.

    Returns:
        A slim model that shares the untouched weights; it is still an instance of the dense class.

    Raises:
        UsageError: a model class without a slim counterpart.
        PlanError: the plan is of another model.
    """
    slim_class = next((each for each in SLIM_CLASSES if isinstance(model, each.__mro__[2])), None)
    if slim_class is None:
        known = ", ".join(each.__mro__[2].__name__ for each in SLIM_CLASSES)
        raise UsageError(f"{type(model).__name__} can't be saved slim; supported are {known}")
    before: dict[str, Any] = dict(getattr(model.config, "slim_units", None) or {})
    units = {name: dict(entry) for name, entry in before.items()}
    for name, entry in plan.sites.items():
        if len(entry.kept) < entry.units or entry.width is not None:
            now = dict(units.get(name, {"kind": entry.kind, "units": entry.units}))
            now["kept"] = len(entry.kept)
            if entry.width is not None:
                now["width"] = entry.width
            units[name] = now
    slim = apply_plan(model, plan)
    slim.__class__ = slim_class
    cast(Any, slim).register_to_config(slim_units=units)
    return slim


def _narrow(model: nn.Module, name: str, entry: Mapping[str, Any]) -> None:
    """Replace a site's linears by fresh ones of the kept width; their weights are loaded afterwards."""
    try:
        kind, units, kept = entry["kind"], int(entry["units"]), int(entry["kept"])
        if not 1 <= kept <= units:
            raise ValueError(f"{kept} of {units} units kept")
        site = eager_site(model, name, SitePlan(kind, units, tuple(range(kept))))
        head_width = int(entry.get("width", site.unit_width))
        if not 1 <= head_width <= site.unit_width:
            raise ValueError(f"heads of width {head_width}, dense ones have {site.unit_width}")
    except (KeyError, TypeError, ValueError, PlanError) as error:
        raise CheckpointError(
            f"config.json: slim_units of {name!r} is garbled ({error}); save the pipeline anew"
        ) from error
    width = kept * head_width
    for producer in site.producers:
        _resize(model, producer.path, out_features=width * len(producer.offsets))
    _resize(model, site.consumer, in_features=width)
    mend_head_count(model, site, kept, head_width)


def _resize(model: nn.Module, path: str, *, in_features: int | None = None, out_features: int | None = None) -> None:
    parent_path, _, attribute = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    old = parent.get_submodule(attribute)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(
        in_features or old.in_features,
        out_features or old.out_features,
        old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    setattr(parent, attribute, new)


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
        if _digest(folder / name) != digest:
            raise CheckpointError(
                f"{folder / name} is not the file that was saved (truncated or altered); save it anew"
            )


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
