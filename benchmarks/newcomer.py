"""A newcomer's path: every step in a fresh clone, as they would type it, with its output and its seconds.

    python -m benchmarks.newcomer [--folder DIR] [--from-step N]

Clones the committed state of this project into a temporary folder, runs the steps there one after another and writes
`docs/first_ten_minutes.md`. Stops at the first step that fails, with what it said, and leaves the page as it was.
`--folder` keeps the clone there; with `--from-step` steps before N are not run again in it, and the page isn't written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import machine

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "first_ten_minutes.md"
NOTEBOOK = "docs/notebook.ipynb"
COLUMNS = 80


@dataclass(frozen=True)
class Step:
    """One thing that a newcomer does.

    Attributes:
        title: of its part of the page.
        words: what it is for.
        shell: what is typed, in bash, at the root of the clone.
    """

    title: str
    words: str
    shell: str


STEPS = (
    Step("Install", "Everything goes into `.venv`, at the versions that the tests last passed with.", "make install"),
    Step(
        "Demo",
        "Slims the built-in pipeline `emoji`, and leaves a folder with the pipeline, a page on it and pictures.",
        "make demo",
    ),
    Step(
        "Draw",
        "The folder is an ordinary pipeline.",
        """\
. .venv/bin/activate
cat > draw.py <<'END'
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("slim-emoji")
pipe.set_progress_bar_config(disable=True)
image = pipe("noto red apple", num_inference_steps=25, guidance_scale=3.0).images[0]
image.save("apple.png")
print(type(pipe.unet).__name__, image.size)
END
python draw.py""",
    ),
    Step(
        "A pipeline of your own",
        "Any folder that `save_pretrained` wrote, or a hub id. Here it is the built-in one with another scheduler, "
        "since this page is made without a network.",
        """\
. .venv/bin/activate
cat > own.py <<'END'
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
from slimdiff_fx.pipelines.load import emoji_folder

pipe = DiffusionPipeline.from_pretrained(emoji_folder())
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
pipe.save_pretrained("my-pipeline")
END
python own.py
slimdiff-fx inspect my-pipeline""",
    ),
    Step(
        "Prompts of your own",
        "What the model is calibrated on is what it should go on drawing well: prompts like those that it will be "
        "given. A few dozen are enough to try, hundreds to ship.",
        """\
. .venv/bin/activate
for style in noto fluent3d "fluent emoji flat"; do
  for thing in "red apple" "cat face" tulip umbrella "hot dog" "full moon" "soccer ball" "blue heart"; do
    echo "$style $thing"
  done
done > prompts.txt
slimdiff-fx slim my-pipeline -o my-slim --prompts prompts.txt --samples 48 --steps 12 --keep-params 0.9""",
    ),
    Step(
        "Export",
        "For ONNX Runtime, compared with torch at once.",
        """\
. .venv/bin/activate
slimdiff-fx export my-slim --format onnx""",
    ),
    Step(
        "Notebook",
        f"[`{NOTEBOOK}`](notebook.ipynb): the same from Python. Below are its cells and what they print.",
        f"""\
. .venv/bin/activate
jupyter execute --inplace {NOTEBOOK}""",
    ),
)


def run(step: Step, clone: Path) -> tuple[str, float]:
    """Do a step; give what it printed, and its seconds.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step.shell],
        cwd=clone,
        env=_environment(os.environ),
        capture_output=True,
    )
    printed, complaint = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{step.title}: exit code {done.returncode}\n{printed[-4000:]}\n{complaint[-4000:]}")
    return printed, seconds


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Give what a newcomer's shell would have: none of this process's own settings of Python, threads and make."""
    own = re.compile(r"PYTHON.*|VIRTUAL_ENV.*|OMP_.*|MKL_.*|MAKE.*|MFLAGS|HF_.*|PYTEST.*")
    kept = {name: value for name, value in environment.items() if not own.fullmatch(name)}
    return {**kept, "COLUMNS": str(COLUMNS), "HF_HUB_OFFLINE": "1"}


def cells_of(notebook: Mapping[str, Any]) -> str:
    """Give a run notebook's code and the text that it printed, as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join(_text_of(output) for output in cell["outputs"])
        if printed.strip():
            parts.append(f"```text\n{printed.strip()}\n```")
    return "\n\n".join(parts)


def _text_of(output: Mapping[str, Any]) -> str:
    if output["output_type"] == "stream":
        # Bars and warnings of other libraries go to stderr, as they do for the other steps.
        return "".join(output["text"]) if output["name"] == "stdout" else ""
    return "".join(output.get("data", {}).get("text/plain", ())) + "\n"


def tidy(printed: str, clone: Path) -> str:
    """Take out what is true of one machine only, and what a terminal would have drawn over."""
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in printed.replace("\r\n", "\n").split("\n")]
    return "\n".join(lines).replace(f"{clone}/", "").replace(str(clone), ".").strip()


def page(done: list[tuple[Step, str, float]], record: Mapping[str, Any]) -> str:
    """Write the page."""
    total = sum(seconds for _, _, seconds in done)
    rows = [f"| [{step.title}](#{_anchor(step.title)}) | {_time(seconds)} |" for step, _, seconds in done]
    gpu = record["gpu"] or "no GPU"
    lines = [
        "# The first ten minutes",
        "",
        "What a newcomer types, what comes out, and how long it takes: `python -m benchmarks.newcomer` ran it in a "
        "fresh clone and wrote this page. The output is piped, so it has no progress bars.",
        "",
        f"{record['cores']} cores ({record['cpu']}), {record['memory_gb']} GB, {gpu}, Python {record['python']}, "
        f"torch {record['versions']['torch']}; {record['when']}. Packages came from a disk nearby: over a network, "
        "installing takes longer.",
        "",
        "| step | time |",
        "|---|---:|",
        *rows,
        f"| all | {_time(total)} |",
    ]
    for step, printed, seconds in done:
        lines += ["", f"## {step.title}", "", step.words, "", "```bash", step.shell, "```", "", _time(seconds) + "."]
        if printed:
            lines += ["", printed]
    return "\n".join(lines) + "\n"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="Where to clone to; a temporary folder by default.")
    parser.add_argument("--from-step", type=int, default=1, help="First step to run, in a clone that is there already.")
    arguments = parser.parse_args()
    record = machine()
    done = []
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clone = (folder / "slimdiff_fx").resolve()
        if arguments.from_step == 1:
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        for number, step in enumerate(STEPS, 1):
            if number < arguments.from_step:
                continue
            print(f"{number}/{len(STEPS)} {step.title}", end=" ", flush=True)
            printed, seconds = run(step, clone)
            print(_time(seconds), flush=True)
            shown = f"```text\n{tidy(printed, clone)}\n```" if printed.strip() else ""
            if NOTEBOOK in step.shell:
                shown = tidy(cells_of(json.loads((clone / NOTEBOOK).read_text(encoding="utf-8"))), clone)
            done.append((step, shown, seconds))
    written = page(done, record)
    if arguments.from_step == 1:
        PAGE.write_text(written, encoding="utf-8")
        print(PAGE)
    else:
        sys.stdout.write(written)


if __name__ == "__main__":
    main()
