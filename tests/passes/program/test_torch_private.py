"""Each of torch's private names does what is relied upon, in the torch that is installed."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from passes.program import torch_private

ROOT = Path(__file__).parents[3]


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.ones(4), persistent=False)

    def forward(self, sample: Tensor, more: dict[str, Tensor]) -> Tensor:
        return self.linear(sample) + more["bias"] * self.table


@pytest.fixture(scope="module")
def exported() -> ExportedProgram:
    args = (torch.ones(6, 4), {"bias": torch.ones(6, 4)})
    shapes = ({0: Dim.AUTO}, {"bias": {0: Dim.AUTO}})
    return torch.export.export(Doubled(), args, dynamic_shapes=shapes, strict=False)


def _size(exported: ExportedProgram) -> Any:
    return next(
        node.meta["val"].shape[0] for node in exported.graph.nodes if node.op == "placeholder" and node.name == "sample"
    )


def test_arguments_are_flat_in_the_order_of_placeholders(exported: ExportedProgram) -> None:
    leaves, spec = torch_private.tree_flatten(((1, {"b": 2, "a": [3]}), {}))
    assert leaves == torch_private.tree_leaves(((1, {"b": 2, "a": [3]}), {})) == [1, 2, 3]
    assert torch_private.tree_unflatten(leaves, spec) == ((1, {"b": 2, "a": [3]}), {})
    assert torch_private.tree_map(lambda leaf: leaf + 1, {"a": [3]}) == {"a": [4]}
    inputs = exported.graph_signature.user_inputs
    assert list(inputs) == ["sample", "more_bias"]


def test_sizes_have_expressions_and_captured_values(exported: ExportedProgram) -> None:
    size = _size(exported)
    (symbol,) = torch_private.expression(2 * size).free_symbols
    assert torch_private.expression(2 * size) == 2 * symbol
    assert torch_private.captured_values(2 * size)[symbol] == 6
    assert torch_private.captured_size(2 * size) == 12


def test_fake_tensors_have_symbols_and_no_data(exported: ExportedProgram) -> None:
    sample = next(node.meta["val"] for node in exported.graph.nodes if node.name == "sample")
    assert isinstance(sample, torch_private.FakeTensor)
    with sample.fake_mode:
        assert torch_private.expression((sample @ torch.empty(4, 2)).shape[0]) == torch_private.expression(
            sample.shape[0]
        )
    with torch_private.FakeTensorMode():
        assert isinstance(torch.empty(2), torch_private.FakeTensor)


def test_a_size_of_one_stays_dynamic() -> None:
    def guards(one: int) -> ExportedProgram:
        args = (torch.ones(one, 4), {"bias": torch.ones(1, 4)})
        return torch.export.export(Doubled(), args, dynamic_shapes=({0: Dim("b")}, {"bias": None}), strict=False)

    with torch_private.one_is_dynamic():
        assert not isinstance(_size(guards(1)), int)
    with pytest.raises(Exception, match=r"specializ|constant"):
        guards(1)


def test_a_check_in_a_graph_is_read_by_the_tracer() -> None:
    class Tied(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            torch_private.require(left.shape[0] == right.shape[0])
            return left + right

    shapes = ({0: Dim.AUTO}, {0: Dim.AUTO})
    tied = torch.export.export(Tied(), (torch.ones(5), torch.ones(5)), dynamic_shapes=shapes, strict=False)
    left, right = (node.meta["val"].shape[0] for node in tied.graph.nodes if node.op == "placeholder")
    assert torch_private.expression(left) == torch_private.expression(right)
    with pytest.raises(RuntimeError):
        torch_private.require(False)


def test_guards_are_expressions_over_the_inputs_and_can_be_replaced(exported: ExportedProgram) -> None:
    written = torch_private.written_guards(exported)
    assert any("L['sample'].size()[0]" in guard for guard in written), written
    try:
        torch_private.write_guards(exported, ["L['sample'].size()[0] % 3 == 0"])
        assert torch_private.written_guards(exported) == ["L['sample'].size()[0] % 3 == 0"]
    finally:
        torch_private.write_guards(exported, written)


def test_a_graph_takes_what_its_source_takes(exported: ExportedProgram) -> None:
    source = exported.module(check_guards=False).graph
    graph = fx.Graph()
    result = graph.graph_copy(source, {})
    graph.output(result)
    torch_private.share_signature(graph, source)
    made = fx.GraphModule(exported.module(check_guards=False), graph)
    args = (torch.ones(3, 4), {"bias": torch.ones(3, 4)})
    assert torch.equal(made(*args), exported.module()(*args))


def test_operators_have_a_schema_and_names() -> None:
    add = torch.ops.aten.add.Tensor
    assert torch_private.schema(add).name == "aten::add"
    assert "alpha" in {argument.name for argument in torch_private.schema(add).arguments}
    assert torch_private.overload_name(add) == "Tensor"
    assert torch_private.operator_name(add) == "add"
    assert torch_private.operator_name(torch.conv2d) == "conv2d"
    assert torch_private.operator_name(7) == ""
    seen = []

    class Watching(torch_private.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Watching():
        torch.ones(2) + 1
    assert add in seen


@pytest.mark.parametrize("name", ["_unsafe_view", "_reshape_alias", "_to_copy", "_softmax", "_assert_tensor_metadata"])
def test_operators_that_are_looked_for_exist(name: str) -> None:
    assert hasattr(torch.ops.aten, name)


def test_modules_keep_what_they_hold_in_registries() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module.register_buffer("kept", torch.ones(1))
    module.register_buffer("left_out", torch.ones(1), persistent=False)
    assert list(torch_private.own_parts(module)) == ["0"]
    assert list(torch_private.own_parameters(module[0])) == ["weight", "bias"]
    assert torch_private.own_parameters(module) == {}
    assert list(torch_private.own_buffers(module)) == ["kept", "left_out"]
    for name, held in (
        (torch_private.PARAMETERS, torch_private.own_parameters(module)),
        (torch_private.BUFFERS, torch_private.own_buffers(module)),
        (torch_private.MODULES, torch_private.own_parts(module)),
    ):
        assert vars(module)[name] is held
    assert torch_private.unsaved_buffers(module) == {"left_out"}
    torch_private.unsaved_buffers(module).clear()
    assert "left_out" in module.state_dict()
    assert vars(module)[torch_private.MODULES] is torch_private.own_parts(module)


def test_modules_keep_their_hooks_in_registries() -> None:
    module = nn.Linear(2, 2)
    hooks = {
        torch_private.FORWARD_HOOKS: module.register_forward_hook,
        torch_private.FORWARD_PRE_HOOKS: module.register_forward_pre_hook,
        torch_private.BACKWARD_HOOKS: module.register_full_backward_hook,
        torch_private.STATE_DICT_HOOKS: module.register_state_dict_post_hook,
        torch_private.STATE_DICT_PRE_HOOKS: module.register_state_dict_pre_hook,
    }
    for name, register in hooks.items():
        assert not getattr(module, name)
        register(lambda *arguments: None)
        assert getattr(module, name), name
    module.compile(backend="eager")
    assert getattr(module, torch_private.COMPILED_CALL) is not None


def test_changes_in_place_are_counted() -> None:
    tensor = torch.ones(2)
    before = torch_private.changes(tensor)
    tensor.add_(1)
    assert torch_private.changes(tensor) > before


def test_a_compiled_module_is_known_and_leads_to_its_own() -> None:
    module = nn.Linear(2, 2)
    compiled = torch.compile(module, backend="eager")
    assert torch_private.is_compiled(compiled)
    assert not torch_private.is_compiled(module)
    assert torch_private.uncompiled(compiled) is torch_private.uncompiled(module) is module


def test_dynamo_names_where_a_tensor_came_from() -> None:
    place = "L['self']._modules['conv_in']._parameters['weight']"
    assert re.findall(torch_private.SOURCE_STEP, place) == ["conv_in", "weight"]
    assert re.fullmatch(torch_private.SOURCE_TENSOR, place)
    seen: list[str] = []
    tracing: list[Any] = []

    def backend(graph_module: fx.GraphModule, inputs: Any) -> Any:
        with torch_private.tracing(None):  # without it the export refuses: a trace is under way
            tracing.append(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),), strict=False))
        seen.extend(
            node.meta["grapharg"].source.name
            if isinstance(node.meta["grapharg"].source.name, str)
            else node.meta["grapharg"].source.name()
            for node in graph_module.graph.nodes
            if node.op == "placeholder"
        )
        return torch_private.lookup_backend("eager")(graph_module, inputs)

    torch.compile(nn.Sequential(nn.Linear(2, 2)), backend=backend)(torch.ones(1, 2))
    assert tracing
    tensors = [name for name in seen if re.fullmatch(torch_private.SOURCE_TENSOR, name)]
    assert {re.findall(torch_private.SOURCE_STEP, name)[-1] for name in tensors} == {"weight", "bias"}


def test_dynamo_fails_at_its_limit_when_it_is_told_to() -> None:
    torch_private.import_dynamo()
    assert torch_private.lookup_backend(len) is len
    before = torch._dynamo.config.fail_on_recompile_limit_hit
    try:
        torch_private.fail_beyond_recompile_limit()
        with torch._dynamo.config.patch(recompile_limit=2):
            assert torch_private.recompile_limit() == 2
            compiled = torch.compile(lambda tensor, number: tensor + number, backend="eager", dynamic=False)
            compiled(torch.ones(2), 1)
            compiled(torch.ones(2), 2)
            with pytest.raises(Exception, match="recompile_limit"):
                compiled(torch.ones(2), 3)
    finally:
        torch._dynamo.config.fail_on_recompile_limit_hit = before
        torch._dynamo.reset()


@pytest.mark.slow
def test_inductor_compiles_a_package_that_loads(exported: ExportedProgram, tmp_path: Path) -> None:
    path = tmp_path / "package.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_private.compile_package(exported, path, {"aot_inductor.metadata": {"what": "sizes"}})
        run = torch_private.load_package(path)
    args = (torch.ones(3, 4), {"bias": torch.ones(3, 4)})
    torch.testing.assert_close(run(*args), exported.module()(*args), rtol=1e-5, atol=1e-6)
    assert run.get_metadata()["what"] == "sizes"  # type: ignore[attr-defined]


def test_inductor_has_what_packages_are_made_and_loaded_with() -> None:
    import torch._inductor

    assert {"package_path", "inductor_configs"} <= set(
        inspect.signature(torch._inductor.aoti_compile_and_package).parameters
    )
    assert "path" in inspect.signature(torch._inductor.aoti_load_package).parameters


def test_importing_the_file_leaves_dynamo_and_inductor_alone() -> None:
    code = "import sys, torch; before = set(sys.modules); import passes.program.torch_private; print(*sorted("
    code += "name for name in set(sys.modules) - before if name in ('torch._dynamo', 'torch._inductor')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
