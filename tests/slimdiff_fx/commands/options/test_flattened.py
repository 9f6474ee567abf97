"""Groups of options: shown one by one, given as one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from slimdiff_fx.commands.options.flattened import as_values, flattened


class Colour(StrEnum):
    red = "red"
    blue = "blue"


@dataclass(frozen=True, kw_only=True)
class Paint:
    colour: Annotated[Colour, typer.Option("--colour")]
    coats: Annotated[int, typer.Option("--coats")] = 2


@dataclass(frozen=True, kw_only=True)
class Lacquer(Paint):
    also: Annotated[list[Colour] | None, typer.Option("--also")] = None


def _run(*words: str) -> tuple[int, list[object]]:
    seen: list[object] = []
    app = typer.Typer()

    @app.command()
    @flattened
    def work(place: str, *, lacquer: Lacquer, twice: Annotated[bool, typer.Option("--twice")] = False) -> None:
        """Work."""
        seen.extend([place, lacquer, twice])

    return CliRunner().invoke(app, list(words)).exit_code, seen


def test_fields_are_options_of_their_own() -> None:
    assert _run("door", "--colour", "red") == (0, ["door", Lacquer(colour=Colour.red), False])
    code, seen = _run("door", "--colour", "blue", "--also", "red", "--also", "blue", "--coats", "3", "--twice")
    assert (code, seen[0], seen[2]) == (0, "door", True)
    assert as_values(seen[1]) == {"colour": "blue", "coats": 3, "also": ["red", "blue"]}


@pytest.mark.parametrize(
    "words", [("door",), ("door", "--colour", "green"), ("door", "--colour", "red", "--coats", "a")]
)
def test_what_a_field_does_not_take_is_refused(words: tuple[str, ...]) -> None:
    assert _run(*words) == (2, [])


def test_an_option_stands_once() -> None:
    def work(*, paint: Paint, coats: int) -> None: ...

    def both(*, paint: Paint, lacquer: Lacquer) -> None: ...

    with pytest.raises(TypeError, match="work takes coats twice"):
        flattened(work)
    with pytest.raises(TypeError, match="both takes coats, colour twice"):
        flattened(both)
