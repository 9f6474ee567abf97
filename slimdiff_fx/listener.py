"""How a long run reports its progress. The terminal has its own listener; the one here reports nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, nullcontext


class Listener:
    """Told about stages, notes and progress; every method may be overridden and none must be."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Wrap one stage, such as "capture"."""
        yield

    def note(self, text: str) -> None:
        """Hear something the user should know, in one line."""

    @contextmanager
    def steps(self, name: str, total: int, done: int, unit: str, each: int = 1) -> Iterator[None]:
        """Wrap a stage that counts.

        Args:
            name: of the stage.
            total: its steps.
            done: how many of them were done before a resume.
            unit: what is counted, in the plural: samples, sites, sizes.
            each: steps that one of these takes.
        """
        yield

    def advance(self, count: int) -> None:
        """Hear that `count` more of the running stage's steps are done."""


SILENT = Listener()


@contextmanager
def timed(name: str, seconds: MutableMapping[str, float], listener: Listener | None = None) -> Iterator[None]:
    """Add a stage's wall time to `seconds`, and tell the listener; stages that count steps report them themselves."""
    start = time.perf_counter()
    with nullcontext() if listener is None else listener.stage(name):
        yield
    seconds[name] = time.perf_counter() - start
