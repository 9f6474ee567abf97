"""ExecuTorch programs: the runtime computes the same, float and int8, or there is no file."""

from __future__ import annotations

import builtins
import importlib.util
from pathlib import Path

import pytest
import torch

from passes.errors import ExportError
from passes.program.program import Program
from passes.rewrite.rewrite import rewrite
from slimdiff_fx.denoisers.families import capture_denoiser
from slimdiff_fx.export.executorch import export_executorch
from slimdiff_fx.export.input_sizes import shapes_in_words
from slimdiff_fx.export.parity import random_inputs
from slimdiff_fx.quantize.export_int8 import export_pt2e_int8
from tests.plans import random_plan
from tests.toy_block import build, capture_block
from tests.toy_denoisers import unet_sd15
from tests.toy_picture import capture_picture

needs_executorch = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="executorch is not installed"
)


@pytest.fixture(scope="module")
def program() -> Program:
    return capture_picture()


@pytest.mark.slow
@needs_executorch
def test_a_file_equals_the_program(program: Program, tmp_path: Path) -> None:
    report = export_executorch(program, tmp_path / "toy.pte")
    assert report.runtime.startswith("ExecuTorch")
    assert len(report.cases) == 3
    assert report.relative <= 1e-5  # fp32; about 1e-6 is measured
    assert shapes_in_words(program) == "sample 2×3×8×8, timestep 2"
    with pytest.raises(ExportError, match="differs from the program"):
        export_executorch(program, tmp_path / "other.pte", tolerance=0)
    assert [file.name for file in tmp_path.iterdir()] == ["toy.pte"]


@pytest.mark.slow
@needs_executorch
def test_int8(program: Program, tmp_path: Path) -> None:
    held_out = random_inputs(program, 2, seed=50)
    report = export_pt2e_int8(program, "executorch", tmp_path / "toy.pte", random_inputs(program, 4), held_out)
    assert report.runtime.startswith("PT2E, ExecuTorch")
    assert 1e-7 < report.relative_mse < 0.02
    export_executorch(program, tmp_path / "float.pte")
    int8, single = ((tmp_path / name).stat().st_size for name in ("toy.pte", "float.pte"))
    assert int8 < 0.8 * single  # weights are integers; most of so small a file is no weights


@needs_executorch
@pytest.mark.slow
def test_int8_leaves_additions_in_float(program: Program) -> None:
    from slimdiff_fx.quantize.pt2e import WEIGHTED, quantize_pt2e, xnnpack_quantizer

    graph = quantize_pt2e(program, random_inputs(program, 2), xnnpack_quantizer()).graph
    weighted, added = (
        [node for node in graph.nodes if node.target in targets] for targets in (WEIGHTED, (torch.ops.aten.add.Tensor,))
    )
    assert len(weighted) == 6
    assert all("dequantize" in node.all_input_nodes[0].name for node in weighted)
    assert len(added) == 3
    assert not any("quantize" in user.name for node in added for user in node.users)


@needs_executorch
@pytest.mark.slow
def test_a_slim_unet(tmp_path: Path) -> None:
    dense = capture_denoiser(unet_sd15(0))
    report = export_executorch(rewrite(dense, random_plan(dense, 0)), tmp_path / "toy.pte")
    assert report.relative <= 1e-4  # 1e-6 is measured


def test_other_dtypes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="float32 program"):
        export_executorch(capture_block(build(dtype=torch.float64)), tmp_path / "toy.pte")


def test_what_is_missing_is_named(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("executorch"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ExportError, match=r"pip install 'slimdiff-fx\[mobile\]'"):
        export_executorch(program, tmp_path / "toy.pte")
    assert not list(tmp_path.iterdir())
