"""Whether an adapter is of the dense model or was trained on the slim one: each of its keys says so by its width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from passes.errors import PlanError, UsageError
from slimdiff_fx.denoisers.slim.lora import LinearCut, find_linear

# What in an adapter has the output rows of its linear, along which axis, and what its input columns: LoRA, DoRA, LoHa.
_ROWS = {"lora_B.weight": 0, "lora_B.bias": 0, "lora_magnitude_vector": 0, "hada_w1_a": 0}
_COLUMNS = {"lora_A.weight": 1, "hada_w1_b": 1}
_LOKR = "lokr_"


@dataclass(frozen=True)
class Width:
    """What one key of an adapter says of a linear that was cut.

    Attributes:
        key: in the adapter.
        path: of the linear.
        side: "output rows" or "input columns", whichever the linear has lost of.
        adapter: how many of them the adapter is made for.
        slim: how many the slim linear has.
    """

    key: str
    path: str
    side: str
    adapter: int
    slim: int


def widths_at_cuts(
    state_dict: Mapping[str, Tensor], consumes: Mapping[str, bool], slim: Mapping[str, int]
) -> tuple[Width, ...]:
    """List the widths that an adapter has where a model was cut.

    Args:
        state_dict: keys as diffusers or peft write them.
        consumes: linears that were cut, and whether of their input columns; otherwise of their output rows.
        slim: what is left of those, by path.
    """
    found = []
    for key, value in state_dict.items():
        path, leaf = find_linear(key, slim) or ("", "")
        if not path:
            continue
        side = "input columns" if consumes[path] else "output rows"
        axis = (_COLUMNS if consumes[path] else _ROWS).get(leaf.removesuffix(".weight") if "vector" in leaf else leaf)
        width = value.shape[axis] if axis is not None and value.dim() > axis else None
        if leaf.startswith(_LOKR):
            width = _lokr_width(state_dict, key.removesuffix(leaf), axis=int(consumes[path]))
        if width is not None:
            found.append(Width(key, path, side, width, slim[path]))
    return tuple(found)


def refuse_mixed(widths: Iterable[Width], cuts: Mapping[str, LinearCut]) -> None:
    """Refuse an adapter that isn't the dense model's throughout.

    Args:
        widths: of the adapter; at least one differs from the slim model's.
        cuts: of the plan that leads from the dense model to the slim one.

    Raises:
        PlanError: a width is neither the dense model's nor the slim one's.
        UsageError: some are the dense model's and some the slim one's.
    """
    dense, trained_on_slim = None, None
    for each in widths:
        expected = _dense_width(cuts[each.path], each.slim)
        if expected is not None and each.adapter not in (each.slim, expected):
            raise PlanError(
                f"the adapter has {each.adapter} {each.side} at {each.path!r}, where the dense model of this plan has "
                f"{expected} and the slim one {each.slim}; it is of another model"
            )
        if each.adapter != each.slim:
            dense = dense or each
        elif each.slim != expected:
            trained_on_slim = trained_on_slim or each
    if dense is not None and trained_on_slim is not None:
        raise UsageError(
            f"{dense.key!r} has the {dense.adapter} {dense.side} of the dense model, and {trained_on_slim.key!r} the "
            f"{trained_on_slim.adapter} {trained_on_slim.side} of the slim one; an adapter is of one of them: load the "
            "two as adapters of their own"
        )


def _dense_width(cut: LinearCut, slim: int) -> int | None:
    """Say how many channels the dense linear has; None if neither map nor kept units say it."""
    if cut.map is not None:
        heads, *rest = cut.map.shape
        if not cut.consumes:
            return int(heads * rest[-1])
        return len(cut.map) if cut.entry.width is not None else sum(cut.map.shape)
    return slim // len(cut.entry.kept) * cut.entry.units if cut.entry.width is None else None


def _lokr_width(state_dict: Mapping[str, Tensor], start: str, *, axis: int) -> int | None:
    """Multiply the sizes of a Kronecker product's two factors, each whole or itself a product of two."""
    width = 1
    for factor in ("w1", "w2"):
        parts = (state_dict.get(f"{start}{_LOKR}{factor}{end}") for end in ("", "_a" if axis == 0 else "_b"))
        part = next((each for each in parts if each is not None), None)
        if part is None or part.dim() <= axis:
            return None
        width *= part.shape[axis]
    return width
