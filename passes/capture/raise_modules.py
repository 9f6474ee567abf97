"""Raise an exported graph: calls of functional operators become calls of real modules under their own names.

Why it is correct: a raised module calls the very function that it replaces, with the same parameter objects and the
same settings; `capture` compares the two graphs' results bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.errors import CaptureError
from passes.program.module_tree import assemble
from passes.program.operators import argument
from passes.program.torch_private import operator_name, own_buffers, own_parameters, own_parts, share_signature

aten = torch.ops.aten

# What export writes down for its own checks; it computes nothing.
_CHECKS = frozenset({"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size"})


def raise_modules(
    exported: fx.GraphModule, root: str, tensors: Mapping[str, Tensor], persistent: Collection[str]
) -> fx.GraphModule:
    """Give a plain graph module whose linears, convolutions, norms and embeddings are modules.

    Args:
        exported: module of an exported program; left as it is.
        root: dotted prefix that every name loses, or "".
        tensors: the model's own parameters and buffers by full name; they are shared, not copied.
        persistent: full names that belong to the model's state dict.

    Returns:
        The raised graph module. Every node of the result has `meta["val"]` where the exported one had it.

    Raises:
        CaptureError: two different tensors claim the same name.
    """
    graph = fx.Graph()
    renamed: dict[fx.Node, fx.Node] = {}
    owner = nn.Module()
    for node in exported.graph.nodes:
        if _is_check(node):
            continue
        if node.op == "call_module":  # the guards' module
            if node.users:
                raise CaptureError(f"the exported graph calls {node.target!r}, which can't be raised")
            continue
        copied = graph.node_copy(node, lambda old: renamed[old])
        copied.meta = {key: node.meta[key] for key in ("val",) if key in node.meta}
        renamed[node] = copied
        if node.op == "get_attr":
            name = _stripped(str(node.target), root)
            tensor = tensors.get(str(node.target))
            if tensor is None:
                tensor = _attribute(exported, str(node.target))
            copied.target = name
            _put(owner, name, tensor, str(node.target) in persistent)
    share_signature(graph, exported.graph)
    for node in list(graph.nodes):
        _raise_node(node, owner)
        _simplify(node)
    raised = assemble(owner, graph)
    raised.graph.eliminate_dead_code()
    _drop_unused(raised, raised.graph)
    raised.recompile()
    return raised


def _is_check(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    return operator_name(node.target).split(".")[0] in _CHECKS


def _stripped(name: str, root: str) -> str:
    prefix = root + "."
    return name[len(prefix) :] if root and name.startswith(prefix) else name


def _attribute(module: nn.Module, path: str) -> Tensor:
    parent, _, leaf = path.rpartition(".")
    value: Tensor = getattr(module.get_submodule(parent), leaf)
    return value


def _container(owner: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else ():
        if part not in own_parts(owner):
            owner.add_module(part, nn.Module())
        child = own_parts(owner)[part]
        assert child is not None
        owner = child
    return owner


def _put(owner: nn.Module, name: str, tensor: Tensor, persistent: bool) -> None:
    path, _, leaf = name.rpartition(".")
    parent = _container(owner, path)
    known = getattr(parent, leaf, None)
    if known is not None and known is not tensor:
        raise CaptureError(f"two tensors of the exported graph are called {name!r}")
    if known is None:
        if isinstance(tensor, nn.Parameter):
            parent.register_parameter(leaf, tensor)
        else:
            parent.register_buffer(leaf, tensor, persistent=persistent)


def _linear(node: fx.Node, weight: Tensor, bias: Tensor | None) -> nn.Module:
    return nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta", dtype=weight.dtype)


def _conv2d(node: fx.Node, weight: Tensor, bias: Tensor | None) -> nn.Module:
    groups = argument(node, "groups")
    padding = argument(node, "padding")
    return nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        kernel_size=(weight.shape[2], weight.shape[3]),
        stride=_pair(argument(node, "stride")),
        padding=padding if isinstance(padding, str) else _pair(padding),
        dilation=_pair(argument(node, "dilation")),
        groups=groups,
        bias=bias is not None,
        device="meta",
        dtype=weight.dtype,
    )


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = (value,) if isinstance(value, int) else value
    return int(first), int(rest[0] if rest else first)


def _group_norm(node: fx.Node, weight: Tensor, bias: Tensor | None) -> nn.Module:
    return nn.GroupNorm(int(argument(node, "num_groups")), weight.shape[0], eps=argument(node, "eps"), device="meta")


def _layer_norm(node: fx.Node, weight: Tensor, bias: Tensor | None) -> nn.Module:
    eps = argument(node, "eps")
    return nn.LayerNorm(tuple(weight.shape), eps=eps, bias=bias is not None, device="meta")


def _rms_norm(node: fx.Node, weight: Tensor, bias: Tensor | None) -> nn.Module:
    return nn.RMSNorm(tuple(weight.shape), eps=argument(node, "eps"), device="meta")


def _embedding(node: fx.Node, weight: Tensor, bias: Tensor | None) -> nn.Module:
    padding = argument(node, "padding_idx")
    # scale_grad_by_freq and sparse only matter to gradients
    return nn.Embedding(
        weight.shape[0],
        weight.shape[1],
        padding_idx=padding if padding >= 0 else None,
        device="meta",
        dtype=weight.dtype,
    )


Make = Callable[[fx.Node, Tensor, Tensor | None], nn.Module]

# operator -> how to make its module, what its input is called, and whether it has a bias
_RAISED: dict[Any, tuple[Make, str, bool]] = {
    aten.linear.default: (_linear, "input", True),
    aten.conv2d.default: (_conv2d, "input", True),
    aten.conv2d.padding: (_conv2d, "input", True),
    aten.group_norm.default: (_group_norm, "input", True),
    aten.layer_norm.default: (_layer_norm, "input", True),
    aten.rms_norm.default: (_rms_norm, "input", False),
    aten.embedding.default: (_embedding, "indices", False),
}


def _raise_node(node: fx.Node, owner: nn.Module) -> None:
    """Turn one functional call into a module call, if its parameters have a module's names; leave it otherwise."""
    if node.op != "call_function" or node.target not in _RAISED:
        return
    make, taken, has_bias = _RAISED[node.target]
    weight_node = argument(node, "weight")
    bias_node = argument(node, "bias") if has_bias else None
    if not isinstance(weight_node, fx.Node) or weight_node.op != "get_attr":
        return
    path, _, leaf = str(weight_node.target).rpartition(".")
    if leaf != "weight" or not path:
        return
    if bias_node is not None and (
        not isinstance(bias_node, fx.Node) or bias_node.op != "get_attr" or str(bias_node.target) != f"{path}.bias"
    ):
        return
    weight = _attribute(owner, f"{path}.weight")
    bias = _attribute(owner, f"{path}.bias") if bias_node is not None else None
    if not isinstance(weight, nn.Parameter) or not (bias is None or isinstance(bias, nn.Parameter)):
        return
    holder = owner.get_submodule(path)
    if type(holder) is nn.Module:
        if own_parts(holder) or set(own_parameters(holder)) != ({"weight"} if bias is None else {"weight", "bias"}):
            return  # the name belongs to something bigger than one operator
        module = make(node, weight, bias)
        module.register_parameter("weight", weight)
        if bias is not None:
            module.register_parameter("bias", bias)
        module.eval()
        parent, _, name = path.rpartition(".")
        _container(owner, parent).add_module(name, module)
    elif not _same_settings(make(node, weight, bias), holder):
        return  # the same parameters under other settings: this call stays functional
    value = argument(node, taken)
    with node.graph.inserting_before(node):
        call = node.graph.call_module(path, (value,))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    node.graph.erase_node(node)


def _same_settings(module: nn.Module, known: nn.Module) -> bool:
    return type(module) is type(known) and module.extra_repr() == known.extra_repr()


def _simplify(node: fx.Node) -> None:
    """Drop the size hint of `repeat_interleave`: it changes nothing and would be one more baked head count."""
    if node.op == "call_function" and node.target is aten.repeat_interleave.self_int and "output_size" in node.kwargs:
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "output_size"}


def _drop_unused(owner: nn.Module, graph: fx.Graph) -> None:
    """Remove parameters and containers that no node uses, so that the state dict holds what the graph needs."""
    used = {str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")}

    def visit(module: nn.Module, path: str) -> bool:
        if path in used:
            return True
        for name in (*own_parameters(module), *own_buffers(module)):
            if f"{path}.{name}".lstrip(".") not in used:
                delattr(module, name)
        for name, child in list(own_parts(module).items()):
            if child is not None and not visit(child, f"{path}.{name}".lstrip(".")):
                delattr(module, name)
        return bool(own_parameters(module) or own_buffers(module) or own_parts(module))

    visit(owner, "")
