"""LoRAs of the dense model on the slim one, in diffusers' own pipeline, against the masked dense model with them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

import slimdiff_fx
from passes.errors import CheckpointError, PlanError, UsageError
from slimdiff_fx.denoisers.families import describe
from slimdiff_fx.denoisers.slim.models import make_slim
from tests.slimdiff_fx.denoisers.slim.test_models import random_plan
from tests.toy_adapters import bare, masked, random_lora

# In float64: what is left is rounding. Single precision is held to 1e-5 in one test of its own.
EXACT = {"rtol": 0, "atol": 1e-10}
BLOCKS = {"unet": {"down": 0.2, "mid": 0.7, "up": 1.0}}


@pytest.fixture(scope="module")
def dense(toy_pipeline):
    pipe = DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def plan(dense):
    return random_plan(dense.unet, 5)


@pytest.fixture(scope="module")
def loras(dense):
    return [random_lora(dense.unet, seed) for seed in (1, 2)]


@pytest.fixture
def pair(dense, plan):
    """Give a dense and a slim pipeline of its own to each test, since adapters change models in place."""
    return _with_unet(dense, bare(dense.unet)), _with_unet(dense, make_slim(bare(dense.unet), plan))


def _with_unet(pipe, unet):
    other = copy.copy(pipe)
    other.register_modules(unet=unet, text_encoder=copy.deepcopy(pipe.text_encoder))
    return other


def _draw(pipe, **options):
    generator = torch.Generator().manual_seed(0)
    arguments = {"num_inference_steps": 2, "generator": generator, "output_type": "latent", **options}
    return pipe(["red apple", "rose"], **arguments).images


def _same(pair, plan, **tolerance):
    dense, slim = pair
    with masked(dense.unet, plan):
        expected = _draw(dense)
    torch.testing.assert_close(_draw(slim), expected, **(tolerance or EXACT))
    return expected


def test_slimming_and_slicing_commute(pair, plan, loras):
    without = _same(pair, plan)
    for pipe in pair:
        pipe.load_lora_weights(loras[0], adapter_name="one")
    one = _same(pair, plan)
    for pipe in pair:
        pipe.load_lora_weights(loras[1], adapter_name="two")
        pipe.set_adapters(["one", "two"], [0.7, BLOCKS])
    both = _same(pair, plan)
    assert (one - without).abs().max() > 0.1  # the adapters do something
    assert (both - one).abs().max() > 0.1
    for pipe in pair:
        pipe.fuse_lora(adapter_names=["one", "two"])
    torch.testing.assert_close(_same(pair, plan), both, **EXACT)
    for pipe in pair:
        pipe.unfuse_lora()
        pipe.delete_adapters("two")
        pipe.set_adapters("one")
    torch.testing.assert_close(_same(pair, plan), one, **EXACT)
    for pipe in pair:
        pipe.unload_lora_weights()
    torch.testing.assert_close(_same(pair, plan), without, **EXACT)


def test_in_single_precision(toy_pipeline, plan, loras):
    dense = DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float32)
    dense.set_progress_bar_config(disable=True)
    pair = dense, _with_unet(dense, make_slim(bare(dense.unet), plan))
    inputs = describe(dense.unet, tokens=16)
    for pipe in pair:
        pipe.load_lora_weights({key: value.float() for key, value in loras[0].items()})
    with torch.no_grad():
        slim = pair[1].unet(*inputs.args, return_dict=False)[0]
        with masked(dense.unet, plan):
            expected = dense.unet(*inputs.args, return_dict=False)[0]
    torch.testing.assert_close(slim, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_fused_before_slimming_is_fused_after_it(pair, plan, loras):
    dense, slim = pair
    dense.load_lora_weights(loras[0])
    slim.load_lora_weights(loras[0])
    for pipe in pair:
        pipe.fuse_lora(lora_scale=0.8)
        pipe.unload_lora_weights()
    entries = random_plan(dense.unet, 5)
    assert entries.sites == plan.sites
    before = _with_unet(dense, make_slim(dense.unet, entries))
    torch.testing.assert_close(_draw(before), _draw(slim), **EXACT)


@pytest.mark.parametrize("keys", ["peft", "kohya", "older diffusers", "peft with metadata"])
def test_formats_on_disk(keys, pair, plan, dense, tmp_path):
    lora = random_lora(dense.unet, 3, targets=("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"))
    if keys == "kohya":
        lora = {_kohya(key): value for key, value in lora.items()}
        downs = [key for key in lora if key.endswith("lora_down.weight")]
        lora |= {key.replace("lora_down.weight", "alpha"): torch.tensor(1.5) for key in downs}
    elif keys == "older diffusers":
        lora = {_older(key): value for key, value in lora.items() if ".ff." not in key}
    if keys == "peft with metadata":
        layers = {key.removeprefix("unet."): value for key, value in lora.items()}
        StableDiffusionPipeline.save_lora_weights(
            tmp_path,
            unet_lora_layers=layers,
            unet_lora_adapter_metadata={"r": 3, "lora_alpha": 9, "target_modules": []},
        )
    else:
        save_file(lora, tmp_path / "pytorch_lora_weights.safetensors")
    without = _draw(pair[1])
    for pipe in pair:
        pipe.load_lora_weights(tmp_path)
    assert (_same(pair, plan) - without).abs().max() > 0.05


def _kohya(key):
    path, _, matrix = key.removeprefix("unet.").rpartition(".lora_")
    return f"lora_unet_{path.replace('.', '_')}.lora_{'down' if matrix.startswith('A') else 'up'}.weight"


def _older(key):
    path, _, matrix = key.rpartition(".lora_")
    attention, _, linear = path.rpartition(".attn")[0], None, path.rpartition(".attn")[2]
    number, linear = linear.split(".", 1)
    linear = linear.removesuffix(".0")
    return f"{attention}.attn{number}.processor.{linear}_lora.{'down' if matrix.startswith('A') else 'up'}.weight"


def test_parts_of_text_encoders_are_left_to_diffusers(pair, plan, loras):
    encoder = copy.deepcopy(pair[0].text_encoder)
    encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "v_proj", "fc1"], init_lora_weights=False))
    text = {f"text_encoder.{key}": value for key, value in get_peft_model_state_dict(encoder).items()}
    for pipe in pair:
        pipe.load_lora_weights(loras[0])
    unet_only = _same(pair, plan)
    for pipe in pair:
        pipe.unload_lora_weights()
        pipe.load_lora_weights({**loras[0], **text})
    assert (_same(pair, plan) - unet_only).abs().max() > 1e-3


def test_loads_into_a_saved_pipeline(pair, plan, loras, tmp_path):
    pair[1].save_pretrained(tmp_path / "slim")
    pair[1].load_lora_weights(loras[0])
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "slim", dtype=torch.float64)
    loaded.save_pretrained(tmp_path / "again")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "again", dtype=torch.float64)
    loaded.load_lora_weights(loras[0])
    torch.testing.assert_close(_draw(loaded), _draw(pair[1]), **EXACT)


def test_hotswapping(pair, plan, loras):
    for pipe in pair:
        pipe.load_lora_weights(loras[0], adapter_name="one")
        pipe.load_lora_weights(loras[1], adapter_name="one", hotswap=True)
    swapped = _same(pair, plan)
    for pipe in pair:
        pipe.unload_lora_weights()
        pipe.load_lora_weights(loras[1])
    torch.testing.assert_close(_same(pair, plan), swapped, **EXACT)


def test_an_adapter_trained_on_the_slim_model_loads_as_it_is(pair, tmp_path):
    slim = pair[1]
    lora = random_lora(slim.unet, 4)
    slim.load_lora_weights(lora)
    rows = slim.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q").lora_B["default_0"].weight
    key = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"
    assert torch.equal(rows, lora[key])


def test_slices_by_hand(dense, plan, loras):
    sliced = slimdiff_fx.slice_lora(loras[0], plan)
    block = "unet.mid_block.attentions.0.transformer_blocks.0"
    heads, neurons = (plan.sites[f"mid_block.attentions.0.transformer_blocks.0.{name}"] for name in ("attn2", "ff.net"))
    rows = [8 * head + channel for head in heads.kept for channel in range(8)]
    gated = [*neurons.kept, *(neurons.units + unit for unit in neurons.kept)]
    expected = {
        f"{block}.attn2.to_v.lora_B.weight": loras[0][f"{block}.attn2.to_v.lora_B.weight"][rows],
        f"{block}.attn2.to_out.0.lora_A.weight": loras[0][f"{block}.attn2.to_out.0.lora_A.weight"][:, rows],
        f"{block}.ff.net.0.proj.lora_B.weight": loras[0][f"{block}.ff.net.0.proj.lora_B.weight"][gated],
        f"{block}.ff.net.2.lora_A.weight": loras[0][f"{block}.ff.net.2.lora_A.weight"][:, list(neurons.kept)],
    }
    assert len(heads.kept) < heads.units
    for key, value in sliced.items():
        whole = loras[0][key]
        wanted = expected.get(key, whole if value.shape == whole.shape else value)
        assert torch.equal(value, wanted), key


def test_refuses_what_it_cannot_slice(pair, plan, dense, loras):
    with pytest.raises(UsageError, match="kohya"):
        slimdiff_fx.slice_lora({_kohya(key): value for key, value in loras[0].items()}, plan)
    with pytest.raises(UsageError, match="no matrix of a plain LoRA"):
        pair[1].load_lora_weights(random_lora(dense.unet, 1, use_dora=True))
    narrow = {key: value[:-1] if "to_q.lora_B" in key else value for key, value in loras[0].items()}
    with pytest.raises(PlanError, match="of another model"):
        pair[1].load_lora_weights(narrow)
    path = "mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight"
    solved = replace(plan, updates={path: torch.zeros(1)})
    with pytest.raises(PlanError, match="doesn't say how an adapter follows"):
        slimdiff_fx.slice_lora(loras[0], solved)


def test_refuses_a_model_that_was_slimmed_twice(pair, loras):
    slim = pair[1].unet
    pair[1].register_modules(unet=make_slim(slim, random_plan(slim, 7)))
    with pytest.raises(PlanError, match="more than once"):
        pair[1].load_lora_weights(loras[0])


def test_refuses_without_the_right_plan(pair, loras, tmp_path):
    pair[1].save_pretrained(tmp_path)
    file = tmp_path / "unet" / "slim_plan.json"
    pipe = DiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float64)
    text = file.read_text()
    file.write_text(text.replace('"kept": [', '"kept": [ ').replace('"policy": {', '"policy": {"edited": 1'))
    with pytest.raises(CheckpointError, match="not the one that this model was made by"):
        pipe.load_lora_weights(loras[0])
    file.unlink()
    with pytest.raises(CheckpointError, match="snapshot_download"):
        pipe.load_lora_weights(loras[0])


def test_loaded_adapters_are_not_captured_or_saved(pair, plan, loras, tmp_path):
    for pipe in pair:
        pipe.load_lora_weights(loras[0])
        with pytest.raises(UsageError, match="fuse_lora"):
            slimdiff_fx.slim(pipe, prompts=["rose"], samples=1)
    with pytest.raises(CheckpointError, match="wrapped by an adapter"):
        pair[1].save_pretrained(tmp_path)
    with pytest.raises(PlanError, match="merge adapters first"):
        make_slim(pair[0].unet, plan)
