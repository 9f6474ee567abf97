"""What docs/compilers.md shows is run, block by block, on a tiny pipeline in place of the built-in one."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

import slimdiff_fx.pipelines.load

PAGE = (Path(__file__).parents[1] / "docs/compilers.md").read_text(encoding="utf-8")
BLOCKS = {
    part.splitlines()[0]: re.findall(r"^```python\n(.*?)^```", part, flags=re.DOTALL | re.MULTILINE)[0]
    for part in re.split(r"^#+ ", PAGE, flags=re.MULTILINE)[1:]
}


@pytest.fixture(scope="module")
def names(toy_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Run what the others need: the first block, and the passes."""
    torch._dynamo.reset()
    folder = tmp_path_factory.mktemp("compilers")
    DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float32).save_pretrained(folder / "pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(slimdiff_fx.pipelines.load, "emoji_folder", lambda: folder / "pipeline")
        found: dict[str, Any] = {}
        for heading in ("Slim models inside compilers", "Your own passes", "A flow that begins with torch.export"):
            _run(heading, found)
        yield found
    torch._dynamo.reset()


def _run(heading: str, names: dict[str, Any]) -> None:
    code = re.sub(r"\b(samples|steps)=\d+", r"\1=4", BLOCKS[heading])
    exec(compile(code, f"docs/compilers.md: {heading}", "exec"), names)


def _slim(names: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = names["result"].model(*names["inputs"]).sample
    return result


def test_every_block_is_run_here() -> None:
    assert len(BLOCKS) == PAGE.count("```python")
    assert list(BLOCKS) == [
        "Slim models inside compilers",
        "torch.compile",
        "Block by block",
        "Your own passes",
        "A flow that begins with torch.export",
        "AOTInductor",
        "ONNX Runtime and TensorRT",
        "OpenVINO",
        "ExecuTorch",
        "A .pt2 file",
    ]


@pytest.mark.slow
def test_both_pass_managers_give_the_slim_model(names: dict[str, Any]) -> None:
    found = names["slim_exported"].module()(*names["inputs"])
    torch.testing.assert_close(found, _slim(names), rtol=0, atol=1e-5)
    assert not any(node.target is torch.ops.aten.dropout.default for node in names["slim_graph"].graph.nodes)
    with torch.no_grad():
        assert (names["unet"](*names["inputs"]).sample - _slim(names)).abs().max() > 1e-3


@pytest.mark.slow
def test_pt2(names: dict[str, Any]) -> None:
    _run("A .pt2 file", names)


@pytest.mark.slow
@pytest.mark.parametrize("heading", ["torch.compile", "Block by block", "AOTInductor"])
def test_inductor(names: dict[str, Any], heading: str) -> None:
    _run(heading, names)


@pytest.mark.slow
@pytest.mark.parametrize(("heading", "module"), [("ONNX Runtime and TensorRT", "onnx"), ("OpenVINO", "openvino")])
def test_runtimes(names: dict[str, Any], heading: str, module: str) -> None:
    pytest.importorskip(module)
    _run(heading, names)
    torch.testing.assert_close(torch.as_tensor(names["prediction"]), _slim(names), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_executorch(names: dict[str, Any]) -> None:
    if importlib.util.find_spec("executorch") is None:
        pytest.skip("needs executorch: pip install 'slimdiff-fx[mobile]'")
    _run("ExecuTorch", names)
    assert Path("unet.pte").stat().st_size > 0
