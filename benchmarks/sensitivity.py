"""Does it depend on the calibration set? Plans and errors for sets of other sizes, seeds and subjects.

python -m benchmarks.sensitivity
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console

from benchmarks.measure import RESULTS, machine, write_result
from benchmarks.quality.agreement import real_pictures
from benchmarks.quality.arena import FULL, Arena, enter, open_arena
from benchmarks.quality.judge import HOW_TO_GET_REAL, REAL
from benchmarks.quality.prediction_error import DenseCall, prediction_error, record_trajectory
from passes.analyze.methods import analyze
from passes.calibrate.statistics import Statistics
from passes.errors import SlimDiffError, UsageError
from passes.plan.policies import KeepParams
from passes.plan.slim_plan import SlimPlan
from passes.solve.settled import split_half_ratio
from slimdiff_fx.calibration.timestep_weights import bucket_weights

SAMPLES = (4, 16, 64, 128, 256, 500)
REMOVED = 0.3
# Many calibrations are run: each on ten steps of the trajectory.
SCALE = replace(FULL, steps=10)
_FOOD = (
    "apple pizza bread cake burger hamburger soup rice fruit egg cheese melon grapes lemon banana pear peach cherries "
    "strawberry tomato corn carrot cookie ice cream bowl noodles meat bacon sushi tea coffee beer wine juice taco "
    "burrito salad"
)
FOOD = tuple(_FOOD.split())
ANY, FOOD_ONLY, RANDOM, PICTURES = "any subject", "food only", "random words", "pictures"
WEIGHED = {f"timesteps: {name}": name for name in ("noise", "detail")}
CASES = (ANY, FOOD_ONLY, RANDOM, PICTURES, *WEIGHED)
OTHER_SAMPLES = 256  # of the cases but the first


def overlap(one: SlimPlan, other: SlimPlan) -> float:
    """Compare two plans: the mean over sites of the Jaccard index of the kept channels, widths by their ratio."""
    shares = []
    for name, mine in one.sites.items():
        theirs = other.sites[name]
        kept, also = set(mine.kept), set(theirs.kept)
        widths = [entry.width or max(mine.width or 0, theirs.width or 0) or 1 for entry in (mine, theirs)]
        shares.append(len(kept & also) / len(kept | also) * min(widths) / max(widths))
    return statistics.mean(shares)


def about(captions: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Choose the captions that hold one of the words."""
    return tuple(caption for caption in captions if set(caption.split()) & set(words))


def random_words(captions: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """Make prompts out of the captions' words, put together at random."""
    draw = random.Random(seed)
    words = sorted({word for caption in captions for word in caption.split()})
    return tuple(" ".join(draw.sample(words, 3)) for _ in range(count))


def write_pictures(folder: Path, count: int, seed: int) -> Path | None:
    """Write training pictures with their captions; None if there are none."""
    found = real_pictures(REAL)
    if found is None:
        return None
    pictures, captions, held_out = found
    known = (~held_out).nonzero().flatten().tolist()
    folder.mkdir(parents=True, exist_ok=True)
    for number, index in enumerate(random.Random(seed).sample(known, count)):
        Image.fromarray(pictures[index].permute(1, 2, 0).numpy()).save(folder / f"{number:04}.png")
        (folder / f"{number:04}.txt").write_text(captions[index], encoding="utf-8")
    return folder


def observe(arena: Arena, case: str, samples: int, seed: int, work: Path) -> Statistics | None:
    """Calibrate as a case has it; None if what it needs isn't there."""
    prompts, settings = arena.train, {}
    if case == FOOD_ONLY:
        prompts = about(prompts, FOOD)
    elif case == RANDOM:
        prompts = random_words(prompts, samples, seed)
    elif case == PICTURES:
        images = write_pictures(work / f"pictures-{seed}", samples, seed)
        return None if images is None else arena.calibrate(None, samples, seed, images=images)
    elif case in WEIGHED:
        settings = {"timestep_weights": bucket_weights(WEIGHED[case])}
    return arena.calibrate(prompts, samples, seed, **settings)


def measure(arena: Arena, observed: Statistics, calls: dict[str, list[DenseCall]]) -> tuple[dict[str, Any], SlimPlan]:
    """Plan and measure once."""
    captured = arena.captured
    plan = analyze(captured.program, captured.sites, observed, KeepParams(arena.keep_params(REMOVED)), method="best")
    entry = enter(arena, plan)
    parameters = dict(captured.program.graph_module.named_parameters())
    return {
        "predicted": entry.predicted,
        "split_half_ratio": split_half_ratio(captured.sites, observed, parameters),
        **{name: prediction_error(entry.model, each)[0] for name, each in calls.items()},
    }, plan


def _cells() -> list[tuple[str, int]]:
    """List cases and their numbers of samples, the largest first: the plans of others are compared with its plan."""
    return [(ANY, count) for count in reversed(SAMPLES)] + [(name, OTHER_SAMPLES) for name in CASES[1:]]


def main(
    model: Annotated[str, typer.Argument(help="Pipeline folder with captions, or `emoji`.")] = "emoji",
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Run what is missing, case by case."""
    console = Console()
    file = output / "sensitivity.json"
    settings = {"model": model, "removed": REMOVED, "scale": asdict(SCALE)}
    results: dict[str, Any] = {"benchmark": "sensitivity", "settings": settings, "cases": [], "plans": {}}
    try:
        if file.is_file() and json.loads(file.read_text()).get("settings") == settings:
            results = json.loads(file.read_text())
        arena = open_arena(model, SCALE)
        faces = about(arena.held_out, ("face",))
        if not faces:
            raise UsageError(f"{model} has no held-out captions of faces; this benchmark is about `emoji`")
        calls = {
            "error": record_trajectory(arena, tuple(random.Random(1).sample(arena.held_out, SCALE.prompts)), 20_000),
            "error_on_faces": record_trajectory(arena, faces[: SCALE.prompts], 20_001),
        }
        done = {(case["case"], case["samples"], case["seed"]) for case in results["cases"]}
        with tempfile.TemporaryDirectory() as work:
            for seed in range(seeds):
                reference: SlimPlan | None = None
                for case, samples in _cells():
                    if (case, samples, seed) in done:
                        if reference is None:
                            reference = SlimPlan.from_json(results["plans"][str(seed)])
                        continue
                    observed = observe(arena, case, samples, seed, Path(work))
                    if observed is None:
                        console.print(HOW_TO_GET_REAL)
                        continue
                    found, plan = measure(arena, observed, calls)
                    if reference is None:
                        reference = plan
                        results["plans"][str(seed)] = SlimPlan(plan.fingerprint, plan.sites).to_json()
                    found = {"case": case, "samples": samples, "seed": seed, **found}
                    found["overlap"] = overlap(plan, reference)
                    results["cases"].append(found)
                    results["machine"] = machine()
                    write_result("sensitivity", results, output)
                    console.print(found, highlight=False)
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    console.print(f"written to {file}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
