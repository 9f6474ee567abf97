"""The ONNX graph: whole operators, constant shapes, every weight once under its own name; slim like dense."""

from __future__ import annotations

import collections
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir
import onnxruntime
import pytest
import torch
from diffusers import UNet2DConditionModel

from passes.errors import UsageError
from passes.plan.updates import slim_shapes
from passes.program.program import Program
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from passes.sites.kinds import kind_of
from slimdiff_fx.denoisers.families import capture_denoiser
from slimdiff_fx.export.to_onnx import graph as module
from slimdiff_fx.export.to_onnx.export import export_onnx
from slimdiff_fx.export.to_onnx.graph import onnx_graph, save_graph
from slimdiff_fx.export.to_onnx.runtime import quiet_onnxruntime
from tests.plans import plan_of

# What a runtime has one fast kernel for; the rest of a graph is convolutions, products and additions.
FUSED = (
    "Attention",
    "MultiHeadAttention",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "SkipLayerNormalization",
    "Gelu",
    "BiasGelu",
    "QuickGelu",
    "FusedMatMul",
    "Gemm",
    "MatMul",
    "Softmax",
    "Conv",
    "FusedConv",
    "Transpose",
    "Reshape",
)


# operator set, ONNX Runtime's own operators, what attention becomes
FORMS = {
    "onnxruntime": (20, True, "MultiHeadAttention"),
    "generic-23": (23, False, "Attention"),
    "generic-20": (20, False, "Softmax"),
}


@functools.cache
def _dense() -> Program:
    # One block each way and no middle: an export is seconds of tracing for each block.
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return capture_denoiser(model.eval(), height=8, width=8, tokens=5)


@functools.cache
def _slim(way: str) -> Program:
    """Be slim in one of three ways, whole heads gone, heads of an odd width, neurons gone; or in all at once."""
    dense = _dense()
    sites = find_sites(dense)
    attention = [site for site in sites if site.kind == "attention"]
    parameters = dict(dense.graph_module.named_parameters())
    generator = torch.Generator().manual_seed(0)
    kept: dict[str, tuple[int, ...]] = {}
    widths: dict[str, int] = {}
    for at, site in enumerate(sites):
        if site not in attention:
            kept[site.name] = tuple(range(0, site.units, 3)) if way in ("neurons", "all") else tuple(range(site.units))
        elif way == "heads" or (way == "all" and at % 2):
            kept[site.name] = tuple(range(1, site.units))
        elif way in ("width", "all"):
            assert kind_of(site.kind).narrowable(site)
            widths[site.name] = site.unit_width - 3
    plan = plan_of(dense, kept)
    entries, updates = dict(plan.sites), {}
    for site in attention:
        if site.name in widths:
            entries[site.name] = replace(plan.sites[site.name], width=widths[site.name])
            for name, shape in slim_shapes(site, entries[site.name], parameters):
                updates[name] = 0.1 * torch.randn(shape, generator=generator)
    return rewrite(dense, replace(plan, sites=entries, updates=updates))


@functools.cache
def _graph(form: str, way: str = "") -> onnx_ir.Model:
    opset, contributed, _ = FORMS[form]
    return onnx_graph(_slim(way) if way else _dense(), dtype=None, opset=opset, onnxruntime=contributed)


def _written(model: onnx_ir.Model) -> Mapping[str, int]:
    return collections.Counter(node.op_type for node in model.graph)


def _optimized(model: onnx_ir.Model, folder: Path) -> Mapping[str, int]:
    """Count what ONNX Runtime has a kernel for when it has made its own fusions."""
    quiet_onnxruntime()
    save_graph(model, folder / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    counts = _written(onnx_ir.load(folder / "optimized.onnx"))
    return {op: counts[op] for op in FUSED}


def _check(form: str, ways: Sequence[str], folder: Path) -> None:
    dense, whole = _dense(), FORMS[form][2]
    attentions = sum(site.kind == "attention" for site in find_sites(dense))
    kinds = collections.Counter(type(part).__name__ for part in dense.graph_module.modules())
    written, optimized = _written(_graph(form)), _optimized(_graph(form), folder)
    assert written[whole] == optimized[whole] == attentions > 0
    norm = "GroupNormalization" if form == "generic-23" else "InstanceNormalization"
    assert written[norm] == kinds["GroupNorm"] > 0
    assert written["LayerNormalization"] == kinds["LayerNorm"] > 0
    assert written["Gelu"] == attentions // 2 > 0
    for way in ways:
        assert _written(_graph(form, way)) == written, way
        assert _optimized(_graph(form, way), folder) == optimized, way


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnxruntime", "generic-23"])
def test_slim_fuses_as_dense_does(form: str, tmp_path: Path) -> None:
    _check(form, ["all"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_each_way_of_being_slim_fuses_as_dense_does(form: str, tmp_path: Path) -> None:
    _check(form, ["heads", "width", "neurons"], tmp_path)


@pytest.mark.slow
def test_weights_are_there_once_under_their_names() -> None:
    graph = _graph("onnxruntime").graph
    parameters = dict(_dense().graph_module.named_parameters())
    written = {name: value.const_value for name, value in graph.initializers.items()}
    big = {name: tensor for name, tensor in parameters.items() if tensor.dim() > 1}
    assert big.keys() <= written.keys()
    # Beside the weights: shapes, scales, and the frequencies of timestep waves.
    assert sum(tensor.size for tensor in written.values()) < 1.05 * sum(map(torch.Tensor.numel, parameters.values()))
    products = [node.inputs[1] for node in graph if node.op_type == "MatMul" and node.inputs[1].is_initializer()]
    assert products
    for weight in products:
        stored = torch.from_numpy(written[weight.name].numpy())
        assert torch.equal(stored, parameters[weight.name].detach().T), weight.name


@pytest.mark.slow
def test_shapes_are_constants_where_they_can_be() -> None:
    graph = _graph("onnxruntime").graph
    worked_out = [node for node in graph if node.op_type == "Reshape" and not node.inputs[1].is_initializer()]
    # Back from groups to the picture, and from tokens to the picture, both of which have two open sizes.
    norms = sum(node.op_type == "InstanceNormalization" for node in graph)
    blocks = sum(site.kind != "attention" for site in find_sites(_dense()))
    assert len(worked_out) <= norms + blocks
    assert not [node for node in graph if node.op_type in ("Identity", "Dropout", "Cast", "CastLike", "Expand")]


@pytest.mark.slow
def test_heavy_weights_go_beside_the_file_and_the_result_is_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EMBEDDED_BYTES", 10_000)
    path = tmp_path / "unet.onnx"
    report = export_onnx(_slim("all"), path, target="onnxruntime", tolerance=1e-5)
    assert report.relative > 0
    assert {file.name for file in tmp_path.iterdir()} == {"unet.onnx", "unet.onnx.data"}
    assert path.stat().st_size < (tmp_path / "unet.onnx.data").stat().st_size
    outside = [value for value in onnx_ir.load(path).graph.initializers.values() if value.const_value.nbytes > 1024]
    assert outside
    assert all(isinstance(value.const_value, onnx_ir.ExternalTensor) for value in outside)
    # The file finds its data by a name of its own folder, so both can be moved together.
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in (path, path.with_name("unet.onnx.data")):
        file.rename(moved / file.name)
    onnxruntime.InferenceSession(str(moved / "unet.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("setting", "message"), [({"target": "fpga"}, "no ONNX target 'fpga'"), ({"opset": 17}, "18 to")]
)
def test_unknown_target_or_operator_set(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export_onnx(_dense(), "unet.onnx", **setting)
