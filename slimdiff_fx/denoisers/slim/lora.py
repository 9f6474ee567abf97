"""Take a LoRA of the dense denoiser along: its matrices are sliced as the plan slices the weights.

The adapter adds B A to a linear's weights W. Where units are removed, rows of B go with the rows of W, and columns of A
with its columns: exactly what the masked dense model with the adapter computes. Where new weights were solved for, the
plan holds the maps by which they came from W (see `passes.solve.adapter_maps`), and B A goes through the same.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor

from passes.arguments import check_kind
from passes.errors import PlanError, UsageError
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.sites.site import Slice, channels_gone, staying
from slimdiff_fx.denoisers.slim.sites_of_classes import linears_of_site, slices_of_linear

_DENOISERS = ("unet", "transformer")
_KOHYA = ("lora_unet_", "lora_te")
_PEFT_ROOT = "base_model.model."
_A, _B, _BIAS = "lora_A.weight", "lora_B.weight", "lora_B.bias"


@dataclass(frozen=True)
class LinearCut:
    """What becomes of one linear of a changed site.

    Attributes:
        path: of the linear.
        entry: what stays of its site.
        consumes: whether it loses input columns; otherwise it loses output rows.
        solved: whether the plan has new weights for it.
        map: how those come from the dense ones, see `passes.solve.adapter_maps`; None if the plan doesn't say.
        slices: where the units are in it; empty if the plan doesn't say.
    """

    path: str
    entry: SitePlan
    consumes: bool
    solved: bool
    map: Tensor | None
    slices: tuple[Slice, ...] = ()


def slice_lora(state_dict: Mapping[str, Tensor], plan: SlimPlan) -> dict[str, Tensor]:
    """Slice an adapter of the dense model for the slim one.

    Examples:
        >>> name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
        >>> adapter = {f"{name}.lora_A.weight": torch.ones(2, 16), f"{name}.lora_B.weight": torch.ones(16, 2)}
        >>> sliced = slimdiff_fx.slice_lora(adapter, heads_plan)  # 3 of its 4 heads stay
        >>> sliced[f"{name}.lora_B.weight"].shape
        torch.Size([12, 2])

    Args:
        state_dict: keys as diffusers and peft write them, mixed or not, with or without "unet." or "transformer."
            before them; those of text encoders are left as they are.
        plan: what the slim model was made by.

    Returns:
        The adapter for the slim model, of the same ranks, in peft's keys. `load_lora_weights` of a slim pipeline does
        this by itself.

    Raises:
        UsageError: keys of another format, or an adapter that isn't a plain LoRA, at a site that was cut.
        PlanError: the adapter is of another model, or the plan solved for new weights and doesn't say by which map.
    """
    check_kind("state_dict", state_dict, Mapping, "the adapter's tensors by key")
    check_kind("plan", plan, SlimPlan, "the plan that the slim model was made by, or result.plan")
    return slice_values(as_peft(state_dict), linear_cuts(plan))


def slice_values(state_dict: Mapping[str, Tensor], cuts: Mapping[str, LinearCut]) -> dict[str, Tensor]:
    """Slice the values of an adapter, under the keys that they have.

    Raises:
        UsageError: kohya's keys, or an adapter that isn't a plain LoRA, at a site that was cut.
        PlanError: the adapter is of another model, or it isn't known how it follows the weights.
    """
    refuse_kohya(state_dict)
    sliced: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        found = find_linear(key, cuts)
        sliced[key] = value if found is None else _slice(key, value, cuts[found[0]], found[1])
    return sliced


def refuse_kohya(keys: Iterable[str]) -> None:
    """Refuse keys that don't say which linear they belong to.

    Raises:
        UsageError: says how they are converted.
    """
    if any(key.startswith(_KOHYA) for key in keys):
        raise UsageError(
            "this LoRA has kohya's keys; convert it first: "
            "state_dict, network_alphas = StableDiffusionPipeline.lora_state_dict(file)"
        )


def as_peft(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write each of the denoiser's keys as peft does; those of text encoders are left to diffusers."""
    return {key if key.startswith("text_encoder") else _as_peft(key): value for key, value in state_dict.items()}


def linear_cuts(plan: SlimPlan) -> dict[str, LinearCut]:
    """List the linears that a plan changes, by path."""
    cuts = {}
    for name, entry in plan.sites.items():
        if len(entry.kept) == entry.units and entry.width is None:
            continue
        site = plan.found.get(name)
        linears = linears_of_site(name, entry.kind) if site is None else {path: path == site.tap for path in site.paths}
        for path, consumes in linears.items():
            solved = f"{path}.weight" in plan.updates
            slices = () if site is None else tuple(each for each in site.slices if each.path == path)
            cuts[path] = LinearCut(path, entry, consumes, solved, plan.adapter_maps.get(path), slices)
    return cuts


def find_linear(key: str, paths: Container[str]) -> tuple[str, str] | None:
    """Find the linear that a key belongs to, whoever wrote it, and what of it the key names in peft's words.

    Args:
        key: as peft or diffusers write it, with or without the denoiser's name before it.
        paths: of the linears that matter.
    """
    if key.startswith("text_encoder"):
        return None
    first, _, rest = _as_peft(key).removeprefix(_PEFT_ROOT).partition(".")
    parts = (rest if first in _DENOISERS else f"{first}.{rest}").split(".")
    for end in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:end])
        if path in paths:
            return path, ".".join(parts[end:])
    return None


def cut_rows(cut: LinearCut, dense: Tensor) -> Tensor:
    """Slice a tensor of one linear that loses output rows, [dense, ...] to [slim, ...].

    Raises:
        PlanError: the tensor is of another model.
    """
    return _rows(cut, dense.double()).to(dense.dtype).contiguous()


def _as_peft(key: str) -> str:
    return str(next(iter(convert_unet_state_dict_to_peft({key: None}))))


def _slice(key: str, value: Tensor, cut: LinearCut, leaf: str) -> Tensor:
    plain = leaf in (_A, _B, _BIAS)
    if not plain and value.numel() == 1:  # an alpha, or a number that diffusers doesn't know: it has no channels
        return value
    if not plain or (leaf != _BIAS and value.dim() != 2):
        raise UsageError(
            f"{key!r} is no matrix of a plain LoRA, and {cut.path!r} was cut; fuse this adapter into the dense model "
            "(fuse_lora, then unload_lora_weights), and slim that"
        )
    if cut.solved and cut.map is None:
        raise PlanError(
            f"the plan solved for new weights of {cut.path!r} and doesn't say how an adapter follows them; plan anew "
            "from statistics with this version, or fuse the adapter into the dense model and slim that"
        )
    if leaf == (_A if cut.consumes else _B) or (leaf == _BIAS and not cut.consumes):
        if not cut.consumes:
            return cut_rows(cut, value)
        return _columns(cut, value.double().T).T.to(value.dtype).contiguous()
    return value


def _rows(cut: LinearCut, dense: Tensor) -> Tensor:
    """Slice along the first axis, output rows: [dense, ...] to [slim, ...]."""
    if cut.map is not None:
        heads, _, head_dim = cut.map.shape
        _check_size(cut, dense, heads * head_dim)
        return (cut.map.to(dense) @ dense.reshape(heads, head_dim, -1)).reshape(-1, *dense.shape[1:])
    kept, _ = _split(cut, dense)
    return dense[kept]


def _columns(cut: LinearCut, dense: Tensor) -> Tensor:
    """Slice along the first axis, which holds the input columns: [dense, rank] to [slim, rank]."""
    if cut.map is not None and cut.entry.width is not None:
        _check_size(cut, dense, len(cut.map))
        return cut.map.to(dense).T @ dense
    kept, gone = _split(cut, dense)
    if cut.map is None:
        return dense[kept]
    _check_size(cut, dense, sum(cut.map.shape))
    return dense[kept] + cut.map.to(dense).T @ dense[gone]


def _split(cut: LinearCut, dense: Tensor) -> tuple[Tensor, Tensor]:
    """Give which of the dense linear's channels stay and which go, int64."""
    units = cut.entry.units
    slices = cut.slices or slices_of_linear(cut.entry, cut.path, len(dense), reads=cut.consumes)
    _check_size(cut, dense, max((each.start + units * each.per_unit for each in slices), default=0))
    (gone,) = channels_gone(slices, cut.entry.mask()).values()
    return staying(len(dense), gone), gone


def _check_size(cut: LinearCut, dense: Tensor, expected: int) -> None:
    if len(dense) != expected or not len(dense):
        side = "input columns" if cut.consumes else "output rows"
        raise PlanError(
            f"the adapter has {len(dense)} {side} at {cut.path!r}, where the dense model of this plan has "
            f"{expected or 'more'}; it is of another model"
        )
