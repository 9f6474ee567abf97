"""An eager diffusers model, slimmed by the same plan, is the same function as the rewritten graph."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import nn

from passes.errors import PlanError
from passes.plan.slim_plan import SlimPlan
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from slimdiff_fx.denoisers.families import describe
from slimdiff_fx.denoisers.slim.apply_plan import apply_plan, eager_site
from slimdiff_fx.denoisers.slim.models import make_slim
from tests.families import EVERY_FAMILY
from tests.plans import captured, plan_of, random_plan, updated_plan
from tests.toy_denoisers import FAMILIES


def _model(family: str) -> nn.Module:
    return FAMILIES[family](0, torch.float64)


def _eager(model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = describe(model).module(*args, **kwargs)
    return result


@EVERY_FAMILY
def test_same_function_as_the_graph(family: str) -> None:
    program, model = captured(family), _model(family)
    plan = random_plan(program, seed=21)
    slim = apply_plan(model, plan)
    assert type(slim) is type(model)
    with torch.no_grad():
        expected = rewrite(program, plan)(*program.args, **program.kwargs)
    found = _eager(slim, program.args, dict(program.kwargs))
    assert (found - expected).norm() <= 1e-12 * expected.norm()
    dense = _eager(model, program.args, dict(program.kwargs))
    assert (found - dense).norm() > 1e-6 * dense.norm()
    graph_state = rewrite(program, plan).graph_module.state_dict()
    assert {k: v.shape for k, v in slim.state_dict().items() if k in graph_state} == {
        k: v.shape for k, v in graph_state.items()
    }


@EVERY_FAMILY
def test_sites_are_those_of_the_graph(family: str) -> None:
    program, model = captured(family), _model(family)
    entries = plan_of(program).sites
    for site in find_sites(program):
        found = eager_site(model, site.name, entries[site.name])
        assert (found.units, found.unit_width, found.tap) == (site.units, site.unit_width, site.tap)
        assert set(found.slices) == set(site.slices)


@EVERY_FAMILY
def test_plans_that_do_not_say_where_sites_are_do_the_same(family: str) -> None:
    plan = random_plan(captured(family), seed=26)
    assert plan.found.keys() == plan.sites.keys()
    old = SlimPlan.from_json(replace(plan, found={}).to_json())
    assert not old.found
    expected = apply_plan(_model(family), plan).state_dict()
    found = apply_plan(_model(family), old).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_place_that_is_not_the_models_is_refused() -> None:
    plan = random_plan(captured("unet_sd15"), seed=27)
    name, site = next((name, site) for name, site in plan.found.items() if site.kind == "attention")
    query, key, *rest = site.slices
    swapped = replace(plan, found={**plan.found, name: replace(site, slices=(key, query, *rest))})
    with pytest.raises(PlanError, match="another structure"):
        apply_plan(_model("unet_sd15"), swapped)
    elsewhere = replace(plan, found={**plan.found, name: replace(site, slices=(replace(query, path="a"), *rest))})
    with pytest.raises(PlanError, match="no such module"):
        apply_plan(_model("unet_sd15"), elsewhere)


def _pointers(tensors: Iterable[torch.Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def test_model_is_left_alone_and_the_slim_one_owns_its_weights() -> None:
    model = _model("unet_sd15")
    state = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    heads = [module.heads for module in model.modules() if isinstance(module, Attention)]
    plan = updated_plan(captured("unet_sd15"), seed=22)
    slim = apply_plan(model, plan)
    assert [module.heads for module in model.modules() if isinstance(module, Attention)] == heads
    new = slim.state_dict(keep_vars=True)
    for name, (value, before) in state.items():
        assert torch.equal(value, before)
        if new[name].shape == value.shape and name not in plan.updates:
            assert torch.equal(new[name], value)
    others = _pointers([value for value, _ in state.values()]) | _pointers(plan.updates.values())
    assert not _pointers(new.values()) & others


def test_a_model_slimmed_in_place_shares_nothing_with_the_plan() -> None:
    model, plan = _model("unet_sd15"), updated_plan(captured("unet_sd15"), seed=24)
    apply_plan(model, plan, in_place=True)
    assert not _pointers(model.parameters()) & _pointers(plan.updates.values())


def test_a_model_that_shares_its_weights_takes_them_from_model_and_plan() -> None:
    model, plan = _model("unet_sd15"), updated_plan(captured("unet_sd15"), seed=25)
    slim = dict(make_slim(model, plan, share=True).named_parameters())
    assert slim["conv_in.weight"] is model.get_parameter("conv_in.weight")
    assert all(slim[name].data_ptr() == value.data_ptr() for name, value in plan.updates.items())


def test_in_place_gives_the_same_object() -> None:
    model = _model("unet_sd15")
    plan = random_plan(captured("unet_sd15"), seed=23)
    expected = apply_plan(model, plan).state_dict()
    assert apply_plan(model, plan, in_place=True) is model
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    with pytest.raises(PlanError):
        apply_plan(model, plan)  # a slim model is another model


def test_keep_everything_is_the_identity() -> None:
    model = _model("dit")
    slim = apply_plan(model, plan_of(captured("dit")))
    assert all(torch.equal(a, b) for a, b in zip(slim.parameters(), model.parameters(), strict=True))


def test_train_mode_and_dropout_are_kept() -> None:
    model = _model("unet_sd15").train()
    slim = apply_plan(model, random_plan(captured("unet_sd15"), seed=22))
    assert all(module.training for module in slim.modules())


@pytest.mark.parametrize("how", ["other family", "other seed", "other weights"])
def test_other_models_are_refused(how: str) -> None:
    plan = random_plan(captured("unet_sd15"), seed=24)
    model = _model({"other family": "dit"}.get(how, "unet_sd15"))
    if how == "other seed":
        model = FAMILIES["unet_sd15"](1, torch.float64)
    if how == "other weights":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-1)
    with pytest.raises(PlanError):
        apply_plan(model, plan)


def _plan() -> SlimPlan:
    return random_plan(captured("unet_sd15"), seed=25, touched=1.0)


def test_wrapped_linear_is_refused_before_anything_changes() -> None:
    class Adapter(nn.Linear):
        pass

    model = _model("unet_sd15")
    last = [module for module in model.modules() if isinstance(module, Attention)][-1]
    last.to_v.__class__ = Adapter
    before = {name: value.shape for name, value in model.state_dict().items()}
    with pytest.raises(PlanError, match="is a Adapter"):
        apply_plan(model, _plan(), in_place=True)
    assert {name: value.shape for name, value in model.state_dict().items()} == before


def test_fused_projections_are_refused() -> None:
    model = copy.deepcopy(_model("unet_sd15"))
    model.fuse_qkv_projections()
    with pytest.raises(PlanError, match="fused"):
        apply_plan(model, _plan())


def test_narrower_heads_scale_as_written_out_attention_must() -> None:
    """Fused attention scales by itself; a processor that writes attention out reads the module's own number."""
    program, model = captured("unet_sd15"), _model("unet_sd15")
    seed = next(seed for seed in range(20) if _narrowed(updated_plan(program, seed)))
    plan = updated_plan(program, seed)
    slim = apply_plan(model, plan)
    for name, entry in plan.sites.items():
        if entry.kind != "attention":
            continue
        owner, dense = slim.get_submodule(name), model.get_submodule(name)
        head_dim = dense.to_q.out_features // dense.heads
        width = entry.width or head_dim
        assert dense.scale == pytest.approx(head_dim**-0.5)
        assert owner.scale == pytest.approx(width**-0.5)
        assert owner.heads == len(entry.kept)
        assert owner.inner_dim == owner.inner_kv_dim == len(entry.kept) * width == owner.to_q.out_features
        assert owner.sliceable_head_dim == max(2, len(entry.kept))
    with torch.no_grad():
        expected = rewrite(program, plan)(*program.args, **program.kwargs)
    slim.set_attn_processor(AttnProcessor())
    found = _eager(slim, program.args, dict(program.kwargs))
    assert (found - expected).norm() <= 1e-11 * expected.norm()


def _narrowed(plan: SlimPlan) -> bool:
    widths = [entry.width for entry in plan.sites.values() if entry.kind == "attention"]
    return sum(width is not None and width < 4 for width in widths) >= 2


def test_attention_that_is_not_to_be_scaled_stays_so() -> None:
    program, model = captured("unet_sd15"), _model("unet_sd15")
    seed = next(seed for seed in range(20) if _narrowed(updated_plan(program, seed)))
    for module in model.modules():
        if isinstance(module, Attention):
            module.scale_qk, module.scale = False, 1.0
    slim = apply_plan(model, updated_plan(program, seed))
    assert {module.scale for module in slim.modules() if isinstance(module, Attention)} == {1.0}


@pytest.mark.parametrize(("value", "extra", "words"), [(float("nan"), 0, "not finite"), (None, 1, "plan anew")])
@pytest.mark.parametrize("in_place", [True, False])
def test_updates_that_do_not_fit_are_refused_before_anything_changes(
    value: float | None, extra: int, words: str, in_place: bool
) -> None:
    model, plan = _model("unet_sd15"), _plan()
    name, entry = next((name, entry) for name, entry in plan.sites.items() if entry.kind == "feed_forward")
    path = f"{name.removesuffix('.net')}.net.2.weight"
    rows = dict(model.named_parameters())[path].shape[0]
    new = torch.zeros(rows, len(entry.kept) + extra, dtype=torch.float64)
    new[-1, -1] = 0.0 if value is None else value
    before = {name: (value.data_ptr(), value.shape) for name, value in model.state_dict().items()}
    with pytest.raises(PlanError, match=words):
        apply_plan(model, replace(plan, updates={path: new}), in_place=in_place)
    assert {name: (value.data_ptr(), value.shape) for name, value in model.state_dict().items()} == before


def test_units_that_were_kept_are_those_of_the_plan_and_not_the_first() -> None:
    model, plan = _model("unet_sd15"), _plan()
    slim = apply_plan(model, plan)
    for name, entry in plan.sites.items():
        owner = model.get_submodule(name)
        if entry.kind == "attention":
            width = owner.to_q.out_features // owner.heads
            rows = [unit * width + channel for unit in entry.kept for channel in range(width)]
            for linear in ("to_q", "to_k", "to_v"):
                new, old = (each.get_submodule(f"{name}.{linear}").weight for each in (slim, model))
                assert torch.equal(new, old[rows])
            assert torch.equal(slim.get_submodule(f"{name}.to_out.0").weight, owner.to_out[0].weight[:, rows])
