"""The prompts that calibration runs on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from passes.errors import CheckpointError, UsageError

CAPTIONS_FILE = "captions.json"


def read_prompts(file: Path) -> tuple[str, ...]:
    """Read prompts: one a line, or a JSON list of strings. Empty lines don't count.

    Raises:
        UsageError: the file is missing, can't be read as text, or holds no prompt.
    """
    if not file.is_file():
        raise UsageError(f"prompt file {file} doesn't exist; give a text file with one prompt a line")
    try:
        text = file.read_text(encoding="utf-8")
        lines = json.loads(text) if file.suffix == ".json" else text.splitlines()
    except (UnicodeDecodeError, json.JSONDecodeError, OSError) as error:
        raise UsageError(f"prompt file {file} can't be read ({error}); give UTF-8 text, one prompt a line") from error
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UsageError(f"prompt file {file} is no JSON list of strings; give that, or text with one prompt a line")
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise UsageError(f"prompt file {file} is empty; give at least one prompt, one a line")
    return prompts


def read_captions(folder: Path | None, split: str) -> tuple[str, ...]:
    """Read the captions that came with a pipeline: "train" for calibration, "held_out" for tests. Empty if none did.

    Raises:
        CheckpointError: the captions file is garbled.
    """
    file = None if folder is None else folder / CAPTIONS_FILE
    if file is None or not file.is_file():
        return ()
    try:
        return tuple(str(caption) for caption in json.loads(file.read_text(encoding="utf-8")).get(split, ()))
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{file} is garbled ({error}); mend or delete it") from error


def choose_samples(prompts: Sequence[str], samples: int, seed: int) -> tuple[tuple[str, ...], str | None]:
    """Take `samples` prompts in a seeded order; go round again when there are too few.

    The order is shuffled because prompt files are often sorted, and the first few would be all of one kind.

    Returns:
        The prompts, and a note to show when some were used more than once.

    Raises:
        UsageError: no prompts, or fewer than one sample asked for.
    """
    if samples < 1:
        raise UsageError(f"--samples is {samples}; give at least 1")
    if not prompts:
        raise UsageError("there are no prompts to calibrate on; give --prompts FILE or --images DIR")
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = tuple(prompts[order[number % len(prompts)]] for number in range(samples))
    note = None
    if samples > len(prompts):
        note = f"{samples} samples from {len(prompts)} prompts: prompts are used more than once, with other noise"
    return chosen, note
