"""Sums that live in files: for second moments larger than memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from passes.errors import CheckpointError
from slimdiff_fx.files.output_paths import expand


def sums_in(folder: Path) -> Callable[[tuple[int, ...]], Tensor]:
    """Give a maker of zero float64 tensors that are mapped to nameless files of a folder.

    The system writes them out and reads them back as memory allows; nothing is left when the process ends, however it
    does.

    Args:
        folder: on a disk with room for all of them; made if it isn't there. `~` is expanded.

    Raises:
        CheckpointError: no file can be made there; raised by the maker too, when the disk is full.
    """
    folder = expand(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(f"second moments can't be kept in {folder} ({error.strerror}); name another") from error

    def make(shape: tuple[int, ...]) -> Tensor:
        size = 8 * torch.Size(shape).numel()
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                _reserve(file.fileno(), size)
                # The mapping outlives the file object.
                values = np.memmap(file, dtype=np.float64, mode="r+", shape=shape or (1,))
        except OSError as error:
            raise CheckpointError(
                f"there is no room for {size} more bytes of second moments in {folder} ({error.strerror})"
            ) from error
        return torch.from_numpy(values).reshape(shape)

    return make


def _reserve(descriptor: int, size: int) -> None:
    """Take room for a file now: a mapping of one with holes would crash when the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
