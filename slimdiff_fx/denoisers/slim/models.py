"""Diffusers models that know their slim widths, so that a saved folder loads with `DiffusionPipeline.from_pretrained`.

Each class is its diffusers class plus two configuration entries. `slim_units`: which sites were cut, from how many
units to how many, and how wide their heads are; `slim_plan`: the digest of the plan that did it. The model is built
dense, on no memory when diffusers loads it, and its linears are replaced by smaller ones before weights come in.
Nothing is pickled, and nothing in a folder is run when it is loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from diffusers import DiTTransformer2DModel, ModelMixin, PixArtTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import nn

from passes.errors import CheckpointError, PlanError, UsageError
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.sites.site import Site
from slimdiff_fx.denoisers.slim.apply_plan import apply_plan, cut, eager_site, mend_head_count, shared_copy
from slimdiff_fx.denoisers.slim.dense_on_slim import guard
from slimdiff_fx.denoisers.slim.files import SlimModelMixin
from slimdiff_fx.denoisers.slim.ip_adapter_mixin import SlimIPAdapterMixin
from slimdiff_fx.denoisers.slim.lora_mixin import SlimLoraMixin
from slimdiff_fx.denoisers.slim.processors import SlimProcessorsMixin
from slimdiff_fx.files.plan_file import plan_digest

guard()  # for processes in which torch didn't call `register`

_Model = TypeVar("_Model", bound=type)
_ENTRIES = ("slim_units", "slim_plan")


def _dense_class(slim_class: type) -> type:
    return slim_class.__bases__[-1]


def _with_widths(cls: _Model) -> _Model:
    """Give a class an `__init__` that takes its dense class's arguments and the widths, and cuts the linears."""
    dense: Any = _dense_class(cls)
    dense_signature = inspect.signature(dense.__init__)

    def __init__(
        self: Any,
        *args: Any,
        slim_units: Mapping[str, Any] | None = None,
        slim_plan: str | None = None,
        **kwargs: Any,
    ) -> None:
        dense.__init__(self, *args, **kwargs)
        for name, entry in (slim_units or {}).items():
            _narrow(self, name, entry)
        self.register_to_config(slim_units=dict(slim_units or {}), slim_plan=slim_plan)

    # diffusers reads the signature to know which configuration entries to pass.
    ours = (inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in _ENTRIES)
    parameters = (*dense_signature.parameters.values(), *ours)
    __init__.__signature__ = dense_signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    cls.__init__ = __init__  # type: ignore[misc]
    # diffusers writes the module into model_index.json as the library to load the class from.
    cls.__module__ = "slimdiff_fx"
    return cls


@_with_widths
class SlimUNet2DConditionModel(
    SlimLoraMixin,
    SlimIPAdapterMixin,
    SlimProcessorsMixin,
    SlimModelMixin,
    UNet2DConditionModel,  # type: ignore[misc]
):
    """`UNet2DConditionModel` with fewer heads and neurons."""


@_with_widths
class SlimUNet2DModel(SlimProcessorsMixin, SlimModelMixin, UNet2DModel):  # type: ignore[misc]
    """`UNet2DModel` with fewer heads."""


@_with_widths
class SlimPixArtTransformer2DModel(SlimProcessorsMixin, SlimModelMixin, PixArtTransformer2DModel):  # type: ignore[misc]
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


def make_slim(model: ModelMixin, plan: SlimPlan, *, share: bool = False) -> ModelMixin:
    """Carry a plan out on an eager model, as a class that can be saved and loaded.

    Args:
        model: a dense or already slim diffusers denoiser; it is left as it is.
        plan: made for this model.
        share: take the untouched weights from the dense model and the new ones from the plan, with no copy: for a
            slim model that nobody else is given.

    Returns:
        A slim model; it is still an instance of the dense class.

    Raises:
        UsageError: a model class without a slim counterpart.
        PlanError: the plan is of another model.
    """
    slim_class = next((each for each in SLIM_CLASSES if isinstance(model, _dense_class(each))), None)
    if slim_class is None:
        known = ", ".join(_dense_class(each).__name__ for each in SLIM_CLASSES)
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
            _refuse_unknown_place(model, name, entry, plan.found.get(name))
    slim: Any
    if share:
        slim = shared_copy(model)
        cut(slim, plan)
    else:
        slim = apply_plan(model, plan)
    slim.__class__ = slim_class
    slim.register_to_config(slim_units=units, slim_plan=plan_digest(plan))
    vars(slim).pop("_cut_modules", None)  # from here on the configuration lists the cut modules
    slim._plan = plan if share else plan.copy()
    return cast(ModelMixin, slim)


def _refuse_unknown_place(model: nn.Module, name: str, entry: SitePlan, found: Site | None) -> None:
    """Refuse what a saved folder couldn't say: its configuration has a site's name and kind, and the class the rest."""
    if found is not None and eager_site(model, name, entry) != found:
        raise PlanError(
            f"site {name!r} is not where its class has it, and can't be saved; rewrite the captured program"
        )


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
    for path in site.paths:
        blocks = sum(each.path == path for each in site.writers)
        _resize(model, path, in_features=width if path == site.tap else None, out_features=width * blocks or None)
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
