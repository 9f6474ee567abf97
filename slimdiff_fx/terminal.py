"""Progress on the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from slimdiff_fx.listener import Listener


class TerminalListener(Listener):
    """Shows stages with a spinner, and calibration as a bar with the time left.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a spinner while the stage runs, and a line with its time when it is done."""
        start = time.perf_counter()
        with self.console.status(f"{name} …"):
            yield
        self.console.print(f"{name:<10} {time.perf_counter() - start:6.1f} s", highlight=False)

    def note(self, text: str) -> None:
        """Print a note."""
        self.console.print(f"[yellow]note[/yellow] {text}", highlight=False)

    @contextmanager
    def steps(self, name: str, total: int, done: int) -> Iterator[None]:
        """Draw a bar while the stage runs."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} denoiser calls"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=False) as progress:
            self._progress, self._task = progress, progress.add_task(f"{name:<10}", total=total, completed=done)
            try:
                yield
            finally:
                self._progress = self._task = None

    def advance(self, count: int) -> None:
        """Move the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)
