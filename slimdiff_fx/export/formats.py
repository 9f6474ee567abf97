"""The export formats, an entry each. What writes a format is imported when it is used: the command line reads this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

from passes.errors import UsageError
from slimdiff_fx.files.own_files import EXECUTORCH, ONNX, OPENVINO, PT2, FileKind


@dataclass(frozen=True)
class Format:
    """A kind of file to export a program to.

    Attributes:
        ending: of its files, after the denoiser's name.
        kind: how such a file is known again; only those are replaced.
        writes: "module:function" of what writes one, (program, path, **arguments), gives a report and compares.
        arguments: what the function takes beside program, path, `tolerance` and `inputs`.
        any_dtype: it takes a program of any precision as it is; else it begins with float32.
        int8: ways to quantize that are offered.
        one_size: a file holds for the example's sizes alone.
        builds: "module:function" of what gives the command that makes more of the file, (program, path, int8=...).
        advice: what who uses the file has to know.
    """

    ending: str
    kind: FileKind
    writes: str
    arguments: tuple[str, ...] = ("dtype",)
    any_dtype: bool = False
    int8: tuple[str, ...] = ()
    one_size: bool = False
    builds: str | None = None
    advice: str | None = None

    def export(self, program: Any, path: Any, **arguments: Any) -> Any:
        """Write a file; see the function's own documentation."""
        return _named(self.writes)(program, path, **arguments)

    def build_command(self, program: Any, path: Any, *, int8: bool) -> str | None:
        """Give the command that makes more of the file, where there is one."""
        return None if self.builds is None else str(_named(self.builds)(program, path, int8=int8))


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(
            "onnx",
            ONNX,
            "slimdiff_fx.export.to_onnx.export:export_onnx",
            arguments=("dtype", "opset", "target"),
            int8=("static", "dynamic"),
        ),
        "pt2": Format("pt2", PT2, "slimdiff_fx.export.pt2:export_pt2", any_dtype=True, int8=("static",)),
        "aoti": Format(
            "aoti.pt2",
            PT2,
            "slimdiff_fx.export.aoti:export_aoti",
            any_dtype=True,
            int8=("static",),
            advice="call it with contiguous tensors: it reads an expanded timestep wrongly, with no error unless "
            "AOTI_RUNTIME_CHECK_INPUTS=1 is set",
        ),
        "openvino": Format("xml", OPENVINO, "slimdiff_fx.export.openvino:export_openvino", int8=("weights",)),
        "executorch": Format(
            "pte",
            EXECUTORCH,
            "slimdiff_fx.export.executorch:export_executorch",
            arguments=(),
            int8=("static",),
            one_size=True,
        ),
        "tensorrt": Format(
            "tensorrt.onnx",
            ONNX,
            "slimdiff_fx.export.tensorrt:export_tensorrt",
            int8=("static",),
            builds="slimdiff_fx.export.tensorrt:trtexec_command",
        ),
    }
)


def format_of(name: str) -> Format:
    """Find a format.

    Raises:
        UsageError: there is none of that name.
    """
    found = FORMATS.get(name)
    if found is None:
        raise UsageError(f"no export format {name!r}; there are {', '.join(FORMATS)}")
    return found


def _named(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function
