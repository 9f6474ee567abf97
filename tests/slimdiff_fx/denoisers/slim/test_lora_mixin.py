"""Adapters on slim models that have no plan, and files whose keys several tools have written."""

from __future__ import annotations

import copy
import functools
import logging

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import slimdiff_fx
from passes.errors import CheckpointError, PlanError, UsageError
from slimdiff_fx.denoisers.families import describe
from slimdiff_fx.denoisers.slim.models import SlimUNet2DConditionModel, make_slim
from tests.slimdiff_fx.denoisers.slim.test_models import random_plan
from tests.toy_adapters import bare, masked, random_lora
from tests.toy_pipeline import tiny_unet

# In float64: what is left is rounding.
EXACT = {"rtol": 0, "atol": 1e-10}
LINEARS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def dense():
    return tiny_unet().double()


@pytest.fixture(scope="module")
def plan(dense):
    return random_plan(dense, 5)


@pytest.fixture(scope="module")
def lora(dense):
    return random_lora(dense, 1)


@pytest.fixture
def slim(dense, plan):
    """Give a slim model as `from_config` builds it: widths, and no plan."""
    made = make_slim(copy.deepcopy(dense), plan)
    unet = SlimUNet2DConditionModel.from_config(made.config).double().eval()
    unet.load_state_dict(made.state_dict())
    return unet


@functools.cache
def _inputs():
    return describe(tiny_unet().double()).args


def _predict(unet):
    with torch.no_grad():
        return unet(*_inputs(), return_dict=False)[0]


# Names. What scripts write differs by the linear: attention in diffusers' words, all else in peft's.


def _diffusers(key: str) -> str:
    return key.replace("lora_A", "lora.down").replace("lora_B", "lora.up")


def _processor(key: str) -> str:
    path, _, matrix = key.rpartition(".lora_")
    owner, linear = path.removesuffix(".0").rsplit(".", 1)
    if not linear.startswith("to_"):
        return _diffusers(key)
    return f"{owner}.processor.{linear}_lora.{'down' if matrix.startswith('A') else 'up'}.weight"


NAMES = {"peft": lambda key: key, "diffusers": _diffusers, "processor": _processor}


def _load(unet, *arguments, **options):
    """Give what came of loading: an error's class, or None and the model has the adapter."""
    try:
        unet.load_lora_adapter(*arguments, **options)
    except Exception as error:
        return type(error)
    return None


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_what_the_dense_loads_the_slim_loads(dense, plan, lora, data) -> None:
    paths = sorted({key.rpartition(".lora_")[0] for key in lora})
    chosen = data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=8, unique=True))
    state, alphas = {}, {}
    for path in chosen:
        name = NAMES[data.draw(st.sampled_from(sorted(NAMES)))]
        rank = data.draw(st.integers(1, 3))
        down, up = lora[f"{path}.lora_A.weight"], lora[f"{path}.lora_B.weight"]
        matrices = {"lora_A": down[:rank], "lora_B": up[:, :rank]}
        for matrix in data.draw(st.permutations(sorted(matrices))):
            state[name(f"{path}.{matrix}.weight")] = matrices[matrix]
        if data.draw(st.booleans()):
            alphas[f"{path}.alpha"] = data.draw(st.sampled_from([0.5, 2.0]))
    left_out = data.draw(st.sampled_from(["", "", "", "lora_B", ".up"]))
    state = {key: value for key, value in state.items() if not left_out or left_out not in key}
    options = {"prefix": "unet", "network_alphas": alphas or None}
    pair = bare(dense), make_slim(bare(dense), plan)
    ends = [_load(unet, state, **options) for unet in pair]
    assert ends[0] == ends[1]
    if ends[0] is None:
        with masked(pair[0], plan):
            expected = _predict(pair[0])
        torch.testing.assert_close(_predict(pair[1]), expected, **EXACT)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_all_of_a_file_counts_not_its_first_key(name, dense, plan, lora) -> None:
    # One key in other words than the rest, wherever it stands, and all are sliced: 4 attentions of 4, 2 gates of 2.
    odd = f"unet.{Q}.lora_B.weight"
    mixed = {(NAMES[name](key) if key == odd else _diffusers(key)): value for key, value in lora.items()}
    sliced = slimdiff_fx.slice_lora(mixed, plan)
    assert sliced.keys() == lora.keys()
    expected = slimdiff_fx.slice_lora(lora, plan)
    assert all(torch.equal(value, expected[key]) for key, value in sliced.items())
    kept = plan.sites[Q.removesuffix(".to_q")].kept
    assert len(sliced[odd]) == 8 * len(kept) < len(lora[odd])


def test_a_file_as_training_scripts_write_it(dense, plan, tmp_path, toy_pipeline) -> None:
    trained = copy.deepcopy(dense)
    trained.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(LINEARS), init_lora_weights=False))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(trained))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    written = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert {"lora" if ".lora." in key else "peft" for key in written} == {"lora", "peft"}
    pipe = DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float64, unet=make_slim(bare(dense), plan))
    pipe.load_lora_weights(tmp_path)
    with masked(trained, plan):
        expected = _predict(trained)
    torch.testing.assert_close(_predict(pipe.unet), expected, **EXACT)


# No plan.


def test_without_a_plan_adapters_of_slim_shapes_go_in_and_out(slim, tmp_path) -> None:
    without = _predict(slim)
    for options in ({}, {"use_dora": True}, {"lora_bias": True, "target_modules": ["to_out.0", "ff.net.2"]}):
        options = {"r": 3, "target_modules": list(LINEARS), "init_lora_weights": False, **options}
        slim.add_adapter(LoraConfig(**options), adapter_name="mine")
        expected = _predict(slim)
        assert (expected - without).abs().max() > 1e-3
        slim.save_lora_adapter(tmp_path, adapter_name="mine")
        slim.delete_adapters("mine")
        torch.testing.assert_close(_predict(slim), without, **EXACT)
        slim.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True, adapter_name="again")
        torch.testing.assert_close(_predict(slim), expected, **EXACT)
        slim.fuse_lora()
        slim.unfuse_lora()
        slim.unload_lora()
        torch.testing.assert_close(_predict(slim), without, **EXACT)


def test_without_a_plan_adapters_are_swapped_and_weighted(slim) -> None:
    one, two = (random_lora(slim, seed) for seed in (1, 2))
    slim.load_lora_adapter(one, prefix="unet", adapter_name="a")
    first = _predict(slim)
    slim.load_lora_adapter(two, prefix="unet", adapter_name="a", hotswap=True)
    second = _predict(slim)
    slim.load_lora_adapter(one, prefix="unet", adapter_name="b", low_cpu_mem_usage=True)
    slim.set_adapters(["a", "b"], [0.0, 1.0])
    torch.testing.assert_close(_predict(slim), first, **EXACT)
    slim.set_adapters("a")
    torch.testing.assert_close(_predict(slim), second, **EXACT)
    assert (second - first).abs().max() > 1e-3


def test_without_a_plan_only_a_shape_that_differs_asks_for_it(slim, lora, dense) -> None:
    uncut = {key: value for key, value in lora.items() if "conv1" in key or "time_emb" in key or ".to_q.lora_A" in key}
    slim.load_lora_adapter({key: value for key, value in uncut.items() if "to_q" not in key}, prefix="unet")
    slim.unload_lora()
    before = {name: value.clone() for name, value in slim.state_dict().items()}
    rows = slim.get_submodule(Q).out_features
    with pytest.raises(CheckpointError, match=f"32 output rows at '{Q}', where this slim model has {rows}"):
        slim.load_lora_adapter({key: value for key, value in lora.items() if Q in key}, prefix="unet")
    assert all(torch.equal(value, before[name]) for name, value in slim.state_dict().items())
    with pytest.raises(CheckpointError, match="doesn't come from a plan"):
        slim.load_lora_adapter(random_lora(dense, 1, use_dora=True), prefix="unet")


def test_without_a_plan_a_file_of_others_keys_sets_nothing(slim, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        slim.load_lora_adapter({"lora_foo": torch.tensor(2.0)}, prefix="transformer")
    assert not hasattr(slim, "peft_config")
    with pytest.raises(UsageError, match="kohya"):
        slim.load_lora_adapter({"lora_unet_mid_block_to_q.lora_up.weight": torch.zeros(16, 3)}, prefix=None)


def test_metadata_of_a_file_is_read(slim, tmp_path) -> None:
    options = {"r": 2, "lora_alpha": 6, "target_modules": ["to_q", "to_out.0"], "init_lora_weights": False}
    slim.add_adapter(LoraConfig(**options))
    expected = _predict(slim)
    slim.save_lora_adapter(tmp_path)
    slim.unload_lora()
    slim.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    assert (slim.peft_config["default_0"].r, slim.peft_config["default_0"].lora_alpha) == (2, 6)
    torch.testing.assert_close(_predict(slim), expected, **EXACT)
    slim.unload_lora()
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": '{"r": 2, "no such option": 1}'})
    with pytest.raises(TypeError, match="could not be instantiated"):
        slim.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)


def test_a_saved_model_without_its_plan_takes_its_own_adapters(dense, plan, lora, tmp_path) -> None:
    make_slim(bare(dense), plan).save_pretrained(tmp_path)
    (tmp_path / "slim_plan.json").unlink()
    slim = SlimUNet2DConditionModel.from_pretrained(tmp_path)
    slim.load_lora_adapter(random_lora(slim, 3), prefix="unet")
    with pytest.raises(CheckpointError, match=r"output rows at .*slim_plan\.json is missing"):
        slim.load_lora_adapter(lora, prefix="unet")


def test_a_model_slimmed_twice_takes_its_own_adapters(dense, plan) -> None:
    once = make_slim(bare(dense), plan)
    twice = make_slim(once, random_plan(once, 7))
    own = random_lora(twice, 3)
    twice.load_lora_adapter(own, prefix="unet")
    assert torch.equal(twice.get_submodule(Q).lora_B["default_0"].weight, own[f"unet.{Q}.lora_B.weight"])


# With one.


def test_parts_of_two_models_are_refused_by_name(dense, plan, lora) -> None:
    slim = make_slim(bare(dense), plan)
    own = random_lora(slim, 2)
    other = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_B.weight"
    mixed = {**lora, f"unet.{other}": own[f"unet.{other}"]}
    with pytest.raises(UsageError, match=f"lora_B.weight' has the 32 output rows of the dense model, and '{other}'"):
        slim.load_lora_adapter(mixed, prefix="unet")
    with pytest.raises(PlanError, match="of another model"):
        slim.load_lora_adapter({**lora, f"unet.{other}": torch.zeros(64, 3).double()}, prefix="unet")
    assert not hasattr(slim, "peft_config")


def test_dora_of_either_model(dense, plan) -> None:
    slim = make_slim(bare(dense), plan)
    with pytest.raises(UsageError, match="no matrix of a plain LoRA"):
        slim.load_lora_adapter(random_lora(dense, 1, use_dora=True), prefix="unet")
    slim.load_lora_adapter(random_lora(slim, 1, use_dora=True), prefix="unet")


def test_keys_that_the_dense_only_warns_of(dense, plan, lora, caplog) -> None:
    slim = make_slim(bare(dense), plan)
    odd = {f"unet.{Q}.lora_A.weight.cat": torch.tensor(1.0).double(), f"unet.{Q}.alpha": torch.tensor(2.0).double()}
    with caplog.at_level(logging.WARNING):
        slim.load_lora_adapter({**lora, **odd}, prefix="unet")
    alone = make_slim(bare(dense), plan)
    alone.load_lora_adapter(lora, prefix="unet")
    assert torch.equal(_predict(slim), _predict(alone))


def test_files_and_folders_without_a_pipeline(dense, plan, lora, tmp_path) -> None:
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(lora, file)
    found = []
    for source in (tmp_path, str(tmp_path), str(file)):
        slim = make_slim(bare(dense), plan)
        slim.load_lora_adapter(pretrained_model_name_or_path_or_dict=source, prefix="unet", use_safetensors=True)
        found.append(_predict(slim))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert (found[0] - _predict(make_slim(bare(dense), plan))).abs().max() > 1e-3
