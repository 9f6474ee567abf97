"""What the benchmark of the calibration set compares: overlap of plans, captions by subject, random words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.sensitivity import FOOD, about, overlap, random_words
from passes.plan.slim_plan import SitePlan
from slimdiff_fx.pipelines.inputs.prompts import read_captions
from slimdiff_fx.pipelines.load import emoji_folder
from tests.plans import captured, plan_of


def test_overlap_is_the_mean_jaccard_index() -> None:
    program = captured("unet_sd15")
    plan = plan_of(program)
    assert overlap(plan, plan) == 1
    name = next(name for name, entry in plan.sites.items() if entry.kind == "feed_forward")
    units = plan.sites[name].units
    half = replace(plan, sites={**plan.sites, name: SitePlan("feed_forward", units, tuple(range(units // 2)))})
    assert overlap(plan, half) == pytest.approx(1 - 0.5 / len(plan.sites))
    head = next(name for name, entry in plan.sites.items() if entry.kind == "attention")
    narrow = replace(plan, sites={**plan.sites, head: replace(plan.sites[head], width=2)})
    narrower = replace(plan, sites={**plan.sites, head: replace(plan.sites[head], width=1)})
    assert overlap(narrow, narrower) == pytest.approx(1 - 0.5 / len(plan.sites))


def test_captions_by_subject() -> None:
    assert about(["red apple", "pineapple hat", "cat face"], FOOD) == ("red apple",)
    captions = read_captions(emoji_folder(), "train")
    food, faces = about(captions, FOOD), about(captions, ("face",))
    assert len(food) > 50
    assert len(faces) > 50
    assert not set(food) & set(faces)


def test_random_words_are_the_captions_own() -> None:
    made = random_words(["red apple", "cat face", "green tree"], 20, 1)
    assert len(made) == 20
    assert {word for prompt in made for word in prompt.split()} <= {"red", "apple", "cat", "face", "green", "tree"}
    assert made == random_words(["red apple", "cat face", "green tree"], 20, 1)
    assert made != random_words(["red apple", "cat face", "green tree"], 20, 2)
