"""AOTInductor's package: computes the same at other batches and sizes, or isn't there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from passes.errors import CheckpointError, ExportError
from passes.program.program import Program
from slimdiff_fx.export.aoti import export_aoti
from tests.old_exports import PT2
from tests.toy_block import build, capture_block
from tests.toy_picture import capture_picture


@pytest.fixture(scope="module")
def program() -> Program:
    return capture_block(build(dtype=torch.float32))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_package_equals_the_program(program: Program, tmp_path: Path) -> None:
    report = export_aoti(program, tmp_path / "toy.pt2")
    assert [case.shapes["sample"][0] for case in report.cases] == [1, 3, 65]
    assert report.relative <= 1e-5  # fp32; about 1e-6 is measured
    assert [file.name for file in tmp_path.iterdir()] == ["toy.pt2"]
    loaded = torch._inductor.aoti_load_package(str(tmp_path / "toy.pt2"))
    with torch.no_grad():
        found = loaded(*program.args, **program.kwargs)
        expected = program(*program.args, **program.kwargs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_inputs_of_other_strides(tmp_path: Path) -> None:
    """Pipelines expand the timestep; the package itself would read past the end of one number."""
    sample = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    report = export_aoti(capture_picture(), tmp_path / "toy.pt2", inputs=[[sample, torch.tensor(500.0).expand(4)]])
    assert report.relative <= 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_out_of_tolerance_leaves_the_old_file(program: Program, tmp_path: Path) -> None:
    (tmp_path / "toy.pt2").write_bytes(PT2)
    with pytest.raises(ExportError, match="differs from the program"):
        export_aoti(program, tmp_path / "toy.pt2", dtype=torch.bfloat16, tolerance=1e-9)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [PT2]


def test_bad_places_and_types(program: Program, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"end with \.pt2"):
        export_aoti(program, tmp_path / "toy.so")
    with pytest.raises(ExportError, match="is not offered"):
        export_aoti(program, tmp_path / "toy.pt2", dtype=torch.float64)


def test_a_failing_compiler_is_named(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no C++ compiler found\nmore")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fails)
    with pytest.raises(ExportError, match="can't compile the program: no C\\+\\+ compiler found"):
        export_aoti(program, tmp_path / "toy.pt2")
    assert not list(tmp_path.iterdir())
    with pytest.raises((CheckpointError, ExportError)):
        export_aoti(program, tmp_path / "nowhere" / "toy.pt2")
