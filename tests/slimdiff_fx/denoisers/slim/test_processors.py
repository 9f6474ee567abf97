"""Attention processors with weights: of whole heads on an attention that lost some, they are refused."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, CustomDiffusionAttnProcessor, IPAdapterAttnProcessor
from torch import nn

from passes.errors import UsageError
from passes.plan.fingerprint import fingerprint_parameters
from passes.plan.slim_plan import SitePlan, SlimPlan
from slimdiff_fx.denoisers.slim.apply_plan import eager_site
from slimdiff_fx.denoisers.slim.models import SlimPixArtTransformer2DModel, SlimUNet2DModel, make_slim
from tests.toy_pipeline import tiny_unet

CUT = "mid_block.attentions.0.transformer_blocks.0.attn2"


@pytest.fixture
def slim():
    """Give a slim UNet of which one cross-attention has 2 of 4 heads of 8 channels."""
    dense = tiny_unet()
    entry = SitePlan("attention", 4, (0, 2))
    sites = (eager_site(dense, CUT, entry),)
    return make_slim(dense, SlimPlan(fingerprint_parameters(dict(dense.named_parameters()), sites), {CUT: entry}))


custom = partial(CustomDiffusionAttnProcessor, cross_attention_dim=128)


@pytest.mark.parametrize(
    "processor",
    [
        custom(train_kv=True, train_q_out=True, hidden_size=32),
        custom(train_kv=True, train_q_out=False, hidden_size=32),
        IPAdapterAttnProcessor(hidden_size=32, cross_attention_dim=128),
    ],
)
def test_whole_heads_are_refused_where_some_are_gone(processor, slim) -> None:
    before = slim.attn_processors
    with pytest.raises(UsageError, match=f"{CUT}': .* has 32 channels at 'to_[kq].*, and the slim attention 16"):
        slim.set_attn_processor({**before, f"{CUT}.processor": processor})
    assert slim.attn_processors == before


def test_whole_heads_go_where_none_are_gone(slim) -> None:
    other = f"{CUT.replace('mid_block', 'down_blocks.1')}.processor"
    processor = custom(train_kv=True, train_q_out=False, hidden_size=32)
    slim.set_attn_processor({**slim.attn_processors, other: processor})
    assert slim.attn_processors[other] is processor


def test_files_of_the_dense_model_are_refused(slim, tmp_path) -> None:
    dense = tiny_unet()
    cross = {name: custom(train_kv=True, train_q_out=True, hidden_size=32) for name in dense.attn_processors}
    plain = CustomDiffusionAttnProcessor(train_kv=False, train_q_out=False)
    dense.set_attn_processor({name: each if "attn2" in name else plain for name, each in cross.items()})
    dense.save_attn_procs(tmp_path, safe_serialization=False)
    pipe = SimpleNamespace(hf_device_map=None, components={})
    with pytest.raises(UsageError, match="trained for the dense model"):
        slim.load_attn_procs(tmp_path, weight_name="pytorch_custom_diffusion_weights.bin", _pipeline=pipe)


def test_what_fits_or_has_no_weights_is_set(slim) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

    for processor in (AttnProcessor(), Scaled()):
        slim.set_attn_processor(processor)
        assert set(slim.attn_processors.values()) == {processor}
    fits = IPAdapterAttnProcessor(hidden_size=16, cross_attention_dim=128)
    slim.set_attn_processor({**slim.attn_processors, f"{CUT}.processor": fits})


@pytest.mark.parametrize("slim_class", [SlimUNet2DModel, SlimPixArtTransformer2DModel])
def test_other_classes_check_them_too(slim_class) -> None:
    assert "SlimProcessorsMixin" in [each.__name__ for each in slim_class.__mro__]
