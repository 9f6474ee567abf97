"""An operator's arguments by their names: an exported graph gives them by position or by name, or leaves them out."""

from __future__ import annotations

from typing import Any

from torch import fx, nn


def argument(node: fx.Node, name: str) -> Any:
    """Give what a call of an operator has for one of its arguments: a node, a value, or the operator's own default.

    Args:
        node: calls an operator of torch.
        name: as in the operator's schema, such as "attn_mask".

    Raises:
        KeyError: the operator has no such argument.
    """
    # torch.fx wants a module to look up what `call_module` nodes call. A graph that is still being built has none.
    owner = node.graph.owning_module or nn.Module()
    found = node.normalized_arguments(owner, normalize_to_only_use_kwargs=True)
    if found is None:
        raise KeyError(f"{node.target} has no arguments that are known by name")
    return found.kwargs[name]
