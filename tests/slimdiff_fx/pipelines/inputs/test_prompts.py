import json

import pytest

from passes.errors import CheckpointError, UsageError
from slimdiff_fx.pipelines.inputs.prompts import choose_samples, read_captions, read_prompts


def test_lines_and_json_give_the_same_prompts(tmp_path):
    text, data = tmp_path / "a.txt", tmp_path / "a.json"
    text.write_text("red apple\n\n  cat face  \n")
    data.write_text(json.dumps(["red apple", "", " cat face"]))
    assert read_prompts(text) == read_prompts(data) == ("red apple", "cat face")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_prompt_file_is_refused(tmp_path, content):
    file = tmp_path / "prompts.txt"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"prompts\.txt is empty"):
        read_prompts(file)


def test_json_that_is_no_list_is_refused(tmp_path):
    file = tmp_path / "prompts.json"
    file.write_text('{"a": 1}')
    with pytest.raises(UsageError, match="no JSON list"):
        read_prompts(file)


def test_missing_prompt_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="doesn't exist"):
        read_prompts(tmp_path / "none.txt")


def test_samples_are_a_seeded_choice_without_repeats():
    prompts = [str(number) for number in range(50)]
    chosen, note = choose_samples(prompts, 20, seed=1)
    assert len(set(chosen)) == 20
    assert note is None
    assert chosen == choose_samples(prompts, 20, seed=1)[0]
    assert chosen != choose_samples(prompts, 20, seed=2)[0]
    assert choose_samples(prompts, 50, seed=1)[0][:20] == chosen


def test_more_samples_than_prompts_cycle_and_say_so():
    chosen, note = choose_samples(["a", "b", "c"], 7, seed=0)
    assert [chosen.count(prompt) for prompt in chosen[:3]] == [3, 2, 2]
    assert chosen[3:6] == chosen[:3]
    assert note is not None
    assert "7 samples from 3 prompts" in note


def test_no_prompts_and_no_samples_are_refused():
    with pytest.raises(UsageError, match="give `prompts` or `images`"):
        choose_samples([], 5, seed=0)
    with pytest.raises(UsageError, match="`samples` is 0"):
        choose_samples(["a"], 0, seed=0)


def test_captions_are_read_by_split(tmp_path):
    assert read_captions(tmp_path, "train") == ()
    (tmp_path / "captions.json").write_text(json.dumps({"train": ["a", "b"], "held_out": ["c"]}))
    assert read_captions(tmp_path, "train") == ("a", "b")
    assert read_captions(tmp_path, "held_out") == ("c",)
    (tmp_path / "captions.json").write_text("{")
    with pytest.raises(CheckpointError, match="garbled"):
        read_captions(tmp_path, "train")
