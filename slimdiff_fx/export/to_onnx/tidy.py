"""Tidy an ONNX graph: constant shapes, folded constants, every weight once and under its own name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants


def tidy(model: onnx_ir.Model) -> None:
    """Tidy a freshly translated model in place; nothing that it computes changes.

    The exporter's own optimizer tries a hundred rewrite rules on each node, none of which is meant for denoisers, and
    copies every linear's weight while it transposes it.
    """
    common.InlinePass()(model)
    _transpose_weights(model.graph)
    _simplify_reshapes(model.graph)
    common.RemoveUnusedNodesPass()(model)
    # Weights are above the limit: only shapes and scalars fold.
    fold_constants(model, onnx_shape_inference=False, input_size_limit=1024, output_size_limit=4096)
    for change in (
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        change(model)


def _transpose_weights(graph: onnx_ir.Graph) -> None:
    """Store the weights of linears the way MatMul takes them, under their own names.

    Quantizers look for a MatMul by a constant. A weight is transposed when it is written, so that no second copy of all
    weights is ever in memory.
    """
    for node in list(graph):
        if node.op_type != "Transpose" or node.inputs[0] is None:
            continue
        source = node.inputs[0]
        if source.name not in graph.initializers or source.const_value is None or len(source.uses()) != 1:
            continue
        order = node.attributes["perm"].as_ints()
        stored = _transposed(source.const_value, order)
        source.const_value, source.shape = stored, stored.shape
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)


def _transposed(tensor: Any, order: Any) -> onnx_ir.LazyTensor:
    shape = onnx_ir.Shape([tensor.shape[axis] for axis in order])
    return onnx_ir.LazyTensor(
        lambda: onnx_ir.Tensor(np.ascontiguousarray(tensor.numpy().transpose(order)), dtype=tensor.dtype),
        dtype=tensor.dtype,
        shape=shape,
        name=tensor.name,
    )


def _simplify_reshapes(graph: onnx_ir.Graph) -> None:
    """Give every reshape a constant shape where one says the same: 0 keeps a dimension, one -1 is worked out.

    The tracer proved the shapes; what was there before is a chain of Shape, Slice, Mul and Concat for each.
    """
    for node in list(graph):
        if node.op_type != "Reshape" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        target = _constant_shape(node.inputs[0].shape, node.outputs[0].shape)
        if target is None or node.inputs[1].const_value is not None:
            continue
        constant = onnx_ir.Node(
            "", "Constant", [], [onnx_ir.AttrInt64s("value_ints", target)], num_outputs=1, name=f"{node.name}_shape"
        )
        graph.insert_before(node, constant)
        node.replace_input_with(1, constant.outputs[0])
        node.attributes.pop("allowzero", None)


def _constant_shape(before: onnx_ir.Shape | None, after: onnx_ir.Shape | None) -> list[int] | None:
    if before is None or after is None:
        return None
    target: list[int] = []
    for at, size in enumerate(after):
        if isinstance(size, int):
            target.append(size)
        elif size.value is not None and at < len(before) and str(before[at]) == str(size):
            target.append(0)
        elif -1 not in target:
            target.append(-1)
        else:
            return None
    # An empty dimension would be read as "keep".
    return target if all(size != 0 or not isinstance(after[at], int) for at, size in enumerate(target)) else None
