"""The formats that a list of prompts comes in: lines, JSON, lines of JSON, tables."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from passes.errors import UsageError

# What a column or a key of prompts is called; the first that is there counts.
KEYS = ("prompt", "caption", "text")
_KEYS = f"{', '.join(KEYS[:-1])} or {KEYS[-1]}"
_NAME = re.compile(r'"?\w[\w.-]*"?')
Found = tuple[str, str]  # where it is, such as "line 3"; the prompt


@dataclass(frozen=True)
class PromptFormat:
    """A format.

    Attributes:
        name: in messages.
        endings: of files in it.
        read: goes through a text, given a name for it; gives the prompts with where they are.
    """

    name: str
    endings: tuple[str, ...]
    read: Callable[[str, str], Iterator[Found]]


def guess_format(text: str) -> PromptFormat:
    """Tell by the beginning of a text what it is: a prompt may begin with a bracket, but is no list or object."""
    start = text.lstrip()
    first = start.partition("\n")[0]
    if start[:1] == "[" and isinstance(_parsed(start), list):
        return JSON
    if start[:1] == "{":
        if isinstance(_parsed(first), dict):
            return JSON_LINES
        if _parsed(start) is not None:
            return JSON
    for table in (CSV, TSV):
        header = first.rstrip().lower().split("\t" if table is TSV else ",")
        # Tags are separated by commas too, but with a space behind them.
        names = all(_NAME.fullmatch(name) for name in header)
        if names and len(header) > 1 and any(name.strip('"') in KEYS for name in header):
            return table
    return LINES


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_lines(text: str, name: str) -> Iterator[Found]:
    # Not splitlines: it breaks prompts at characters that no editor takes for the end of a line.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    yield from ((f"line {number}", line) for number, line in enumerate(lines, start=1))


def _read_json(text: str, name: str) -> Iterator[Found]:
    if not text.strip():
        return
    entries = _load(text, name, None)
    if not isinstance(entries, list):
        raise UsageError(
            f"{name}, line 1: a JSON {_kind(entries)} is no JSON list of strings; give that, or a list of objects with "
            f"{_KEYS}"
        )
    for number, entry in enumerate(entries, start=1):
        yield f"entry {number}", _prompt_of(entry, f"{name}, entry {number}")


def _read_json_lines(text: str, name: str) -> Iterator[Found]:
    for place, line in _read_lines(text, name):
        if line.strip():
            yield place, _prompt_of(_load(line, name, place), f"{name}, {place}")


def _read_table(text: str, name: str, delimiter: str) -> Iterator[Found]:
    limit = csv.field_size_limit(max(len(text), 1))
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    column: int | None = None
    width = 0
    try:
        for row in rows:
            if not any(field.strip() for field in row):
                continue
            place = f"line {rows.line_num}"
            if column is None:
                header = [field.strip().lower() for field in row]
                column = next((header.index(key) for key in KEYS if key in header), None)
                width = len(row)
                if column is None:
                    shown = ", ".join(field[:30] for field in row[:8])
                    raise UsageError(f"{name}, {place}: no column is named {_KEYS}; there are {shown}")
            elif len(row) != width:
                raise UsageError(
                    f"{name}, {place}: {len(row)} fields, and the header names {width}; quote fields that hold "
                    "the separator"
                )
            else:
                yield place, row[column]
    except csv.Error as error:
        why = "a quote is not closed" if "unexpected end of data" in str(error) else error
        raise UsageError(f"{name}, line {rows.line_num}: {why}; mend the table") from error
    finally:
        csv.field_size_limit(limit)


def _load(text: str, name: str, place: str | None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = place or f"line {error.lineno}"
        raise UsageError(f"{name}, {where}: no valid JSON ({error.msg}, column {error.colno}); mend it") from error
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{name}, {place or 'line 1'}: JSON that is nested or long beyond reason; mend it") from error


def _prompt_of(entry: Any, place: str) -> str:
    if isinstance(entry, dict):
        named = {str(key).strip().lower(): value for key, value in entry.items()}
        key = next((key for key in KEYS if key in named), None)
        if key is None:
            raise UsageError(f"{place}: an object without {_KEYS}; it has {', '.join(list(named)[:8]) or 'nothing'}")
        entry = named[key]
    if not isinstance(entry, str):
        raise UsageError(f"{place}: a prompt is a string, and this is a JSON {_kind(entry)}")
    return entry


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "string", bool: "truth value", type(None): "null"}
    return kinds.get(type(value), "number")


LINES = PromptFormat("text", (".txt",), _read_lines)
JSON = PromptFormat("JSON", (".json",), _read_json)
JSON_LINES = PromptFormat("JSON lines", (".jsonl", ".ndjson"), _read_json_lines)
CSV = PromptFormat("a CSV table", (".csv",), partial(_read_table, delimiter=","))
TSV = PromptFormat("a TSV table", (".tsv",), partial(_read_table, delimiter="\t"))
# By ending. A `.txt` is read as lines, unless it looks like something else.
FORMATS = {ending: each for each in (JSON, JSON_LINES, CSV, TSV) for ending in each.endings}
