"""Progress on the terminal: a live view where there is one, plain lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from slimdiff_fx.commands.options.words import in_options
from slimdiff_fx.commands.pace import Pace
from slimdiff_fx.listener import Listener

_WIDE = 100  # columns
_LINE_EVERY = 30.0  # seconds between lines of a running stage, where the output is no terminal


class _Counted(ProgressColumn):
    """What is done and how fast, in the words of the stage: 204/500 samples, 12.3 samples/s."""

    def render(self, task: Task) -> Text:
        counted: _Count | None = task.fields.get("counted")
        return Text() if counted is None else Text(counted.so_far())


class _Left(ProgressColumn):
    """The time left, of a stage that counts."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        counted: _Count | None = task.fields.get("counted")
        return Text() if counted is None else Text(f"{counted.left() or '-:--:--'} left", style="progress.remaining")


class TerminalListener(Listener):
    """Shows what runs, how far it is, how fast, how long it will take, and what comes after it.

    Each finished stage leaves a line with its time. Where the output is no terminal, a stage that counts says how far
    it is every half minute.

    Args:
        console: where to.
        stages: the stages of the whole command in their order, if they are known.
    """

    def __init__(self, console: Console, stages: Sequence[str] = ()) -> None:
        self.console = console
        self._stages, self._at = tuple(stages), 0
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._live: Live | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            # Where the terminal is narrow the count says enough: 204/500 samples, 12.3 samples/s.
            BarColumn(bar_width=max(6, min(24, console.width - 76))),
            *([TaskProgressColumn()] if console.width >= _WIDE else []),
            _Counted(Column(no_wrap=True)),
            TimeElapsedColumn(),
            _Left(),
            console=console,
            auto_refresh=False,
        )
        self._counting: _Count | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a spinner while the stage runs, and a line with its time when it is done."""
        with self._running(name) as start:
            yield
        self._line(name, start)

    def note(self, text: str) -> None:
        """Print a note: one line, that a terminal wraps at words."""
        words = escape(in_options(text))
        self.console.print(f"[yellow]note[/yellow] {words}", highlight=False, soft_wrap=not self._is_live)

    @contextmanager
    def steps(self, name: str, total: int, done: int, unit: str, each: int = 1) -> Iterator[None]:
        """Draw a bar while the stage runs, and a line with its time and speed when it is done."""
        count = _Count(name, total, done, unit, each)
        with self._running(name, count) as start:
            before, self._counting, count.task = self._counting, count, self._newest()
            try:
                yield
            finally:
                counted, self._counting = self._counting, before
        self._line(name, start, counted.summary())

    def advance(self, count: int) -> None:
        """Move the bar."""
        counting = self._counting
        if counting is None:
            return
        counting.pace.advance(count)
        if counting.task is not None:
            self._progress.advance(counting.task, count)
        elif time.perf_counter() - counting.told > _LINE_EVERY:
            counting.told = time.perf_counter()
            self.console.print(f"{counting.name:<10} {counting.state()}", highlight=False)

    @contextmanager
    def _running(self, name: str, count: _Count | None = None) -> Iterator[float]:
        """Keep a row of the live view for as long as a stage runs; yields when it began."""
        start = time.perf_counter()
        if name in self._stages:
            self._at = self._stages.index(name)
        if not self._is_live:
            yield start
            return
        outermost = self._live is None
        if outermost:
            self._live = Live(console=self.console, get_renderable=self._view, refresh_per_second=8, transient=True)
            self._live.start()
        total, done = (None, 0) if count is None else (count.total, count.pace.done)
        row = self._progress.add_task(self._title(name), total=total, completed=done, counted=count)
        if self._live is not None:
            self._live.refresh()  # a stage shorter than the time between refreshes is shown all the same
        try:
            yield start
        finally:
            self._progress.remove_task(row)
            if outermost and self._live is not None:
                self._live.stop()
                self._live = None

    def _view(self) -> RenderableType:
        later = self._stages[self._at + 1 :]
        if not later:
            return self._progress
        return Group(self._progress, Text(f"  then {', '.join(later)}", style="dim", overflow="ellipsis", no_wrap=True))

    def _title(self, name: str) -> str:
        number = f"{self._stages.index(name) + 1}/{len(self._stages)} " if name in self._stages else ""
        return f"{number}{name}"

    def _newest(self) -> TaskID | None:
        return self._progress.task_ids[-1] if self._is_live else None

    def _line(self, name: str, start: float, more: str = "") -> None:
        text = f"{name:<10} {time.perf_counter() - start:6.1f} s  {more}"
        self.console.print(text.rstrip(), highlight=False)


class _Count:
    """How far a stage that counts has come."""

    def __init__(self, name: str, total: int, done: int, unit: str, each: int) -> None:
        self.name, self.total, self.unit, self.each = name, total, unit, each
        self.pace = Pace(done)
        self.task: TaskID | None = None
        self.told = time.perf_counter()

    def summary(self) -> str:
        """Say what was done, and how fast all in all."""
        count, speed = f"{self.pace.done / self.each:.0f} {self.unit}", self.pace.overall()
        return f"{count}, {_rate(speed / self.each, self.unit)}" if speed else count

    def so_far(self) -> str:
        """Say how far it is, and how fast it goes now."""
        count, speed = f"{self.pace.done / self.each:.0f}/{self.total / self.each:.0f} {self.unit}", self.pace.speed()
        return f"{count}, {_rate(speed / self.each, self.unit)}" if speed else count

    def left(self) -> str | None:
        """Say how long it will take at the pace that it has now; None if that isn't known yet."""
        speed = self.pace.speed()
        return str(timedelta(seconds=round((self.total - self.pace.done) / speed))) if speed else None

    def state(self) -> str:
        """Say how far it is, how fast, and how long it will take."""
        left = self.left()
        return self.so_far() if left is None else f"{self.so_far()}, {left} left"


def _rate(speed: float, unit: str) -> str:
    return f"{speed:.3g} {unit}/s" if speed >= 1 or speed == 0 else f"{1 / speed:.3g} s each"
