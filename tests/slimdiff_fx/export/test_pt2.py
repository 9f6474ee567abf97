"""The .pt2 file: loads, computes the same at other batches and sizes, keeps the model's names, or isn't there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from passes.errors import CheckpointError, ExportError
from passes.program.program import Program
from slimdiff_fx.export.pt2 import export_pt2
from tests.old_exports import PT2
from tests.toy_block import build, capture_block


@pytest.fixture(scope="module")
def program() -> Program:
    return capture_block(build(dtype=torch.float32))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own, while it unpickles its tree specs
def test_file_equals_program(program: Program, tmp_path: Path) -> None:
    report = export_pt2(program, tmp_path / "toy.pt2")
    assert [case.shapes["sample"][0] for case in report.cases] == [1, 3, 65]
    assert report.relative <= 1e-6  # fp32, the same kernels
    loaded = torch.export.load(tmp_path / "toy.pt2")
    assert set(loaded.state_dict) == set(build().state_dict())
    assert [file.name for file in tmp_path.iterdir()] == ["toy.pt2"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
def test_half(program: Program, tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    report = export_pt2(program, tmp_path / "toy.pt2", dtype=dtype)
    assert 1e-6 < report.relative <= tolerance
    with torch.no_grad():
        loaded = torch.export.load(tmp_path / "toy.pt2")
    assert {value.dtype for value in loaded.state_dict.values()} == {dtype}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_out_of_tolerance_leaves_the_old_file(program: Program, tmp_path: Path) -> None:
    (tmp_path / "toy.pt2").write_bytes(PT2)
    with pytest.raises(ExportError, match="differs from the program"):
        export_pt2(program, tmp_path / "toy.pt2", dtype=torch.bfloat16, tolerance=1e-9)
    assert (tmp_path / "toy.pt2").read_bytes() == PT2
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_no_such_folder(program: Program, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        export_pt2(program, tmp_path / "nowhere" / "toy.pt2")


def test_unknown_dtype(program: Program, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is not offered"):
        export_pt2(program, tmp_path / "toy.pt2", dtype=torch.float8_e4m3fn)
