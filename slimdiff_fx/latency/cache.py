"""Measured latencies on disk, so that each is measured once on a machine.

One JSON file for each environment: its name says backend, version, processor, threads and dtype; so does its content,
with everything else that figures depend on. Sites and denoisers are told apart by digests of their operators and sizes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passes.errors import CheckpointError
from passes.program.program import Program
from slimdiff_fx.files.atomic_write import replaced_file
from slimdiff_fx.files.file_lock import locked
from slimdiff_fx.files.output_paths import expand
from slimdiff_fx.timing.bench import clock_of
from slimdiff_fx.timing.hardware import device_name
from slimdiff_fx.timing.runtimes import runtime
from slimdiff_fx.version import __version__

VARIABLE = "SLIMDIFF_FX_LATENCY_CACHE"
_FORMAT = 1


def environment(backend: str, threads: int, program: Program) -> dict[str, Any]:
    """Say what latencies of a program depend on, besides its own operators and sizes."""
    used = runtime(backend)
    return {
        "format": _FORMAT,
        "backend": backend,
        "versions": {**used.versions(), "slimdiff-fx": __version__},
        "hardware": device_name(used.device),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        "clock": clock_of(backend, threads),
        "dtype": str(next(program.graph_module.parameters()).dtype).removeprefix("torch."),
    }


def digest(text: str) -> str:
    """Shorten a description to a key."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def cache_folder(folder: str | Path | None = None) -> Path:
    """Find the folder: the given one, the variable SLIMDIFF_FX_LATENCY_CACHE, or the platform's place for caches."""
    chosen = folder or os.environ.get(VARIABLE)
    if chosen:
        return expand(chosen)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "slimdiff-fx" / "latency"


class LatencyCache:
    """What was measured in one environment.

    Args:
        folder: where the files are; made when something is kept.
        environment: from `environment`.

    Attributes:
        file: this environment's.

    Raises:
        CheckpointError: the file can't be read, or is garbled.
    """

    def __init__(self, folder: Path, environment: Mapping[str, Any]) -> None:
        self._environment = dict(environment)
        text = json.dumps(self._environment, sort_keys=True)
        first = next(iter(self._environment["versions"].values()), "")
        words = f"{self._environment['backend']} {first} {self._environment['hardware']} "
        words += f"{self._environment['threads']} threads {self._environment['dtype']}"
        self.file = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', words)}-{digest(text)[:8]}.json"
        self._entries: dict[str, Any] = self._read()

    def get(self, key: str) -> Any:
        """Look a measurement up; None if there is none."""
        return self._entries.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a measurement, at once: the next one may take minutes and be interrupted.

        What other processes have kept in the meantime stays.

        Raises:
            CheckpointError: the file can't be written.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"could not make {self.file.parent}: {error.strerror}; give `cache`") from error
        with locked(self.file):
            self._entries = {**self._read(), key: value}
            with replaced_file(self.file) as partial:
                data = {"environment": self._environment, "measured": self._entries}
                partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        if not self.file.is_file():
            return {}
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
            measured = data["measured"]
            if not isinstance(measured, dict) or data["environment"] != self._environment:
                raise ValueError("of another environment")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{self.file} is garbled ({error}); delete it, it is only a cache") from error
        return measured
