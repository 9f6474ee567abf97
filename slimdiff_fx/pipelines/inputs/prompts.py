"""The prompts that calibration runs on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from passes.errors import CheckpointError, UsageError
from slimdiff_fx.files.text_file import read_text
from slimdiff_fx.option_checks import check_count, check_seed
from slimdiff_fx.pipelines.inputs.cycled import Cycled
from slimdiff_fx.pipelines.inputs.prompt_formats import FORMATS, LINES, Found, guess_format

CAPTIONS_FILE = "captions.json"
# Text encoders read some hundred tokens: what is longer by far is no prompt.
MOST_CHARACTERS = 100_000


def read_prompts(file: Path) -> tuple[str, ...]:
    """Read prompts: what is empty doesn't count, and white space around a prompt neither.

    Args:
        file: by its ending `.json`, a list of strings or of objects; `.jsonl`, one of these a line; `.csv` or `.tsv`,
            with a header; otherwise text with one prompt a line. Objects and tables call it prompt, caption or text.
            `-` is standard input; it and pipes, which have no ending, are taken for what they look like.

    Raises:
        UsageError: the file is missing, can't be read as what it is named, looks like another format than its name
            says, or holds no prompt. Says in which line.
    """
    text = read_text(file, "prompt file")
    named = FORMATS.get(file.suffix.lower())
    looks = guess_format(text)
    if named is None and looks is not LINES:
        # Read as lines, every brace and comma would be in a prompt.
        if file.suffix and file.is_file():
            raise UsageError(
                f"prompt file {file}, line 1: that is {looks.name}; name the file {looks.endings[0]}, or give one "
                "prompt a line"
            )
        named = looks
    prompts = tuple(_checked(file, (named or LINES).read(text, f"prompt file {file}")))
    if not prompts:
        raise UsageError(f"prompt file {file} is empty; give at least one prompt, one a line")
    return prompts


def _checked(file: Path, found: Iterator[Found]) -> Iterator[str]:
    for place, text in found:
        prompt = text.strip()
        if len(prompt) > MOST_CHARACTERS:
            raise UsageError(
                f"prompt file {file}, {place}: {len(prompt)} characters are no prompt; give at most {MOST_CHARACTERS}"
            )
        check_text(prompt, f"prompt file {file}, {place}")
        if prompt:
            yield prompt


def check_text(text: str, place: str) -> None:
    """Refuse characters that no text encoder takes.

    Raises:
        UsageError: half of a surrogate pair, or NUL; names the place.
    """
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"{place}: a NUL or half a character is in {text[:40]!r}; give whole text")


def read_captions(folder: Path | None, split: str) -> tuple[str, ...]:
    """Read the captions that came with a pipeline: "train" for calibration, "held_out" for tests. Empty if none did.

    Raises:
        CheckpointError: the captions file is garbled.
    """
    file = None if folder is None else folder / CAPTIONS_FILE
    if file is None or not file.is_file():
        return ()
    try:
        captions = json.loads(file.read_text(encoding="utf-8")).get(split, [])
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise TypeError(f"{split!r} is no list of strings")
    except (ValueError, AttributeError, TypeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{file} is garbled ({error}); mend or delete it") from error
    return tuple(captions)


def choose_samples(prompts: Sequence[str], samples: int, seed: int) -> tuple[Cycled[str], str | None]:
    """Take `samples` prompts in a seeded order; go round again when there are too few.

    The order is shuffled because prompt files are often sorted, and the first few would be all of one kind.

    Returns:
        The prompts, which take memory for one round at most; and a note to show when some are used more than once.

    Raises:
        UsageError: no prompts, or fewer than one sample asked for.
    """
    check_count("samples", samples)
    check_seed("seed", seed)
    if not prompts:
        raise UsageError("there are no prompts to calibrate on; give `prompts` or `images`")
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = Cycled(tuple(prompts[place] for place in order[:samples]), samples)
    note = None
    if samples > len(prompts):
        note = f"{samples} samples from {len(prompts)} prompts: prompts are used more than once, with other noise"
    return chosen, note
