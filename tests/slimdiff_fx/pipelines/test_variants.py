"""Which weight files are loaded where there are several, or only a variant of them."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import torch
import typer
from diffusers import DiffusionPipeline

import slimdiff_fx
from passes.errors import CheckpointError, UsageError
from slimdiff_fx.cli import app
from slimdiff_fx.denoisers.slim.models import make_slim
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.pipelines.variants import choose_variant, grouped, hub_files
from tests.failing_command import run
from tests.slimdiff_fx.denoisers.slim.test_models import random_plan
from tests.toy_pipeline import tiny_unet

UNET, ENCODER = "diffusion_pytorch_model", "model"


@pytest.mark.parametrize(
    ("unet", "encoder", "asked", "expected"),
    [
        ("{}.safetensors", "{}.safetensors", None, None),
        ("{}.fp16.safetensors", "{}.fp16.safetensors", None, "fp16"),
        ("{}.fp16.safetensors", "{}.safetensors", None, "fp16"),
        ("{}.safetensors", "{}.fp16.safetensors", None, "fp16"),
        ("{}.safetensors {}.fp16.safetensors", "{}.safetensors {}.fp16.safetensors", None, None),
        ("{}.safetensors {}.fp16.safetensors", "{}.safetensors", "fp16", "fp16"),
        ("{}.fp16.safetensors {}.ema.safetensors", "{}.ema.safetensors", None, "ema"),
        ("{}.fp16.safetensors {}.ema.safetensors", "{}.safetensors", "ema", "ema"),
        ("{}.non_ema.safetensors", "{}.safetensors {}.bin", None, "non_ema"),
        ("{}.fp16-00001-of-00002.safetensors {}.safetensors.index.fp16.json", "{}.safetensors", None, "fp16"),
        ("{}-00001-of-00002.fp16.safetensors", "{}.safetensors", None, "fp16"),
        ("{}-00001-of-00002.safetensors {}.safetensors.index.json", "{}.safetensors", None, None),
        ("{}.safetensors slim_plan.safetensors lora.fp16.safetensors", "{}.safetensors", None, None),
    ],
)
def test_plain_weights_are_taken_and_else_the_variant_that_all_have(unet, encoder, asked, expected) -> None:
    files = {
        "unet": ["config.json", *unet.replace("{}", UNET).split()],
        "text_encoder": ["config.json", *encoder.replace("{}", ENCODER).split()],
        "scheduler": ["scheduler_config.json"],
    }
    assert choose_variant("toy", files, asked) == expected


@pytest.mark.parametrize(
    ("unet", "encoder", "asked", "error", "message"),
    [
        ("{}.fp16.safetensors {}.ema.safetensors", "{}.safetensors", None, UsageError, "ema and fp16; choose one with"),
        ("{}.fp16.safetensors", "{}.bf16.safetensors", None, CheckpointError, "unet has fp16; text_encoder has bf16"),
        ("{}.fp16.safetensors", "{}.safetensors", "fp8", UsageError, "unet has fp16, and neither fp8 nor plain"),
        (
            "{}.safetensors {}.fp16.safetensors",
            "{}.safetensors",
            "ema",
            UsageError,
            "no weights .*'ema'; there is fp16",
        ),
        ("{}.safetensors", "{}.safetensors", "fp16", UsageError, "there is none, so leave `variant` out"),
        ("{}.safetensors", "{}.safetensors", "../x", UsageError, "a variant is a word such as fp16"),
        ("{}.safetensors", "{}.safetensors", "", UsageError, "a variant is a word such as fp16"),
        (
            "{}.bin",
            "{}.safetensors",
            None,
            CheckpointError,
            r"unet has its weights only as diffusion_.*\.bin, a pickle",
        ),
        ("{}.fp16.bin", "{}.safetensors", "fp16", CheckpointError, r"only as .*\.fp16\.bin.*variant=\"fp16\""),
        ("{}.safetensors", "pytorch_{}.bin", None, CheckpointError, "text_encoder has .* pytorch_model.bin, a pickle"),
    ],
)
def test_what_cannot_be_loaded_is_said_with_what_to_do(unet, encoder, asked, error, message) -> None:
    files = {"unet": unet.replace("{}", UNET).split(), "text_encoder": encoder.replace("{}", ENCODER).split()}
    with pytest.raises(error, match=message) as raised:
        choose_variant("toy", files, asked)
    assert "\n" not in str(raised.value)


def rename(folder: Path, variant: str) -> None:
    for file in folder.glob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))


def weights(pipe):
    return {name: values.clone() for name, values in pipe.unet.state_dict().items()}


def assert_same(pipe, expected):
    found = pipe.unet.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], values) for name, values in expected.items())


@pytest.fixture(scope="module")
def expected(toy_pipeline):
    return weights(load_pipeline(str(toy_pipeline)).pipe)


@pytest.mark.parametrize("components", [("unet", "vae", "text_encoder"), ("unet",), ("vae", "text_encoder")])
def test_a_folder_with_only_a_variant_is_loaded(pipeline, components, expected) -> None:
    for name in components:
        rename(pipeline / name, "fp16")
    assert_same(load_pipeline(str(pipeline)).pipe, expected)
    assert_same(load_pipeline(str(pipeline), variant="fp16").pipe, expected)


def test_a_name_that_diffusers_stumbles_over_is_named(pipeline, expected) -> None:
    (pipeline / "tokenizer" / "LICENSE").write_text("free")
    assert_same(load_pipeline(str(pipeline)).pipe, expected)
    rename(pipeline / "unet", "fp16")
    with pytest.raises(CheckpointError, match=r"tokenizer/LICENSE has no ending, .* beside such a name; move it"):
        load_pipeline(str(pipeline))


def test_the_variant_that_was_asked_for_is_loaded(pipeline, expected) -> None:
    other = tiny_unet(7)
    other.save_pretrained(pipeline / "unet", variant="ema")
    assert_same(load_pipeline(str(pipeline)).pipe, expected)
    assert_same(load_pipeline(str(pipeline), variant="ema").pipe, other.state_dict())


def test_sharded_variants_of_a_slim_folder_are_loaded_and_checked(pipeline) -> None:
    dense = tiny_unet()
    slim = make_slim(dense, random_plan(dense, 2))
    pipe = DiffusionPipeline.from_pretrained(pipeline, unet=slim)
    shutil.rmtree(pipeline)
    pipe.to(torch.float16).save_pretrained(pipeline, variant="fp16", max_shard_size="40KB")
    shards = sorted((pipeline / "unet").glob("*.fp16-*-of-*.safetensors"))
    assert len(shards) > 1
    loaded = load_pipeline(str(pipeline)).pipe
    assert type(loaded.unet) is slimdiff_fx.SlimUNet2DConditionModel
    assert_same(loaded, {name: values.float() for name, values in slim.state_dict().items()})
    content = bytearray(shards[1].read_bytes())
    content[-1] ^= 1
    shards[1].write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=rf"{shards[1].name} is not the file that was saved"):
        load_pipeline(str(pipeline))


def test_pickled_weights_are_converted_by_the_command_that_is_given(pipeline, tmp_path, monkeypatch, expected) -> None:
    pipe = DiffusionPipeline.from_pretrained(pipeline)
    shutil.rmtree(pipeline / "unet")
    pipe.unet.save_pretrained(pipeline / "unet", safe_serialization=False)
    with pytest.raises(CheckpointError, match="unet has its weights only as") as raised:
        load_pipeline(str(pipeline))
    *_, option, code = shlex.split(str(raised.value))
    assert option == "-c"
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert_same(load_pipeline("pipeline-safetensors").pipe, expected)


def test_on_the_hub_the_variant_is_looked_up_where_plain_weights_fail(pipeline, monkeypatch, expected) -> None:
    rename(pipeline / "unet", "fp16")
    real, asked = DiffusionPipeline.from_pretrained, []

    def fetch(model, variant, **options):
        asked.append((model, variant))
        return real(str(pipeline), variant=variant, **options)

    names = [file.relative_to(pipeline).as_posix() for file in pipeline.rglob("*") if file.is_file()]
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", fetch)
    monkeypatch.setattr("slimdiff_fx.pipelines.variants.list_repo_files", lambda repo: names)
    assert_same(load_pipeline("someone/toy").pipe, expected)
    assert asked == [("someone/toy", None), ("someone/toy", "fp16")]
    with pytest.raises(UsageError, match="unet has fp16, and neither ema nor plain"):
        load_pipeline("someone/toy", variant="ema")
    asked.clear()
    load_pipeline("someone/toy", variant="fp16")
    assert asked == [("someone/toy", "fp16")]


def test_with_no_network_the_cached_files_are_listed(pipeline, monkeypatch) -> None:
    def offline(repo):
        raise ConnectionError("no network")

    monkeypatch.setattr("slimdiff_fx.pipelines.variants.list_repo_files", offline)
    cached = str(pipeline / "model_index.json")
    monkeypatch.setattr("slimdiff_fx.pipelines.variants.try_to_load_from_cache", lambda repo, file: cached)
    assert "diffusion_pytorch_model.safetensors" in hub_files("someone/toy")["unet"]
    monkeypatch.setattr("slimdiff_fx.pipelines.variants.try_to_load_from_cache", lambda repo, file: None)
    assert hub_files("someone/toy") == {}
    with pytest.raises(CheckpointError, match="neither in the local cache nor can it be fetched"):
        load_pipeline("someone/there-is-no-such-pipeline", variant="fp16")


def test_files_are_grouped_by_component() -> None:
    files = ["model_index.json", "unet/b.json", "unet/a.json", "vae/x/deep.bin", "README.md"]
    assert grouped(files) == {"unet": ["a.json", "b.json"]}


def test_every_command_that_takes_a_model_takes_a_variant(pipeline) -> None:
    commands = typer.main.get_command(app).commands
    taking = {name for name, each in commands.items() if any(option.name == "model" for option in each.params)}
    assert taking >= {"slim", "inspect", "calibrate", "plan", "apply", "export"}
    for name in taking:
        assert any("--variant" in option.opts for option in commands[name].params), name
    line = run("inspect", pipeline, "--variant", "fp8", expect=2)
    assert "no weights of the variant 'fp8'" in line
