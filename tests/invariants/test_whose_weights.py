"""Whatever a user does to one of the things that slimming hands out, the others and the folder stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

import slimdiff_fx
from passes.plan.slim_plan import SlimPlan
from passes.program.ownership import weights_digest
from slimdiff_fx.slimming.job import Job
from tests.toy_adapters import random_lora

HOLDERS = "dense", "slim", "program", "plan"
SETTINGS: dict[str, Any] = {"samples": 2, "steps": 2, "batch": 2}


def _load(folder: Path) -> DiffusionPipeline:
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def things(toy_pipeline, tmp_path_factory):
    """Slim once; each test may change one thing, and looks at how all stood before it."""
    dense = _load(toy_pipeline)
    result = slimdiff_fx.slim(dense, prompts=["red apple", "rose"], policy=slimdiff_fx.KeepParams(0.9), **SETTINGS)
    assert result.plan.updates
    folder = tmp_path_factory.mktemp("saved") / "slim"
    result.save_pretrained(folder)
    return SimpleNamespace(dense=dense, result=result, folder=folder, toy=toy_pipeline)


def _modules(things: SimpleNamespace, holder: str) -> dict[str, nn.Module]:
    if holder == "program":
        return {"program": things.result.program.graph_module}
    pipe = {"dense": things.dense, "slim": things.result.pipe}.get(holder)
    return {} if pipe is None else {n: m for n, m in pipe.components.items() if isinstance(m, nn.Module)}


def _state(things: SimpleNamespace) -> dict[str, Any]:
    """Say how everything stands: bytes, dtypes, what is frozen, what the tokenizers and schedulers hold."""
    state: dict[str, Any] = {}
    for holder in HOLDERS:
        modules = _modules(things, holder)
        state[holder] = {
            name: (weights_digest(module), [value.requires_grad for value in module.parameters()])
            for name, module in modules.items()
        }
    for holder, pipe in (("dense", things.dense), ("slim", things.result.pipe)):
        state[holder] |= {"tokens": len(pipe.tokenizer), "times": pipe.scheduler.timesteps.tolist()}
    plan: SlimPlan = things.result.plan
    state["plan"] = plan.to_json()
    files = sorted(file for file in things.folder.rglob("*") if file.is_file())
    state["folder"] = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return state


def _tensors(things: SimpleNamespace, holder: str) -> list[Tensor]:
    if holder == "plan":
        return list(things.result.plan.tensors().values())
    return [value for module in _modules(things, holder).values() for value in module.parameters()]


def _train(things: SimpleNamespace, holder: str) -> None:
    values = [value.requires_grad_() for value in _tensors(things, holder) if value.is_floating_point()]
    sum(value.double().square().sum() for value in values).backward()
    torch.optim.SGD(values, lr=1e-3).step()
    for value in values:
        value.grad = None


def _fuse(things: SimpleNamespace, holder: str) -> None:
    pipe = {"dense": things.dense, "slim": things.result.pipe}.get(holder)
    if pipe is None:  # as peft writes a fused weight
        for value in _tensors(things, holder):
            value.data += 0.01 * value.data
        return
    pipe.load_lora_weights(random_lora(_load(things.toy).unet, 3))
    pipe.fuse_lora()
    pipe.unload_lora_weights()


def _cast(things: SimpleNamespace, holder: str) -> None:
    for module in _modules(things, holder).values():
        module.to(torch.bfloat16)


def _freeze(things: SimpleNamespace, holder: str) -> None:
    for value in _tensors(things, holder):
        value.requires_grad_(not value.requires_grad)


def _free(things: SimpleNamespace, holder: str) -> None:
    for value in _tensors(things, holder):
        value.data = torch.empty(0)


def _reconfigure(things: SimpleNamespace, holder: str) -> None:
    for pipe in [{"dense": things.dense, "slim": things.result.pipe}.get(holder)]:
        if pipe is not None:
            pipe.scheduler.set_timesteps(7)
            pipe.tokenizer.add_tokens([f"<{holder}>"])
            pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))


def _save(things: SimpleNamespace, holder: str, folder: Path) -> None:
    pipe = {"dense": things.dense, "slim": things.result.pipe}.get(holder)
    if pipe is not None:
        pipe.save_pretrained(folder)
        things.result.save_pretrained(folder / "result")


@pytest.mark.parametrize("action", [_train, _fuse, _cast, _freeze, _reconfigure])
@pytest.mark.parametrize("holder", HOLDERS)
def test_only_what_is_changed_changes(things, holder: str, action: Callable[..., None]) -> None:
    before = _state(things)
    action(things, holder)
    after = _state(things)
    others = [name for name in before if name != holder]
    assert {name: after[name] for name in others} == {name: before[name] for name in others}
    for module in _modules(things, holder).values():  # for the tests that follow
        module.to(torch.float32)


@pytest.mark.parametrize("holder", ["dense", "slim"])
def test_saving_changes_nothing(things, holder: str, tmp_path: Path) -> None:
    before = _state(things)
    _save(things, holder, tmp_path / "copy")
    assert _state(things) == before


@pytest.mark.parametrize("holder", ["slim", "program"])
def test_freeing_a_result_leaves_the_dense_model_and_the_other_result(toy_pipeline, things, holder: str) -> None:
    dense = _load(toy_pipeline)
    one, two = (Job.capture(dense, check=False).carry_out(things.result.plan) for _ in range(2))
    kept = SimpleNamespace(dense=dense, result=two, folder=things.folder)
    before = _state(kept)
    _free(SimpleNamespace(dense=dense, result=one), holder)
    assert _state(kept) == before


def test_the_plan_still_leads_to_the_slim_model(toy_pipeline) -> None:
    dense = _load(toy_pipeline)
    result = slimdiff_fx.slim(dense, prompts=["red apple"], policy=slimdiff_fx.KeepParams(0.9), **SETTINGS)
    expected = weights_digest(result.model)
    things = SimpleNamespace(dense=dense, result=result, toy=toy_pipeline)
    for holder in ("dense", "slim", "program"):
        _fuse(things, holder)
    assert weights_digest(slimdiff_fx.apply_plan(_load(toy_pipeline).unet, result.plan)) == expected
    with pytest.raises(slimdiff_fx.SlimDiffError, match="weights have changed since it was calibrated"):
        result.replan(slimdiff_fx.KeepParams(0.95))
