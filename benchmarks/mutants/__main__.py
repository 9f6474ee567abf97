"""Would the tests notice small bugs? Sampled mutants of the compiler and of what saves and loads.

    python -m benchmarks.mutants                            # 200, what `make mutants` runs
    python -m benchmarks.mutants --seed 1 passes/plan/slim_plan.py    # of one file

Each is run against the tests that mirror its file (see `sources.py`), without the slow ones. What survived goes to
`docs/mutants.md`, all of it to `benchmarks/results/mutants.json`; the exit code is 1 below 85% killed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.mutants.hunt import Hunt, Verdict, all_mutants, sample, survivors_of
from benchmarks.mutants.sources import ROOT, sources
from benchmarks.mutants.survivors import without_reason, write_survivors

WANTED = 0.85
PAGE = ROOT / "docs" / "mutants.md"
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"


def main() -> None:
    """Run a sample and write down what survived."""
    options = _parse()
    unknown = set(options.files) - set(sources())
    if unknown:
        sys.exit(f"not among the files that are mutated: {', '.join(sorted(unknown))}")
    began = time.monotonic()
    mutants = all_mutants(ROOT, options.files)
    if options.again:
        chosen = survivors_of(json.loads(Path(options.json).read_text(encoding="utf-8")), ROOT, mutants)
    else:
        chosen = sample(mutants, options.count, options.seed)
    print(f"{len(chosen)} of {len(mutants)} mutants", flush=True)
    hunt = Hunt(ROOT, ROOT / ".mutants_cache")
    verdicts: list[Verdict] = []
    try:
        for verdict in hunt.verdicts(chosen, options.jobs):
            verdicts.append(verdict)
            print(f"{len(verdicts):4d} {verdict.status:9s} {verdict.seconds:6.1f} s {_place(verdict)}", flush=True)
            if not verdict.is_killed:
                print(f"     - {verdict.before}\n     + {verdict.after}", flush=True)
    finally:
        # What is known is kept, whatever stopped it.
        verdicts.sort(key=lambda verdict: (verdict.source, verdict.index))
        killed = sum(verdict.is_killed for verdict in verdicts)
        record = {
            "seed": options.seed,
            "mutants": len(mutants),
            "sampled": len(verdicts),
            "killed": killed,
            "seconds": round(time.monotonic() - began),
            "failing_without_a_bug": hunt.failing,
            "verdicts": [verdict.as_json() for verdict in verdicts],
        }
        if not options.again:
            text = json.dumps(record, indent=1, ensure_ascii=False)
            Path(options.json).write_text(text + "\n", encoding="utf-8")
    if hunt.failing:
        print(f"left out, for they fail without a bug: {', '.join(hunt.failing)}")
    if not options.no_docs:
        write_survivors(PAGE, verdicts)
        if bare := without_reason(PAGE):
            print(f"{PAGE.relative_to(ROOT)} wants a reason for: {', '.join(bare)}")
    print(f"killed {killed} of {len(verdicts)} in {record['seconds']} s")
    sys.exit(killed < WANTED * len(verdicts))


def _place(verdict: Verdict) -> str:
    return f"{verdict.source}:{verdict.line} {verdict.operator}" + (f" by {verdict.killer}" if verdict.killer else "")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="*", help="mutate only these, from the root of the project")
    parser.add_argument("--count", type=int, default=200, help="how many mutants to draw (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="which of them (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="how many to try at a time (default: 1)")
    parser.add_argument("--again", action="store_true", help="only what survived in the last result, and write none")
    parser.add_argument("--json", default=str(RESULT), help="where the result goes")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/mutants.md as it is")
    return parser.parse_args()


if __name__ == "__main__":
    main()
