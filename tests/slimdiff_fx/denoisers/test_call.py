import pytest
import torch

from passes.errors import UsageError
from slimdiff_fx.denoisers.call import translate_call
from slimdiff_fx.denoisers.families import describe
from tests.toy_denoisers import FAMILIES


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_translated_call_gives_the_denoisers_own_prediction(family):
    model = FAMILIES[family](0, torch.float64)
    inputs = describe(model)
    given = dict(zip(inputs.module.forward.__code__.co_varnames[1:], inputs.args, strict=False)) | dict(inputs.kwargs)
    given["timestep"] = torch.tensor(7)  # as a scheduler gives it: a whole number, without a batch
    first = given.pop("sample", None)
    first = given.pop("hidden_states") if first is None else first
    args, kwargs = translate_call(inputs, (first,), {**given, "return_dict": False})
    assert args[0] is first
    times = kwargs.get("timestep", next(value for value in args if value.dim() == 1 and value[0] == 7))
    assert times.shape == (len(first),)
    with torch.no_grad():
        translated = inputs.module(*args, **kwargs)
        if family == "pixart":
            given.setdefault("added_cond_kwargs", {"resolution": None, "aspect_ratio": None})
        given["timestep"] = given["timestep"].expand(len(first))
        own = model(first, **given, return_dict=False)[0]
    assert torch.allclose(translated, own, rtol=0, atol=1e-12 * float(own.abs().max()))


def test_arguments_the_capture_does_not_know_are_refused():
    inputs = describe(FAMILIES["unet_sd15"](0, torch.float32))
    sample, time, text = inputs.args
    residual = torch.zeros(1)
    with pytest.raises(UsageError, match="mid_block_additional_residual"):
        translate_call(inputs, (sample, time, text), {"mid_block_additional_residual": residual})
    with pytest.raises(UsageError, match="cross_attention_kwargs"):
        translate_call(inputs, (sample, time, text), {"cross_attention_kwargs": {"scale": 0.5}})
    translate_call(inputs, (sample, time, text), {"cross_attention_kwargs": {}, "return_dict": False})


def test_missing_and_unknown_conditions_are_refused():
    inputs = describe(FAMILIES["unet_sdxl"](0, torch.float32))
    sample, time, text, added = inputs.args
    with pytest.raises(UsageError, match="no added_cond_kwargs"):
        translate_call(inputs, (sample, time, text), {})
    with pytest.raises(UsageError, match="image_embeds"):
        translate_call(inputs, (sample, time, text), {"added_cond_kwargs": {**added, "image_embeds": residual()}})


def residual():
    return torch.zeros(1)
