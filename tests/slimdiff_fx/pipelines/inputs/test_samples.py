import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from passes.errors import UsageError
from slimdiff_fx.pipelines.inputs.samples import gather_samples


@pytest.fixture(scope="module")
def pipe(toy_pipeline):
    return DiffusionPipeline.from_pretrained(toy_pipeline)


@pytest.fixture
def pictures(tmp_path):
    for colour in ("red", "green"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
        (tmp_path / f"{colour}.txt").write_text(f"noto {colour} apple")
    return tmp_path


def test_pictures_are_calibrated_on_where_there_are(pipe, pictures):
    by_default = gather_samples(pipe, prompts=None, images=pictures, samples=2, seed=0)
    assert {sample.image.file.name for sample in by_default} == {"red.png", "green.png"}
    asked_for = gather_samples(pipe, prompts=None, images=pictures, samples=2, seed=0, calibrate_on="pictures")
    assert asked_for == by_default


def test_of_pictures_the_captions_alone_can_be_taken(pipe, pictures):
    with_images = gather_samples(pipe, prompts=None, images=pictures, samples=2, seed=0)
    found = gather_samples(pipe, prompts=None, images=pictures, samples=2, seed=0, calibrate_on="trajectory")
    assert [sample.image for sample in found] == [None, None]
    assert [sample.condition for sample in found] == [sample.condition for sample in with_images]


@pytest.mark.parametrize("kind", [list, iter, set, dict.fromkeys, lambda words: (word for word in words)])
def test_any_iterable_of_prompts_will_do(pipe, kind):
    words = ["apple", "cat", "pizza"]
    found = gather_samples(pipe, prompts=kind(words), images=None, samples=3, seed=1)
    assert found == gather_samples(pipe, prompts=tuple(words), images=None, samples=3, seed=1)


def test_prompts_hold_no_pictures(pipe):
    with pytest.raises(UsageError, match="give `images`"):
        gather_samples(pipe, prompts=("rose",), images=None, samples=1, seed=0, calibrate_on="pictures")


def test_an_unknown_source_is_refused(pipe):
    with pytest.raises(UsageError, match="there are trajectory and pictures"):
        gather_samples(pipe, prompts=("rose",), images=None, samples=1, seed=0, calibrate_on="noise")
