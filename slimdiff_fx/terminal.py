"""Progress on the terminal: a live view where there is one, plain lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
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
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from slimdiff_fx.listener import Listener

_LINE_EVERY = 30.0  # seconds between lines of a running stage, where the output is no terminal


class _Counted(ProgressColumn):
    """What is done and how fast, in the words of the stage: 204/500 samples, 12.3 samples/s."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text()
        each, unit = task.fields["each"], task.fields["unit"]
        count = f"{task.completed / each:.0f}/{task.total / each:.0f} {unit}"
        speed = task.finished_speed or task.speed
        return Text(count if not speed else f"{count}, {_rate(speed / each, unit)}")


class _Left(ProgressColumn):
    """The time left, of a stage that counts."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))
        self._remaining = TimeRemainingColumn()

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else self._remaining.render(task) + Text(" left")


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
            BarColumn(bar_width=24),
            TaskProgressColumn(),
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
        """Print a note."""
        self.console.print(f"[yellow]note[/yellow] {text}", highlight=False)

    @contextmanager
    def steps(self, name: str, total: int, done: int, unit: str, each: int = 1) -> Iterator[None]:
        """Draw a bar while the stage runs, and a line with its time and speed when it is done."""
        with self._running(name, total=total, completed=done, unit=unit, each=each) as start:
            before, self._counting = self._counting, _Count(name, total, done, unit, each, self._newest())
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
        counting.done += count
        if counting.task is not None:
            self._progress.advance(counting.task, count)
        elif time.perf_counter() - counting.told > _LINE_EVERY:
            counting.told = time.perf_counter()
            self.console.print(f"{counting.name:<10} {counting.state()}", highlight=False)

    @contextmanager
    def _running(self, name: str, **task: int | str) -> Iterator[float]:
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
        total = task.pop("total", None)
        row = self._progress.add_task(self._title(name), total=total, **task)  # type: ignore[arg-type]
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

    def __init__(self, name: str, total: int, done: int, unit: str, each: int, task: TaskID | None) -> None:
        self.name, self.total, self.done, self.unit, self.each, self.task = name, total, done, unit, each, task
        self._before, self._start = done, time.perf_counter()
        self.told = self._start

    @property
    def speed(self) -> float:
        """Steps a second, of those that were done here."""
        return (self.done - self._before) / max(time.perf_counter() - self._start, 1e-9)

    def summary(self) -> str:
        """Say what was done, and how fast."""
        count = f"{self.done / self.each:.0f} {self.unit}"
        return f"{count}, {_rate(self.speed / self.each, self.unit)}" if self.speed else count

    def state(self) -> str:
        """Say how far it is, how fast, and how long it will take."""
        count = f"{self.done / self.each:.0f}/{self.total / self.each:.0f} {self.unit}"
        if not self.speed:
            return count
        left = timedelta(seconds=round((self.total - self.done) / self.speed))
        return f"{count}, {_rate(self.speed / self.each, self.unit)}, {left} left"


def _rate(speed: float, unit: str) -> str:
    return f"{speed:.3g} {unit}/s" if speed >= 1 or speed == 0 else f"{1 / speed:.3g} s each"
