"""OpenVINO with 8-bit weights: a quarter of the size, close, or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from passes.errors import ExportError
from slimdiff_fx.export.input_sizes import SIZES
from slimdiff_fx.export.parity import random_inputs
from slimdiff_fx.quantize.openvino_int8 import export_openvino_int8
from tests.toy_picture import capture_picture

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")


@pytest.mark.slow
def test_files(tmp_path: Path) -> None:
    program = capture_picture()
    held_out = random_inputs(program, 2)
    report = export_openvino_int8(program, tmp_path / "toy.xml", held_out)
    assert report.mode == "weights"
    assert 1e-9 < report.relative_mse < 1e-3  # 2e-5 is measured
    whole = sum(value.numel() for value in program.graph_module.parameters())
    assert (tmp_path / "toy.bin").stat().st_size < 2 * whole  # 4 bytes each in float
    assert SIZES in (tmp_path / "toy.xml").read_text(encoding="utf-8")
    with pytest.raises(ExportError, match="at most 1e-12 is allowed"):
        export_openvino_int8(program, tmp_path / "other.xml", held_out, max_error=1e-12)
    assert {file.name for file in tmp_path.iterdir()} == {"toy.xml", "toy.bin"}
    with pytest.raises(ExportError, match=r"end with \.xml"):
        export_openvino_int8(program, tmp_path / "toy.onnx", held_out)
