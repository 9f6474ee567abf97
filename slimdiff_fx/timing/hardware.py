"""What a measurement was taken on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def cpu_name() -> str:
    """Name the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """Name what runs: the processor, or the GPU."""
    return torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else cpu_name()
