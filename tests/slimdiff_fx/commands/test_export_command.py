"""`slimdiff-fx export`: what it writes and says, and what it refuses before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from slimdiff_fx.cli import app


def _export(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["export", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def folder(toy_pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_pipeline, tmp_path / "pipeline"))


@pytest.mark.slow
def test_int8(folder: Path) -> None:
    code, said, _ = _export(folder, "--format", "onnx", "--int8", "static", "--samples", 2)
    assert code == 0
    assert "int8 static: relative squared error of the prediction" in said
    written = onnx.load(folder / "unet.int8.onnx")
    assert any(node.op_type == "DequantizeLinear" for node in written.graph.node)


@pytest.mark.slow
def test_tensorrt(folder: Path) -> None:
    code, said, _ = _export(folder, "--format", "tensorrt")
    assert code == 0
    assert f"--onnx={folder / 'unet.tensorrt.onnx'}" in said
    assert (folder / "unet.tensorrt.onnx").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("format", "needs", "file", "hint"),
    [
        ("aoti", "torch", "unet.aoti.pt2", "call it with contiguous tensors"),
        ("executorch", "executorch", "unet.pte", "it holds for these sizes: sample 2×16×8×8"),
        ("openvino", "openvino", "unet.xml", "equals torch to"),
    ],
)
def test_other_formats(folder: Path, format: str, needs: str, file: str, hint: str) -> None:
    pytest.importorskip(needs)
    code, said, failed = _export(folder, "--format", format)
    assert code == 0, failed
    assert (folder / file).is_file()
    assert hint in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ("--format", "openvino", "--int8", "static"),
            "--int8 static is not offered with --format openvino; there is weights",
        ),
        (("--format", "onnx", "--int8", "weights"), "there are static and dynamic"),
        (("--format", "onnx", "--int8", "static", "--dtype", "float16"), "leave --dtype float16 out"),
        (("--format", "onnx", "--samples", "4"), "give --int8 with them"),
        (("--format", "executorch", "--dtype", "float16"), "executorch writes float32"),
        (("--format", "pt2", "--opset", "20"), "--opset and --target are of ONNX"),
    ],
)
def test_what_contradicts_itself(folder: Path, words: tuple[str, ...], reason: str) -> None:
    before = sorted(folder.iterdir())
    code, _, complaint = _export(folder, *words)
    assert code == 2
    assert reason in complaint
    assert sorted(folder.iterdir()) == before
