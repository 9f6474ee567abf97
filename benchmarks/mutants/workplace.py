"""A copy of the project that bugs are put into, and the warm process that runs its tests."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_COPIED = (
    *("passes", "slimdiff_fx", "tests", "benchmarks", "docs", "pyproject.toml", "README.md", "constraints.txt"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile"),
)


@dataclass(frozen=True)
class Limits:
    """How long a run may take, in seconds of processor time and by the clock (tests may wait, machines may be busy)."""

    cpu_seconds: float
    wall_seconds: float


class Workplace:
    """A copy of the project and a warm process in it; ends and is removed with its `with` block."""

    def __init__(self, root: Path) -> None:
        self._written = 0
        self._folder = tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True)
        self.root = Path(self._folder.name) / "project"
        self.root.mkdir()
        for name in _COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (root / name).is_file():
                shutil.copy2(root / name, self.root / name)
        for name in ("passes", "slimdiff_fx", "tests"):
            compileall.compile_dir(self.root / name, quiet=2)

    def __enter__(self) -> Workplace:
        environment = os.environ | {
            "PYTHONPATH": str(self.root),
            # Looking for the plugins of all that is installed takes longer than most tests.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": self._folder.name,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.mutants.worker"],
            cwd=self.root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """What the last run printed."""
        path = Path(self._folder.name) / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def run(
        self,
        files: list[str],
        limits: Limits,
        *,
        tests: list[str] | None = None,
        skipped: list[str] | None = None,
        cover: list[str] | None = None,
        stop: bool = True,
    ) -> dict[str, Any]:
        """Run tests of the copy as it is now.

        Args:
            files: the test files.
            limits: how long it may take.
            tests: node ids of the tests to run, in this order; None for all of the files.
            skipped: node ids that aren't to be run.
            cover: files whose lines are to be told by test.
            stop: whether the first failure ends it.

        Returns:
            "code" (pytest's, None where the process didn't come to its end), "signal", "failed", and with all that ran,
            "seconds" by test and "lines" by file, line and test.
        """
        place = Path(self._folder.name)
        request = {
            "files": files,
            "tests": tests,
            "skipped": skipped or [],
            "cover": [str(self.root / name) for name in cover or []],
            "stop": stop,
            "cpu_seconds": limits.cpu_seconds,
            "wall_seconds": limits.wall_seconds,
            "result": str(place / "result"),
            "log": str(place / "log"),
            "scratch": str(place / "scratch"),
        }
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._answer()
        shutil.rmtree(place / "scratch", ignore_errors=True)
        return answer

    def put(self, source: str, text: str) -> None:
        """Write a file of the copy."""
        path = self.root / source
        path.write_text(text, encoding="utf-8")
        # Bytecode is told by seconds and size: in the same second, a bug would be run from the last one's.
        self._written += 1
        os.utime(path, (self._written, self._written))

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that runs the tests ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
