"""How the exporter writes the operators that runtimes care about, where it would write them worse by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnxscript import values

from slimdiff_fx.export.merged_attention import ATTEND

Translations = dict[Any, Callable[..., Any]]
# The operator sets from which these are operators of ONNX itself.
GROUP_NORMALIZATION, ATTENTION = 21, 23


def translations(opset: int, *, onnxruntime: bool) -> Translations:
    """Give what `torch.onnx.export` takes as `custom_translation_table`.

    Args:
        opset: ONNX operator set.
        onnxruntime: use ONNX Runtime's own operators, which other runtimes don't know.
    """
    op: Any = values.Opset("", opset)
    attend = _contributed_attention if onnxruntime else (_attention if opset >= ATTENTION else _written_out_attention)
    table: Translations = {ATTEND: attend(op)}
    # ONNX Runtime's CPU has no kernel for GroupNormalization and expands it, to something slower than this.
    if onnxruntime or opset < GROUP_NORMALIZATION:
        table[torch.ops.aten.group_norm.default] = _instance_norm(op)
    return table


def _contributed_attention(op: Any) -> Callable[..., Any]:
    contributed = values.Op(values.Opset("com.microsoft", 1), "MultiHeadAttention", _multi_head_attention())

    def attend(query: Any, key: Any, value: Any, mask: Any, heads: int, scale: float | None = None) -> Any:
        settings: dict[str, Any] = {"num_heads": heads}
        if scale is not None:
            settings["scale"] = scale
        if mask is None:
            return contributed(query, key, value, **settings)
        return contributed(query, key, value, None, None, _for_each_query(op, mask, query), **settings)

    return attend


def _multi_head_attention() -> onnx.defs.OpSchema:
    """Describe ONNX Runtime's operator, which the onnx package doesn't know."""
    schema = onnx.defs.OpSchema
    names = ("query", "key", "value", "bias", "key_padding_mask", "attention_bias")
    optional = schema.FormalParameterOption.Optional
    return schema(
        "MultiHeadAttention",
        "com.microsoft",
        1,
        inputs=[schema.FormalParameter(name, "T", param_option=optional) for name in names],
        outputs=[schema.FormalParameter("output", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
        attributes=[
            schema.Attribute("num_heads", schema.AttrType.INT),
            schema.Attribute("scale", schema.AttrType.FLOAT, required=False),
        ],
    )


def _attention(op: Any) -> Callable[..., Any]:
    def attend(query: Any, key: Any, value: Any, mask: Any, heads: int, scale: float | None = None) -> Any:
        inputs = (query, key, value) if mask is None else (query, key, value, _for_each_query(op, mask, query))
        settings: dict[str, Any] = {"q_num_heads": heads, "kv_num_heads": heads}
        if scale is not None:
            settings["scale"] = scale
        result, *_ = op.Attention(*inputs, **settings)
        return result

    return attend


def _written_out_attention(op: Any) -> Callable[..., Any]:
    """Write attention as the matmul, softmax, matmul that fusions of every runtime look for."""

    def attend(query: Any, key: Any, value: Any, mask: Any, heads: int, scale: float | None = None) -> Any:
        # Half of the scale on either side: in half precision the scores would overflow before they were scaled.
        half = (scale if scale is not None else (query.shape[2] // heads) ** -0.5) ** 0.5
        factor = op.CastLike(op.Constant(value_float=half), query)
        queries = op.Mul(_split(op, query, heads, (0, 2, 1, 3)), factor)
        keys = op.Mul(_split(op, key, heads, (0, 2, 3, 1)), factor)
        scores = op.MatMul(queries, keys)
        if mask is not None:
            scores = op.Add(scores, _added(op, mask, query))
        weighted = op.MatMul(op.Softmax(scores, axis=-1), _split(op, value, heads, (0, 2, 1, 3)))
        merged = op.Constant(value_ints=[0, 0, value.shape[2]])
        return op.Reshape(op.Transpose(weighted, perm=[0, 2, 1, 3]), merged)

    return attend


def _split(op: Any, tensor: Any, heads: int, order: Sequence[int]) -> Any:
    # 0 keeps a dimension, whatever it is: no chain of operators that works the shape out.
    shape = op.Constant(value_ints=[0, 0, heads, tensor.shape[2] // heads])
    return op.Transpose(op.Reshape(tensor, shape), perm=list(order))


def _for_each_query(op: Any, mask: Any, query: Any) -> Any:
    """Give a mask with a row for each query: ONNX Runtime's kernels broadcast it over batch and heads only."""
    length, one = op.Shape(query, start=1, end=2), op.Constant(value_ints=[1])
    return op.Expand(_added(op, mask, query), op.Concat(one, one, length, one, axis=0))


def _added(op: Any, mask: Any, like: Any) -> Any:
    """Give a mask as what is added to the scores."""
    from onnx_ir import DataType

    if mask.dtype != DataType.BOOL:
        return mask
    zero, least = (op.CastLike(op.Constant(value_float=number), like) for number in (0.0, float("-inf")))
    return op.Where(mask, zero, least)


def _instance_norm(op: Any) -> Callable[..., Any]:
    """Write a group norm as an instance norm of its groups; the exporter would compute mean and deviation as well."""

    def group_norm(
        tensor: Any,
        num_groups: int,
        weight: Any = None,
        bias: Any = None,
        eps: float = 1e-5,
        cudnn_enabled: bool = True,
    ) -> Any:
        grouped = op.Reshape(tensor, op.Constant(value_ints=[0, num_groups, -1]))
        ones = op.CastLike(op.Constant(value_floats=[1.0] * num_groups), tensor)
        zeros = op.CastLike(op.Constant(value_floats=[0.0] * num_groups), tensor)
        normed = op.Reshape(op.InstanceNormalization(grouped, ones, zeros, epsilon=eps), op.Shape(tensor))
        channels = op.Constant(value_ints=[-1, *[1] * (len(tensor.shape) - 2)])
        if weight is not None:
            normed = op.Mul(normed, op.Reshape(weight, channels))
        return normed if bias is None else op.Add(normed, op.Reshape(bias, channels))

    return group_norm
