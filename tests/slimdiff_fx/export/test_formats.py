"""The table of export formats: each entry names what is there, and what it takes."""

from __future__ import annotations

from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path

import pytest

from passes.errors import UsageError
from slimdiff_fx.commands.options.choices import Format as Choice
from slimdiff_fx.commands.options.choices import Int8
from slimdiff_fx.export.formats import FORMATS, Format, format_of
from slimdiff_fx.files.own_files import ONNX
from tests.toy_block import toy

COMPARED = {"tolerance", "inputs", "settings"}  # of every format; the command line offers none of them


@pytest.mark.parametrize("name", FORMATS)
def test_an_entry_says_what_its_function_takes(name: str) -> None:
    form = FORMATS[name]
    module, _, function = form.writes.partition(":")
    takes = signature(getattr(import_module(module), function)).parameters
    optional = {each.name for each in takes.values() if each.kind is Parameter.KEYWORD_ONLY}
    assert optional - COMPARED == set(form.arguments)
    assert [each.name for each in takes.values()][:2] == ["program", "path"]


def test_the_command_line_offers_what_is_in_the_table() -> None:
    assert [each.value for each in Choice] == list(FORMATS)
    assert {mode for form in FORMATS.values() for mode in form.int8} == {each.value for each in Int8}
    assert len({form.ending for form in FORMATS.values()}) == len(FORMATS)


def test_another_entry_is_all_that_another_format_takes(tmp_path: Path) -> None:
    form = Format("txt", ONNX, f"{__name__}:write_names", arguments=("first",), builds=f"{__name__}:build")
    program = toy()[0]
    assert form.export(program, tmp_path / "names", first="to_q") == 4
    assert (tmp_path / "names").read_text().startswith("attention.to_q")
    assert form.build_command(program, tmp_path, int8=True) == "build int8"
    assert FORMATS["onnx"].build_command(program, tmp_path, int8=True) is None


def write_names(program, path, *, first):  # type: ignore[no-untyped-def]
    names = sorted(
        (name for name, _ in program.graph_module.named_parameters() if name.startswith("attention")),
        key=lambda name: first not in name,
    )
    path.write_text("\n".join(names[:4]))
    return len(names[:4])


def build(program, path, *, int8):  # type: ignore[no-untyped-def]
    return "build int8" if int8 else "build"


def test_no_such_format() -> None:
    with pytest.raises(UsageError, match="no export format 'pdf'; there are onnx, pt2"):
        format_of("pdf")
