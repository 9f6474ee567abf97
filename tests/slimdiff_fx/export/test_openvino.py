"""OpenVINO IR: computes the same at other batches and sizes, or isn't there."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest
import torch

from passes.errors import CheckpointError, ExportError
from passes.program.program import Program
from slimdiff_fx.export.openvino import export_openvino
from tests.old_exports import OPENVINO
from tests.toy_block import build, capture_block

openvino = pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def program() -> Program:
    return capture_block(build(dtype=torch.float32))


def test_files_equal_the_program(program: Program, tmp_path: Path) -> None:
    report = export_openvino(program, tmp_path / "toy.xml")
    assert [case.shapes["sample"][0] for case in report.cases] == [1, 3, 65]
    assert report.relative <= 1e-5  # fp32; about 1e-6 is measured
    assert {file.name for file in tmp_path.iterdir()} == {"toy.xml", "toy.bin"}
    model = openvino.Core().read_model(tmp_path / "toy.xml")
    names = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    assert [value.any_name for value in model.inputs] == names
    assert model.inputs[0].partial_shape[0].is_dynamic
    assert "ScaledDotProductAttention" in {op.get_type_name() for op in model.get_ops()}


@pytest.mark.slow
def test_half_weights(program: Program, tmp_path: Path) -> None:
    report = export_openvino(program, tmp_path / "toy.xml", dtype=torch.float16)
    assert 1e-6 < report.relative <= 1e-2
    whole = sum(value.numel() for value in program.graph_module.parameters())
    assert (tmp_path / "toy.bin").stat().st_size < 2.5 * whole


@pytest.mark.slow
def test_out_of_tolerance_leaves_the_old_files(program: Program, tmp_path: Path) -> None:
    for ending in ("xml", "bin"):
        (tmp_path / f"toy.{ending}").write_bytes(OPENVINO)
    with pytest.raises(ExportError, match="differs from the program"):
        export_openvino(program, tmp_path / "toy.xml", dtype=torch.float16, tolerance=1e-9)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [OPENVINO, OPENVINO]


def test_bad_places_and_types(program: Program, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"end with \.xml"):
        export_openvino(program, tmp_path / "toy.onnx")
    with pytest.raises(CheckpointError, match="nowhere"):
        export_openvino(program, tmp_path / "nowhere" / "toy.xml")
    with pytest.raises(ExportError, match="is not offered"):
        export_openvino(program, tmp_path / "toy.xml", dtype=torch.bfloat16)


def test_what_is_missing_is_named(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "openvino":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ExportError, match=r"pip install 'slimdiff-fx\[deploy\]'"):
        export_openvino(program, tmp_path / "toy.xml")
