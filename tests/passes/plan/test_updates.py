"""Rows and columns by hand: units of three channels, fused producers, offsets, heads of which a part is left."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from passes.plan.slim_plan import SitePlan
from passes.plan.updates import dense_parameters, is_changed, slim_shapes
from passes.rewrite.slicing import put_updates
from passes.sites.site import staying
from tests.sites import linear_site

KEPT = torch.tensor([True, False, False, True])
# Four heads of three channels; key and value come from one linear, the value's rows first.
SITE = linear_site("s", "attention", 4, 3, ("q", ("kv", (12,)), ("kv", (0,))), "out")
PLAIN = linear_site("s", "attention", 4, 3, ("q", "k", "v"), "out")
GATED = linear_site("f", "feed_forward", 5, 1, (("up", (0, 5)),), "down")


def test_channels_rows_and_columns() -> None:
    assert SITE.channels(KEPT).nonzero().flatten().tolist() == [0, 1, 2, 9, 10, 11]
    assert SITE.columns(KEPT, 2).tolist() == [0, 1, 9, 10]
    assert staying(24, SITE.gone(KEPT, 1)["kv", "out"]).tolist() == [0, 9, 12, 21]
    neurons = torch.tensor([False, True, False, False, True])
    assert staying(10, GATED.gone(neurons)["up", "out"]).tolist() == [1, 4, 6, 9]


def _numbered(*shape: int) -> Tensor:
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)


def test_new_weights_lie_where_their_units_were() -> None:
    parameters = {"q.weight": torch.zeros(12, 2), "kv.weight": torch.zeros(24, 2), "kv.bias": torch.zeros(24)}
    parameters["out.weight"] = torch.zeros(2, 12)
    parameters["out.bias"] = torch.zeros(2)
    updates = {
        "q.weight": _numbered(6, 2),
        "kv.weight": _numbered(12, 2),
        "kv.bias": _numbered(12),
        "out.weight": _numbered(2, 6),
        "out.bias": _numbered(2),
    }
    entry = SitePlan("attention", 4, (0, 3))
    found = dense_parameters(SITE, entry, updates, parameters, implied_scale=True)
    expected = {name: value.clone() for name, value in parameters.items()}
    channels = [0, 1, 2, 9, 10, 11]
    for place, channel in enumerate(channels):
        expected["q.weight"][channel] = updates["q.weight"][place]
        expected["out.weight"][:, channel] = updates["out.weight"][:, place]
        for half in (0, 1):
            expected["kv.weight"][12 * half + channel] = updates["kv.weight"][6 * half + place]
            expected["kv.bias"][12 * half + channel] = updates["kv.bias"][6 * half + place]
    expected["out.bias"] = updates["out.bias"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("implied", [True, False])
def test_the_scale_of_narrower_heads_is_taken_back_in_the_queries_alone(implied: bool) -> None:
    names = ("q", "k", "v")
    parameters = {
        f"{name}.{part}": torch.zeros(shape) for name in names for part, shape in (("weight", (12, 2)), ("bias", (12,)))
    }
    parameters["out.weight"] = torch.zeros(2, 12)
    updates = {f"{name}.weight": torch.full((8, 2), 2.0) for name in names} | {"q.bias": torch.full((8,), 4.0)}
    updates["out.weight"] = torch.ones(2, 8)
    entry = SitePlan("attention", 4, (0, 1, 2, 3), 2)
    found = dense_parameters(PLAIN, entry, updates, parameters, implied_scale=implied)
    factor = (3 / 2) ** 0.5 if implied else 1.0
    kept = torch.tensor([True, True, False] * 4)
    assert torch.allclose(found["q.weight"][kept], torch.tensor(2.0 * factor))
    assert torch.allclose(found["q.bias"][kept], torch.tensor(4.0 * factor))
    for name in ("k.weight", "v.weight"):
        assert torch.equal(found[name][kept], torch.full((8, 2), 2.0))
    assert not any(found[f"{name}.weight"][~kept].any() for name in names)
    assert torch.equal(found["out.weight"], kept.float().expand(2, 12))


def test_slim_shapes() -> None:
    parameters = {
        **{f"{name}.weight": torch.zeros(12, 2) for name in ("q",)},
        "kv.weight": torch.zeros(24, 7),
        "kv.bias": torch.zeros(24),
        "out.weight": torch.zeros(5, 12),
        "out.bias": torch.zeros(5),
    }
    assert dict(slim_shapes(SITE, SitePlan("attention", 4, (0, 3)), parameters)) == {
        "q.weight": (6, 2),
        "kv.weight": (12, 7),
        "kv.bias": (12,),
        "out.weight": (5, 6),
        "out.bias": (5,),
    }
    gated = {"up.weight": torch.zeros(10, 3), "down.weight": torch.zeros(4, 5)}
    shapes = dict(slim_shapes(GATED, SitePlan("feed_forward", 5, (2,)), gated))
    assert shapes == {"up.weight": (2, 3), "down.weight": (4, 1)}


@pytest.mark.parametrize(
    ("entry", "updates", "changed"),
    [
        (SitePlan("attention", 4, (0, 1, 2, 3)), (), False),
        (SitePlan("attention", 4, (0, 1, 2, 3), 3), (), False),
        (SitePlan("attention", 4, (0, 1, 2, 3), 2), (), True),
        (SitePlan("attention", 4, (1, 2, 3)), (), True),
        (SitePlan("attention", 4, (0, 1, 2, 3)), ("out.bias",), True),
        (SitePlan("attention", 4, (0, 1, 2, 3)), ("kv.weight",), True),
        (SitePlan("attention", 4, (0, 1, 2, 3)), ("other.weight",), False),
    ],
)
def test_what_changes_a_site(entry: SitePlan, updates: tuple[str, ...], changed: bool) -> None:
    assert is_changed(SITE, entry, {name: torch.zeros(1) for name in updates}) == changed


def test_updates_take_type_and_flags_of_what_they_replace() -> None:
    model = nn.ModuleDict({"up": nn.Linear(3, 4).half(), "down": nn.Linear(2, 3).double().requires_grad_(False)})
    untouched = model["up"].bias
    put_updates(
        model, GATED, {"up.weight": torch.ones(4, 3), "down.bias": torch.ones(3), "other.weight": torch.ones(1)}
    )
    assert model["up"].weight.dtype == torch.float16
    assert model["up"].weight.requires_grad
    assert bool((model["up"].weight == 1).all())
    assert model["down"].bias.dtype == torch.float64
    assert not model["down"].bias.requires_grad
    assert model["up"].bias is untouched
