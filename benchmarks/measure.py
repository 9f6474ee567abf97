"""What every benchmark needs: fair timing, peak memory, and a record of where it ran."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "diffusers", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant, run by run."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle run's seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, in seconds: what half of the runs stay within, about."""
        if len(self.seconds) < 2:
            return 0.0
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (upper - lower) / 2

    def to_dict(self) -> dict[str, Any]:
        """Give milliseconds as plain JSON values."""
        return {
            "median_ms": round(self.median * 1e3, 4),
            "spread_ms": round(self.spread * 1e3, 4),
            "min_ms": round(min(self.seconds) * 1e3, 4),
            "runs": len(self.seconds),
        }


def interleave(
    contestants: Mapping[str, Callable[[], Any]], *, repeats: int, warmup: int, min_seconds: float = 0.0
) -> dict[str, Timing]:
    """Time all contestants in turn, round by round, so that a noisy neighbour or a hot chip hits them alike.

    Every second round runs in reverse order: who comes first has the colder caches.

    Args:
        contestants: what to call, by name.
        repeats: rounds at least.
        warmup: rounds that aren't counted.
        min_seconds: go on with rounds until each contestant has run this long in all.
    """
    for _ in range(warmup):
        for run in contestants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    enabled = gc.isenabled()
    gc.disable()
    try:
        while len(seconds[names[0]]) < repeats or min(map(sum, seconds.values())) < min_seconds:
            for name in names:
                start = time.perf_counter()
                contestants[name]()
                seconds[name].append(time.perf_counter() - start)
            names.reverse()
    finally:
        if enabled:
            gc.enable()
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def paired_ratio(timing: Timing, reference: Timing) -> float:
    """Give the median of the rounds' own ratios: what slows a round down slows both sides of its ratio."""
    return statistics.median(a / b for a, b in zip(timing.seconds, reference.seconds, strict=True))


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
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions,
        "when": time.strftime("%Y-%m-%d"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write_result(name: str, result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write `folder/name.json`, beside its place first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, path)
    return path
