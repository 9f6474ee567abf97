"""The benchmark of ONNX exports: what it counts, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from benchmarks import onnx_export
from benchmarks.onnx_export import FORMS, count, measure_exports
from passes.errors import UsageError


def _silu_model(path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy")
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "silu", [x], [y]), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    onnx.save(model, str(path))
    return path


def test_nodes_are_counted_before_and_after_fusion(tmp_path: Path) -> None:
    path = _silu_model(tmp_path / "silu.onnx")
    assert count(path, threads=1) == {"written": {"nodes": 2}, "optimized": {"nodes": 1, "QuickGelu": 1}}
    assert [file.name for file in tmp_path.iterdir()] == ["silu.onnx"]


def test_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no form 'tflite'"):
        measure_exports("emoji", ["generic", "tflite"], repeats=1, warmup=0, folder=tmp_path)


def test_a_failed_form_is_a_row_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export.subprocess, "run", lambda *_, **__: _Failed())
    monkeypatch.setattr(onnx_export, "load", lambda name: (None, None))
    monkeypatch.setattr(onnx_export, "capture_denoiser", lambda *_, **__: None)
    monkeypatch.setattr(onnx_export, "example_tensors", lambda _: [])
    result = measure_exports("emoji", ["generic"], repeats=1, warmup=0, folder=tmp_path)
    assert result["forms"] == {"generic": {"failed": "error: too big"}}


class _Failed:
    returncode, stderr = 1, "a warning\nerror: too big\n"


@pytest.mark.slow
def test_emoji_in_two_forms(tmp_path: Path) -> None:
    arguments = ["emoji", "--forms", "generic,onnxruntime", "--repeats", "2", "--output", str(tmp_path)]
    app = onnx_export.typer.Typer()
    app.command()(onnx_export.main)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "onnx-export-emoji.json").is_file()
    assert "generic" in FORMS
