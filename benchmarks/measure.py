"""What every benchmark needs: fair timing, peak memory, and a record of where it ran."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch

from slimdiff_fx.timing.hardware import cpu_name
from slimdiff_fx.timing.interleave import Timing, interleave, paired_ratio

__all__ = ["RESULTS", "Timing", "Watch", "interleave", "machine", "paired_ratio", "resident", "write_result"]

RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "torch",
    "diffusers",
    "torch-pruning",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "nncf",
    "torchao",
    "executorch",
    "numpy",
)


class Watch:
    """Seconds and peak memory of a `with` block, by a sampling thread.

    Attributes:
        seconds: how long the block took.
        cpu_seconds: processor time of all threads in it: what stays of `seconds` on a machine that does nothing else.
        start: resident bytes at its start.
        peak: most resident bytes in it.
    """

    def __init__(self, every: float = 0.01) -> None:
        self._every = every
        self._process = psutil.Process(os.getpid())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.seconds = self.cpu_seconds = 0.0
        self.start = self.peak = 0

    @property
    def rise(self) -> int:
        """Most bytes over the start."""
        return self.peak - self.start

    def __enter__(self) -> Watch:
        self.start = self.peak = resident()
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu_seconds = time.process_time() - self._cpu_began
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, resident())

    def _sample(self) -> None:
        while not self._stop.wait(self._every):
            self.peak = max(self.peak, self._process.memory_info().rss)


def resident() -> int:
    """Give this process's resident bytes now."""
    return int(psutil.Process(os.getpid()).memory_info().rss)


def machine() -> dict[str, Any]:
    """Record hardware and versions, without anything that names the machine."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions,
        "when": time.strftime("%Y-%m-%d"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def write_result(name: str, result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write `folder/name.json`, beside its place first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, path)
    return path
