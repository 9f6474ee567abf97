"""The saved folder's README.md: what the hub shows of a slim pipeline, with the figures that report.json has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard, ModelCardData

from slimdiff_fx.pipelines.inputs.picture_inputs import needs_picture
from slimdiff_fx.pipelines.sampling import condition
from slimdiff_fx.saved.pictures import mean_words
from slimdiff_fx.timing.interleave import both_times

CARD_FILE = "README.md"
# A dense pipeline's own card goes along under this name.
DENSE_CARD_FILE = "README-dense.md"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BODY = """
# {title}, slimmed

The denoiser of {base} with fewer or narrower attention heads and fewer feed-forward neurons, made by slimdiff_fx with
no training. Everything else is as it was.

{picture}## How to load it

With slimdiff_fx installed, as any pipeline; nothing in the folder is run when it is loaded.

```python
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download

folder = snapshot_download("owner/name")  # or the folder, where it is on this machine
pipe = DiffusionPipeline.from_pretrained(folder)
```

LoRAs of the dense model load as usual (`pip install 'slimdiff-fx[lora]'`): they are sliced as the weights were.

## What was kept

{plan}

## What was measured

{figures}

All figures, with versions and settings, are in `report.json`; what was kept of each site is in `slim_plan.json` beside
the denoiser's weights. How far off the model is for prompts unlike those that it was calibrated on, nobody has
measured: look at the pictures.
"""


def model_card(
    pipe: DiffusionPipeline, report: Mapping[str, Any], *, source: Path | None = None, picture: str | None = None
) -> str:
    """Write a card.

    Args:
        pipe: the slim pipeline.
        report: as `slimdiff_fx.saved.report.build_report` gives it. What it doesn't have isn't in the card either.
        source: folder that the dense pipeline was loaded from; its card says the licence.
        picture: name of the file in the folder that shows dense and slim pictures.

    Returns:
        Markdown with YAML front matter.
    """
    base = base_model(pipe, report)
    data = ModelCardData(
        library_name="diffusers",
        base_model=base,
        license=_license(source),
        pipeline_tag=_task(pipe),
        tags=["diffusers", "slimdiff_fx", "pruning", type(pipe).__name__],
    )
    body = _BODY.format(
        title=base.split("/")[-1] if base else type(pipe).__name__,
        base=f"[{base}](https://huggingface.co/{base})" if base else "a diffusers pipeline",
        picture=f"![dense left, slim right, from the same seeds]({picture})\n\n" if picture else "",
        plan=_plan_table(report),
        figures=_figures(report),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}"))


def base_model(pipe: DiffusionPipeline, report: Mapping[str, Any]) -> str | None:
    """Give the hub id of the dense pipeline, if it came from there."""
    for name in (report.get("model"), pipe.config.get("_name_or_path")):
        if isinstance(name, str) and _HUB_ID.fullmatch(name) and not name.startswith(".") and not Path(name).exists():
            return name
    return None


def _license(source: Path | None) -> str | None:
    card = None if source is None else source / CARD_FILE
    if card is None or not card.is_file():
        return None
    found = ModelCard.load(card, ignore_metadata_errors=True).data.license
    return found if isinstance(found, str) else None


def _task(pipe: DiffusionPipeline) -> str:
    if condition(pipe) != "prompt":
        return "unconditional-image-generation"
    return "image-to-image" if needs_picture(pipe) else "text-to-image"


def _plan_table(report: Mapping[str, Any]) -> str:
    summary = report["summary"]
    rows = [
        ("weights of the denoiser", summary["params"], summary["params_kept"]),
        ("of them in attention and feed-forwards", summary["site_params"], summary["site_params_kept"]),
        ("multiply-adds of one forward", summary["macs"], summary["macs_kept"]),
    ]
    lines = [f"| {name} | {dense:,} | {slim:,} | {slim / dense:.1%} |" for name, dense, slim in rows if dense]
    table = "\n".join(["| | dense | slim | kept |", "|---|---|---|---|", *lines])
    return f"{table}\n\nPlanned by {_policy(report['policy'])}."


def _policy(policy: Mapping[str, Any]) -> str:
    method = policy.get("method", "a plan of its own")
    budget = policy.get("budget") or {}
    limits = [f"{share:.0%} of the {name} kept" for name, share in budget.items()]
    if policy.get("max_error") is not None:
        limits.append(f"a relative squared error of at most {policy['max_error']:.1e} expected")
    if policy.get("tau") is not None:
        limits.append(f"τ = {policy['tau']}")
    return ", ".join([f"the method `{method}`", *limits])


def _figures(report: Mapping[str, Any]) -> str:
    if report.get("weights_changed"):
        return (
            "Nothing, of these weights: they were changed after the model was slimmed (trained, an adapter fused, or "
            "cast), and what was measured before is left out."
        )
    lines = []
    expected = (report.get("predicted") or {}).get("relative_mse")
    if expected is not None:
        lines.append(f"- relative squared error of the prediction, expected: {expected:.1e}")
    measured = report.get("measured") or {}
    if measured.get("relative_mse") is not None:
        drawn = f"while the dense model drew {measured['prompts']} pictures"
        lines.append(f"- measured {drawn}: {measured['relative_mse']:.1e}")
    pictures = report.get("pictures") or {}
    if "mean_psnr_db" in pictures:
        words, of = mean_words(pictures["psnr_db"], pictures["mean_psnr_db"])
        lines.append(f"- PSNR of slim pictures against dense ones: {words} ({of})")
    validation = report.get("validation")
    if validation is not None:
        lines.append(
            f"- slim against the dense model with the removed parts at zero: {validation['relative_error']:.1e} "
            f"in {validation['dtype']}"
        )
    latency = report.get("latency")
    if latency is not None:
        dense, slim = both_times(latency["dense_ms"], latency["measured"])
        where = f"{latency['backend']}, {latency['threads']} threads"
        lines.append(f"- latency on {where}: {dense} ms dense, {slim} ms slim")
    return "\n".join(lines) or "Nothing was measured."
