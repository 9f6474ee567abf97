"""Calls raised one by one, in graphs written by hand: every setting, by position, by name and left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

from passes.capture.raise_modules import raise_modules
from passes.errors import CaptureError
from tests.passes.exported_graph import Exported, calls, functions, parameter, settings

ATEN = torch.ops.aten


CONVOLUTION = "in_channels out_channels kernel_size stride padding dilation groups"


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        ((), {}, [2, 4, (3, 5), (1, 1), (0, 0), (1, 1), 1]),
        (([2, 3], [1, 2], [3, 2], 1), {}, [2, 4, (3, 5), (2, 3), (1, 2), (3, 2), 1]),
        (([2], [1], [3]), {}, [2, 4, (3, 5), (2, 2), (1, 1), (3, 3), 1]),
        (([2, 3], [1, 2], [3, 2], 2), {}, [4, 4, (3, 5), (2, 3), (1, 2), (3, 2), 2]),
        (
            (),
            {"stride": [2, 3], "padding": [1, 2], "dilation": [3, 2], "groups": 2},
            [4, 4, (3, 5), (2, 3), (1, 2), (3, 2), 2],
        ),
    ],
)
def test_a_convolution_has_its_call_s_settings(
    arguments: tuple[Any, ...], options: dict[str, Any], expected: list[Any]
) -> None:
    for bias in (True, False):
        graph = Exported(conv__weight=parameter(4, 2, 3, 5), **({"conv__bias": parameter(4)} if bias else {}))
        made = graph.nodes["conv.weight"], graph.nodes.get("conv.bias")
        raised = graph.raised(graph.call(ATEN.conv2d.default, graph.x, *made, *arguments, **options))
        assert calls(raised) == ["conv"]
        convolution = raised.get_submodule("conv")
        assert type(convolution) is nn.Conv2d
        assert settings(convolution, CONVOLUTION) == expected
        assert convolution.weight is graph.tensors["conv.weight"]
        assert convolution.bias is graph.tensors.get("conv.bias")
        x = torch.randn(1, expected[0], 12, 14)
        weights = graph.tensors["conv.weight"], graph.tensors.get("conv.bias")
        assert torch.equal(raised(x), ATEN.conv2d.default(x, *weights, *arguments, **options))


def test_a_convolution_may_be_padded_by_a_word() -> None:
    graph = Exported(conv__weight=parameter(4, 2, 3, 3))
    node = graph.call(ATEN.conv2d.padding, graph.x, graph.nodes["conv.weight"], None, [1, 1], "same", [2, 2])
    convolution = graph.raised(node).get_submodule("conv")
    assert settings(convolution, CONVOLUTION) == [2, 4, (3, 3), (1, 1), "same", (2, 2), 1]


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear(bias: bool) -> None:
    own = {"a__linear__bias": parameter(3, dtype=torch.float64)} if bias else {}
    graph = Exported(a__linear__weight=parameter(3, 5, dtype=torch.float64), **own)
    options = {"bias": graph.nodes["a.linear.bias"]} if bias else {}
    raised = graph.raised(graph.call(ATEN.linear.default, graph.x, graph.nodes["a.linear.weight"], **options))
    linear = raised.get_submodule("a.linear")
    assert settings(linear, "in_features out_features") == [5, 3]
    assert (linear.bias is None) is not bias
    assert not linear.training
    assert set(raised.state_dict()) == set(graph.tensors)
    assert linear.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "options", "eps"), [((), {}, 1e-5), ((1e-3,), {}, 1e-3), ((), {"eps": 1e-2}, 1e-2)]
)
def test_norms(arguments: tuple[Any, ...], options: dict[str, Any], eps: float) -> None:
    graph = Exported(norm__weight=parameter(6), norm__bias=parameter(6))
    both = graph.nodes["norm.weight"], graph.nodes["norm.bias"]
    group = graph.raised(graph.call(ATEN.group_norm.default, graph.x, 3, *both, *arguments, **options))
    assert settings(group.get_submodule("norm"), "num_groups num_channels eps") == [3, 6, eps]
    graph = Exported(norm__weight=parameter(2, 3), norm__bias=parameter(2, 3))
    both = graph.nodes["norm.weight"], graph.nodes["norm.bias"]
    layer = graph.raised(graph.call(ATEN.layer_norm.default, graph.x, [2, 3], *both, *arguments, **options))
    assert settings(layer.get_submodule("norm"), "normalized_shape eps") == [(2, 3), eps]
    graph = Exported(norm__weight=parameter(6))
    layer = graph.raised(
        graph.call(ATEN.layer_norm.default, graph.x, [6], graph.nodes["norm.weight"], None, *arguments, **options)
    )
    assert layer.get_submodule("norm").bias is None
    graph = Exported(norm__weight=parameter(6))
    rms = graph.raised(
        graph.call(ATEN.rms_norm.default, graph.x, [6], graph.nodes["norm.weight"], *arguments, **options)
    )
    assert settings(rms.get_submodule("norm"), "normalized_shape eps") == [(6,), eps if arguments or options else None]


@pytest.mark.parametrize(("arguments", "padding"), [((), None), ((-1,), None), ((0,), 0), ((3,), 3)])
def test_an_embedding_takes_its_weight_first(arguments: tuple[Any, ...], padding: int | None) -> None:
    graph = Exported(table__weight=parameter(7, 2))
    raised = graph.raised(graph.call(ATEN.embedding.default, graph.nodes["table.weight"], graph.x, *arguments))
    table = raised.get_submodule("table")
    assert settings(table, "num_embeddings embedding_dim padding_idx") == [7, 2, padding]
    index = torch.tensor([[0, 3, 6]])
    assert torch.equal(raised(index), graph.tensors["table.weight"][index])


def _another_leaf() -> tuple[Exported, Any]:
    graph = Exported(linear__kernel=parameter(3, 3))
    return graph, graph.call(ATEN.linear.default, graph.x, graph.nodes["linear.kernel"])


def _no_owner() -> tuple[Exported, Any]:
    graph = Exported(weight=parameter(3, 3))
    return graph, graph.call(ATEN.linear.default, graph.x, graph.nodes["weight"])


def _a_buffer() -> tuple[Exported, Any]:
    graph = Exported(linear__weight=torch.randn(3, 3))
    return graph, graph.call(ATEN.linear.default, graph.x, graph.nodes["linear.weight"])


def _bias_is_a_buffer() -> tuple[Exported, Any]:
    graph = Exported(linear__weight=parameter(3, 3), linear__bias=torch.randn(3))
    return graph, graph.call(ATEN.linear.default, graph.x, graph.nodes["linear.weight"], graph.nodes["linear.bias"])


def _bias_of_another() -> tuple[Exported, Any]:
    graph = Exported(linear__weight=parameter(3, 3), other__bias=parameter(3))
    return graph, graph.call(ATEN.linear.default, graph.x, graph.nodes["linear.weight"], graph.nodes["other.bias"])


def _bias_is_computed() -> tuple[Exported, Any]:
    graph = Exported(linear__weight=parameter(3, 3), linear__bias=parameter(3))
    bias = graph.call(ATEN.neg.default, graph.nodes["linear.bias"])
    return graph, graph.call(ATEN.linear.default, graph.x, graph.nodes["linear.weight"], bias)


def _weight_is_computed() -> tuple[Exported, Any]:
    graph = Exported(linear__weight=parameter(3, 3))
    return graph, graph.call(ATEN.linear.default, graph.x, graph.call(ATEN.t.default, graph.nodes["linear.weight"]))


def _something_bigger() -> tuple[Exported, Any]:
    graph = Exported(block__weight=parameter(3, 3), block__gain=parameter(3))
    product = graph.call(ATEN.linear.default, graph.x, graph.nodes["block.weight"])
    return graph, graph.call(ATEN.mul.Tensor, product, graph.nodes["block.gain"])


def _something_with_parts() -> tuple[Exported, Any]:
    graph = Exported(block__weight=parameter(3, 3), block__part__weight=parameter(3))
    product = graph.call(ATEN.linear.default, graph.x, graph.nodes["block.weight"])
    return graph, graph.call(ATEN.mul.Tensor, product, graph.nodes["block.part.weight"])


@pytest.mark.parametrize(
    "make",
    [
        _another_leaf,
        _no_owner,
        _a_buffer,
        _bias_is_a_buffer,
        _bias_of_another,
        _bias_is_computed,
        _weight_is_computed,
        _something_bigger,
        _something_with_parts,
    ],
)
def test_what_is_no_module_of_its_own_stays_a_call(make: Any) -> None:
    graph, result = make()
    raised = graph.raised(result)
    assert calls(raised) == []
    assert ATEN.linear.default in functions(raised)
    x = torch.randn(2, 3)
    assert torch.equal(raised(x), graph.module()(x))


@pytest.mark.parametrize(("eps", "raised_too"), [(1e-3, True), (1e-2, False)])
def test_the_same_module_is_called_again_only_under_the_same_settings(eps: float, raised_too: bool) -> None:
    graph = Exported(norm__weight=parameter(3), norm__bias=parameter(3))
    both = graph.nodes["norm.weight"], graph.nodes["norm.bias"]
    first = graph.call(ATEN.layer_norm.default, graph.x, [3], *both, 1e-3)
    raised = graph.raised(graph.call(ATEN.layer_norm.default, first, [3], *both, eps))
    assert calls(raised) == ["norm"] * (2 if raised_too else 1)
    assert (ATEN.layer_norm.default in functions(raised)) is not raised_too


def test_names_lose_their_root_and_nothing_else() -> None:
    graph = Exported(net__netting__weight=parameter(3, 3), other__net__weight=parameter(3, 3))
    first = graph.call(ATEN.linear.default, graph.x, graph.nodes["net.netting.weight"])
    raised = graph.raised(graph.call(ATEN.linear.default, first, graph.nodes["other.net.weight"]), root="net")
    assert calls(raised) == ["netting", "other.net"]


def test_two_tensors_that_would_get_one_name_are_refused() -> None:
    graph = Exported(net__linear__weight=parameter(3, 3), linear__weight=parameter(3, 3))
    first = graph.call(ATEN.linear.default, graph.x, graph.nodes["net.linear.weight"])
    with pytest.raises(CaptureError, match=r"two tensors.*'linear\.weight'"):
        graph.raised(graph.call(ATEN.linear.default, first, graph.nodes["linear.weight"]), root="net")


def test_the_model_s_own_tensors_are_taken_and_kept_out_of_the_state_where_they_were() -> None:
    own, saved, unsaved = parameter(3, 3), torch.ones(3), torch.ones(3)
    graph = Exported(linear__weight=parameter(3, 3), saved=torch.zeros(3), unsaved=torch.zeros(3), lifted=torch.ones(3))
    node = graph.call(ATEN.linear.default, graph.x, graph.nodes["linear.weight"])
    for name in ("saved", "unsaved", "lifted"):
        node = graph.call(ATEN.add.Tensor, node, graph.nodes[name])
    graph.graph.output(node)
    exported = graph.module()
    # What export lifted out of the code is no tensor of the model.
    tensors = {"linear.weight": own, "saved": saved, "unsaved": unsaved}
    raised = raise_modules(exported, "", tensors, {"linear.weight", "saved"})
    assert raised.linear.weight is own
    assert raised.saved is saved
    assert raised.unsaved is unsaved
    assert raised.lifted is exported.lifted
    assert set(raised.state_dict()) == {"linear.weight", "saved"}


def test_checks_go_and_a_call_of_something_else_is_refused() -> None:
    graph = Exported(linear__weight=parameter(3, 3))
    graph.call(ATEN._assert_tensor_metadata.default, graph.x, dtype=torch.float32)
    raised = graph.raised(graph.call(ATEN.linear.default, graph.x, graph.nodes["linear.weight"]))
    assert functions(raised) == []
    guards, used = nn.Identity(), nn.Identity()
    for is_used in (False, True):
        graph = Exported(linear__weight=parameter(3, 3))
        call = graph.graph.call_module("guards", (graph.x,))
        linear = graph.call(ATEN.linear.default, call if is_used else graph.x, graph.nodes["linear.weight"])
        graph.graph.output(linear)
        owner = nn.Module()
        owner.guards, owner.linear = used if is_used else guards, nn.Module()
        owner.linear.weight = graph.tensors["linear.weight"]
        exported = fx.GraphModule(owner, graph.graph)
        if is_used:
            with pytest.raises(CaptureError, match="'guards', which can't be raised"):
                raise_modules(exported, "", graph.tensors, ())
        else:
            assert calls(raise_modules(exported, "", graph.tensors, ())) == ["linear"]


def test_values_stay_and_other_metadata_goes() -> None:
    graph = Exported(linear__weight=parameter(3, 3))
    node = graph.call(ATEN.linear.default, graph.x, graph.nodes["linear.weight"])
    result = graph.call(ATEN.neg.default, node)
    for each, value in ((graph.x, "x"), (node, "y"), (result, "z")):
        each.meta = {"val": value, "stack_trace": "here"}
    raised = graph.raised(result)
    found = {node.op: node.meta for node in raised.graph.nodes}
    assert found["placeholder"] == {"val": "x"}
    assert found["call_module"] == {"val": "y"}
    assert found["call_function"] == {"val": "z"}


def test_a_size_hint_is_dropped_and_other_options_stay() -> None:
    graph = Exported()
    repeated = graph.call(ATEN.repeat_interleave.self_int, graph.x, 3, dim=1, output_size=6)
    raised = graph.raised(graph.call(ATEN.softmax.int, repeated, 1, dtype=torch.float64))
    first, second = (node for node in raised.graph.nodes if node.op == "call_function")
    assert (first.args[1:], first.kwargs) == ((3,), {"dim": 1})
    assert second.kwargs == {"dtype": torch.float64}


def test_what_nothing_uses_goes_and_what_is_used_in_part_stays_in_part() -> None:
    graph = Exported(
        block__used__weight=parameter(3, 3),
        block__used__bias=parameter(3),
        block__unused__weight=parameter(3, 3),
        gone__deep__weight=parameter(3, 3),
        top=torch.ones(3),
        left=torch.ones(3),
    )
    linear = graph.call(ATEN.linear.default, graph.x, graph.nodes["block.used.weight"], graph.nodes["block.used.bias"])
    graph.call(ATEN.linear.default, graph.x, graph.nodes["block.unused.weight"])
    raised = graph.raised(graph.call(ATEN.add.Tensor, linear, graph.nodes["top"]), persistent=tuple(graph.tensors))
    assert set(raised.state_dict()) == {"block.used.weight", "block.used.bias", "top"}
    assert {name for name, _ in raised.named_modules()} == {"", "block", "block.used"}
