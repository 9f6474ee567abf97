"""Mutmut's operators, without the mutants that nothing could notice.

Only its operators: its own runner wraps every function in a trampoline, which torch.export and `inspect` would see, and
leaves out whatever has a decorator, as every fact here has.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

# Settings that say nothing about the result: zip(strict=True) asserts, there is one device, all texts are UTF-8.
_NEUTRAL_ARGUMENTS = {"strict", "device", "encoding", "stacklevel"}
# What is only read by people and by type checkers.
_SKIPPED_NODES = (cst.Annotation, cst.Decorator, cst.Raise, cst.Import, cst.ImportFrom)


@dataclass(frozen=True)
class Mutant:
    """One small bug.

    Attributes:
        source: the file, from the root of the project.
        index: which of the file's mutants.
        lines: first and last line of the statement (or the node) that is changed, from 1.
        operator: what mutmut calls the change.
    """

    source: str
    index: int
    lines: tuple[int, int]
    operator: str


def list_mutants(root: Path, source: str) -> list[Mutant]:
    """Find all mutants of a file, in the file's order."""
    return [
        Mutant(source, index, lines, operator) for index, (_, _, lines, operator) in enumerate(_find(root / source)[1])
    ]


def mutate(root: Path, mutant: Mutant) -> tuple[str, str]:
    """Give the text of the file as it was when its mutants were listed, and with this one change."""
    module, found = _find(root / mutant.source)
    old, new, _, _ = found[mutant.index]
    changed = module.deep_replace(old, new)
    assert isinstance(changed, cst.Module)
    return module.code, changed.code


def describe(before: str, after: str) -> tuple[int, str, str]:
    """Give the line where two texts differ, and what stands there in each, in one line."""
    old, new = before.splitlines(), after.splitlines()
    changes = [op for op in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if op[0] != "equal"]
    _, start, stop, new_start, new_stop = changes[0]
    return start + 1, _one_line(old[start:stop]), _one_line(new[new_start:new_stop])


def _one_line(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)


_Found = tuple[cst.CSTNode, cst.CSTNode, tuple[int, int], str]
_KNOWN: dict[Path, tuple[cst.Module, list[_Found]]] = {}


def _find(path: Path) -> tuple[cst.Module, list[_Found]]:
    if path not in _KNOWN:
        wrapper = MetadataWrapper(cst.parse_module(path.read_text(encoding="utf-8")))
        finder = _Finder()
        wrapper.visit(finder)
        _KNOWN[path] = wrapper.module, finder.found
    return _KNOWN[path]


class _Finder(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Found] = []
        self._statement: cst.CSTNode | None = None

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _is_skipped(node):
            return False
        if isinstance(node, cst.Call) and _calls(node, "cast"):
            # The type is for type checkers.
            node.args[1].visit(self)
            return False
        if isinstance(node, cst.SimpleStatementLine):
            self._statement = node
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                made = list(operator(node))
                # "XXkeyXX", "KEY" and "Key" ask the same question.
                for new in made[:1] if operator is operator_string else made:
                    if not _is_neutral(node, new):
                        self.found.append((node, new, self._lines(node), operator.__name__.removeprefix("operator_")))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if original_node is self._statement:
            self._statement = None

    def _lines(self, node: cst.CSTNode) -> tuple[int, int]:
        place = self.get_metadata(PositionProvider, self._statement or node, None)
        # Operators inside a comparison may have no place of their own.
        return (place.start.line, place.end.line) if place else (0, 0)


def _is_skipped(node: cst.CSTNode) -> bool:
    match node:
        case cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString()):
            return True  # a docstring
        case cst.If(test=cst.Name(value="TYPE_CHECKING")):
            return True
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value="__all__"))]):
            return True
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name))]) if _is_type_alias(name, node.value):
            return True
        case cst.Arg():
            return _is_neutral_argument(node)
    return isinstance(node, _SKIPPED_NODES) or _is_prose(node)


def _is_type_alias(name: str, value: cst.BaseExpression) -> bool:
    """Whether an assignment names a type, as `Sizes = dict[str, int]` does."""
    return name[:1].isupper() and not name.isupper() and isinstance(value, cst.Subscript | cst.BinaryOperation)


def _is_prose(node: cst.CSTNode) -> bool:
    """Whether it is a text for people: it has a space in it."""
    match node:
        case cst.SimpleString():
            return " " in node.raw_value.strip()
        case cst.FormattedString():
            return any(isinstance(part, cst.FormattedStringText) and " " in part.value.strip() for part in node.parts)
        case cst.ConcatenatedString():
            return _is_prose(node.left) or _is_prose(node.right)
    return False


def _is_neutral_argument(node: cst.Arg) -> bool:
    return (node.keyword is not None and node.keyword.value in _NEUTRAL_ARGUMENTS) or _is_prose(node.value)


def _calls(node: cst.Call, *names: str) -> bool:
    return isinstance(node.func, cst.Name) and node.func.value in names


def _is_neutral(old: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Whether the change can't be noticed: of a neutral argument, or of what is only for type checkers."""
    match old:
        case cst.Call() if _calls(old, "TypeVar", "NewType") or _calls(old, "len", "isinstance"):
            return True  # the last two fail wherever they are run, as mutmut knows
        case cst.Call() if isinstance(new, cst.Call):
            kept = {id(arg) for arg in new.args}
            return any(_is_neutral_argument(arg) for arg in old.args if id(arg) not in kept)
        case cst.Assign() | cst.AnnAssign():
            return old.value is not None and _is_prose(old.value)
    return False
