"""The table of survivors in `docs/mutants.md`: the tool writes the rows, people write the reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.mutants.hunt import Verdict

BEGIN, END = "<!-- survivors: begin -->", "<!-- survivors: end -->"
_HEAD = "| file | line | change | reason |\n|---|---|---|---|\n"
# A pipe inside code ends a cell unless it is escaped.
_CELL = re.compile(r"(?<!\\)\|")


def write_survivors(page: Path, verdicts: Iterable[Verdict]) -> None:
    """Bring the table up to date with a run.

    Rows of survivors that are there already stay with their reasons, by file and change; rows of what is killed now go.
    Rows of mutants that weren't tried stay as they are: another seed tries others.

    Raises:
        ValueError: the page has no place for the table.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} has no lines {BEGIN!r} and {END!r}, between which the table goes")
    head, rest = text.split(BEGIN)
    table, tail = rest.split(END)
    rows = _read(table)
    tried: dict[tuple[str, str], list[int]] = {}
    for verdict in verdicts:
        # The same change may be made in several lines: what one of them survives stays.
        lines = tried.setdefault((f"`{verdict.source}`", _change(verdict)), [])
        lines += [] if verdict.is_killed else [verdict.line]
    for key, lines in tried.items():
        reason = rows.pop(key, ("", ""))[1]
        if lines:
            rows[key] = (", ".join(map(str, sorted(lines))), reason)
    body = "".join(
        f"| {source} | {lines} | {change} | {reason} |\n"
        for (source, change), (lines, reason) in sorted(rows.items(), key=lambda row: (row[0][0], _first(row[1][0])))
    )
    page.write_text(f"{head}{BEGIN}\n{_HEAD}{body}{END}{tail}", encoding="utf-8")


def without_reason(page: Path) -> list[str]:
    """Give the survivors that nobody has given a reason for, as "file:line"."""
    table = page.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    return [f"{source.strip('`')}:{line}" for (source, _), (line, reason) in _read(table).items() if not reason]


def _read(table: str) -> dict[tuple[str, str], tuple[str, str]]:
    rows = {}
    for row in table.splitlines():
        cells = [cell.strip() for cell in _CELL.split(row)[1:-1]]
        if len(cells) == 4 and cells[1][:1].isdigit():
            source, lines, change, reason = cells
            rows[source, change] = (lines, reason)
    return rows


def _first(lines: str) -> int:
    return int(lines.split(",")[0])


def _change(verdict: Verdict) -> str:
    """Give the part of the line that differs, and enough around it not to be taken for another."""
    before, after = _trim(verdict.before, verdict.after)
    return f"{_code(before)} → {_code(after)}"


def _trim(before: str, after: str) -> tuple[str, str]:
    left, right = _words(before), _words(after)
    start = 0
    while start < min(len(left), len(right)) and left[start] == right[start]:
        start += 1
    stop = 0
    while stop < min(len(left), len(right)) - start and left[-1 - stop] == right[-1 - stop]:
        stop += 1
    first = max(0, start - 12)
    return _shorten(left, first, stop - 12), _shorten(right, first, stop - 12)


def _words(text: str) -> Sequence[str]:
    return re.findall(r"\w+|\s+|.", text)


def _shorten(words: Sequence[str], first: int, last: int) -> str:
    stop = len(words) - max(0, last)
    return ("…" if first else "") + "".join(words[first:stop]) + ("…" if stop < len(words) else "")


def _code(text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`` {escaped} ``" if "`" in text else f"`{escaped}`"
