"""How much slower is each stage of `slimdiff-fx slim` beside a busy neighbour?

    python -m benchmarks.busy [--model emoji] [--samples 128] [--rounds 2] [--spinning]

Runs the command line quiet and beside the neighbour, in turn, and compares the stages' own times. The neighbour is one
process that computes all the time on one core; `--neighbour torch` is one that multiplies matrices on all of them.
`--spinning` adds runs whose waiting threads spin, which is OpenMP's own default. Writes results/busy.json.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, write_result

NEIGHBOURS: Mapping[str, str] = {
    "python": "while True: pass",
    "torch": "import torch; a = torch.randn(512, 512)\nwhile True: a = (a @ a).clamp(-1, 1)",
}
_STAGE = re.compile(r"^(?P<name>\w+) +(?P<seconds>\d+\.\d) s\b")
# Below this a stage is reported, and says nothing: the lines round to a tenth of a second.
_LEAST = 1.0


def stages_of(output: str) -> dict[str, float]:
    """Read the seconds of each stage from what the command line prints into a pipe; of a stage's parts, the longest."""
    seconds: dict[str, float] = {}
    for line in output.splitlines():
        found = _STAGE.match(line)
        if found is not None:
            name = found["name"]
            seconds[name] = max(seconds.get(name, 0.0), float(found["seconds"]))
    return seconds


def compared(quiet: list[dict[str, float]], busy: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Give the median seconds of each stage, and the median of the rounds' own ratios."""
    rows = {}
    for name in quiet[0]:
        pairs = [(a[name], b[name]) for a, b in zip(quiet, busy, strict=True)]
        before, beside = (statistics.median(values) for values in zip(*pairs, strict=True))
        row: dict[str, Any] = {"quiet_s": round(before, 2), "busy_s": round(beside, 2)}
        if before >= _LEAST:
            row["ratio"] = round(statistics.median(b / a for a, b in pairs), 2)
        rows[name] = row
    return rows


def slim(model: str, samples: int, environment: Mapping[str, str]) -> dict[str, float]:
    """Slim once in a process of its own; give the stages' seconds, and of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "slimdiff_fx", "slim", model, "-o", str(Path(folder) / "slim")]
        start = time.perf_counter()
        run = subprocess.run(
            [*command, "--samples", str(samples)],
            capture_output=True,
            text=True,
            env={**_without(os.environ, "OMP_WAIT_POLICY", "OMP_NUM_THREADS"), **environment},
        )
        seconds = time.perf_counter() - start
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {run.stderr.strip()}")
    return {**stages_of(run.stdout), "whole command": seconds}


@contextmanager
def neighbour(kind: str) -> Iterator[None]:
    """Keep a busy process beside a block."""
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOURS[kind]])
    try:
        time.sleep(3.0)  # until it has imported what it needs
        yield
    finally:
        process.kill()
        process.wait()


def _without(environment: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--neighbour", choices=NEIGHBOURS, default="python")
    parser.add_argument("--spinning", action="store_true")
    arguments = parser.parse_args()
    record = machine()
    waiting = {"passive": {}} | ({"spinning": {"OMP_WAIT_POLICY": "ACTIVE"}} if arguments.spinning else {})
    runs: dict[str, list[dict[str, float]]] = {}
    for number in range(arguments.rounds):
        for name, environment in waiting.items():
            for beside in ("quiet", "busy"):
                print(f"round {number + 1} of {arguments.rounds}: {name}, {beside}", flush=True)
                with neighbour(arguments.neighbour) if beside == "busy" else nullcontext():
                    seconds = slim(arguments.model, arguments.samples, environment)
                runs.setdefault(f"{name} {beside}", []).append(seconds)
    result: dict[str, Any] = {
        "model": arguments.model,
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        "neighbour": arguments.neighbour,
        "machine": record,
    }
    for name in waiting:
        result[name] = rows = compared(runs[f"{name} quiet"], runs[f"{name} busy"])
        print(f"\n{name:<14} {'quiet':>8} {'busy':>8} {'ratio':>6}")
        for stage, row in rows.items():
            print(f"{stage:<14} {row['quiet_s']:6.1f} s {row['busy_s']:6.1f} s {row.get('ratio', ''):>6}")
    print(write_result("busy", result))


if __name__ == "__main__":
    main()
