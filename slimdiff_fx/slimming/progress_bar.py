"""Progress as diffusers shows it: a tqdm bar, in a terminal or a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from slimdiff_fx.listener import Listener


class BarListener(Listener):
    """Shows one bar at a time: of the stage that runs, with its count where it has one.

    Args:
        settings: of `tqdm`, such as a pipeline's `set_progress_bar_config` keeps; `disable=True` shows nothing.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = {"file": sys.stderr, **settings}
        self._bar: Any = None
        self._each = 1

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show the stage's name while it runs."""
        with self._showing(name, None, 0, "it", leave=False):
            yield

    def note(self, text: str) -> None:
        """Write a note above the bar."""
        if not self._settings.get("disable"):
            tqdm.write(f"note: {text}", file=self._settings["file"])

    @contextmanager
    def steps(self, name: str, total: int, done: int, unit: str, each: int = 1) -> Iterator[None]:
        """Count what takes `each` steps: samples, sites, sizes."""
        with self._showing(name, total / each, done / each, unit, leave=True):
            before, self._each = self._each, each
            try:
                yield
            finally:
                self._each = before

    def advance(self, count: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(count / self._each)

    @contextmanager
    def _showing(self, name: str, total: float | None, done: float, unit: str, *, leave: bool) -> Iterator[None]:
        before = self._bar
        if before is not None:
            before.clear()
        shape = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}]"
        shown = {"bar_format": shape} if total is not None else {"bar_format": "{desc} [{elapsed}]"}
        settings = {"leave": leave, **shown, **self._settings}
        self._bar = tqdm(desc=name, total=total, initial=done, unit=unit, **settings)
        try:
            yield
        finally:
            self._bar.close()
            self._bar = before
