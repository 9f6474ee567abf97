"""The project as a whole: what it exports, ships and says."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
import types
import zipfile
from email.parser import Parser
from pathlib import Path

import grimp
import pytest
import torch
from diffusers import DiffusionPipeline
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import slimdiff_fx

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EMOJI = "slimdiff_fx/assets/emoji/"


def _tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git clone")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def _texts() -> list[tuple[str, str]]:
    suffixes = {"", ".md", ".py", ".toml", ".txt", ".json", ".yml", ".cfg"}
    return [
        (path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in _tracked_files()
        if path.suffix in suffixes and path.name != "LICENSE" and "assets" not in path.parts
    ]


def test_public_names_are_exactly_all() -> None:
    assert len(slimdiff_fx.__all__) == len(set(slimdiff_fx.__all__))
    assert all(getattr(slimdiff_fx, name) is not None for name in slimdiff_fx.__all__)
    # Lazily imported names are all loaded by now; whatever else is public is public by accident.
    imported_for_itself = {"annotations", "TYPE_CHECKING", "Any", "ModuleType", "import_module"}
    public = {
        name
        for name, value in vars(slimdiff_fx).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public - imported_for_itself == set(slimdiff_fx.__all__)
    assert set(dir(slimdiff_fx)) == set(slimdiff_fx.__all__)


def test_the_promised_names_are_public() -> None:
    promised = {"analyze", "apply_plan", "calibrate", "capture", "convert", "export_onnx", "lower", "prepare", "slim"}
    assert promised <= set(slimdiff_fx.__all__)


def test_public_functions_and_classes_are_documented() -> None:
    bare = [
        name
        for name in slimdiff_fx.__all__
        if (inspect.isfunction(value := getattr(slimdiff_fx, name)) or inspect.isclass(value)) and not value.__doc__
    ]
    assert bare == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel as pip would, from the tree as it is, with no network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_the_whole_built_in_pipeline(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    index = json.loads(wheel.read(EMOJI + "model_index.json"))
    parts = {name for name, value in index.items() if isinstance(value, list) and value[0] is not None}
    assert {"unet", "vae", "text_encoder", "tokenizer", "scheduler"} <= parts
    for part in parts:
        assert any(name.startswith(f"{EMOJI}{part}/") and name.endswith(".json") for name in names), part
    for weights in ("unet", "vae", "text_encoder"):
        assert any(name.startswith(f"{EMOJI}{weights}/") and name.endswith(".safetensors") for name in names), weights
    assert {EMOJI + "captions.json", EMOJI + "sampling.json", EMOJI + "CREDITS.md"} <= names


def test_the_built_in_pipeline_is_at_most_25_mb(wheel: zipfile.ZipFile) -> None:
    assert sum(entry.file_size for entry in wheel.infolist() if entry.filename.startswith(EMOJI)) <= 25_000_000


def test_the_wheel_holds_both_floors_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"passes", "slimdiff_fx"}
    assert {"passes/py.typed", "slimdiff_fx/py.typed"} <= set(wheel.namelist())


def test_the_wheel_installs_the_command_and_the_hook(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    points = wheel.read(name).decode()
    assert "[console_scripts]\nslimdiff-fx = slimdiff_fx.cli:main" in points
    assert "[torch.backends]\nslimdiff_fx = slimdiff_fx:register" in points


def test_the_wheel_carries_its_licences(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("License-File")) == {"LICENSE", EMOJI + "CREDITS.md"}


def test_calibration_and_test_prompts_are_disjoint() -> None:
    captions = json.loads((ROOT / EMOJI / "captions.json").read_text(encoding="utf-8"))
    train, held_out = set(captions["train"]), set(captions["held_out"])
    assert not train & held_out
    assert 0.08 <= len(held_out) / (len(train) + len(held_out)) <= 0.12


def test_every_direct_requirement_is_pinned_within_its_range() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    assert not any("+" in version for version in pins.values()), "local versions can't be installed elsewhere"
    extras = PROJECT["optional-dependencies"]
    wanted = [
        *PROJECT["dependencies"],
        *(line for extra in ("test", "dev", "bench", "reference", "docs") for line in extras[extra]),
    ]
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate({"sys_platform": "linux"}):
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_one_onnx_runtime_only() -> None:
    runtimes = [Requirement(line) for line in PROJECT["dependencies"] if line.startswith("onnxruntime")]
    for platform in ("linux", "win32", "darwin"):
        assert sum(r.marker is not None and r.marker.evaluate({"sys_platform": platform}) for r in runtimes) == 1


def test_no_path_of_anyones_machine_is_written_down() -> None:
    machine = re.compile(r"(?<![\w.])/(?:home|root|Users|work)/\w")
    assert [name for name, text in _texts() if machine.search(text)] == []


def test_relative_links_in_the_documents_lead_somewhere() -> None:
    dead = []
    for path in _tracked_files():
        if path.suffix == ".md":
            prose = re.sub(r"`[^`\n]+`", "", path.read_text(encoding="utf-8"))
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
                if not (path.parent / target).exists():
                    dead.append(f"{path.relative_to(ROOT)}: {target}")
    assert dead == []


def test_no_file_holds_pickled_objects() -> None:
    pickled = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin"}
    assert [path.name for path in _tracked_files() if path.suffix in pickled] == []


def test_the_built_in_pipeline_loads_in_one_precision_with_no_argument() -> None:
    pipe = DiffusionPipeline.from_pretrained(ROOT / EMOJI)
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert {name: {p.dtype for p in part.parameters()} for name, part in parts.items()} == {
        name: {torch.float32} for name in ("unet", "vae", "text_encoder")
    }


WINGS = sorted({file.parent for floor in ("passes", "slimdiff_fx") for file in (ROOT / floor).rglob("__init__.py")})


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.relative_to(ROOT).as_posix())
def test_a_wing_has_few_rooms_of_few_lines(wing: Path) -> None:
    rooms = [file for file in wing.glob("*.py") if file.stem != "__init__"]
    assert len(rooms) <= 12
    assert [file.name for file in rooms if len(file.read_text(encoding="utf-8").splitlines()) > 300] == []
    if wing.name != "slimdiff_fx":  # which has the public names
        (docstring,) = ast.parse((wing / "__init__.py").read_text(encoding="utf-8")).body
        assert isinstance(docstring, ast.Expr)


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "docs"])
def test_no_other_file_is_long_either(folder: str) -> None:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert [file.name for file, length in lengths.items() if length > 300] == []


def test_no_imports_go_round_in_a_circle() -> None:
    graph = grimp.build_graph("passes", "slimdiff_fx", "benchmarks")
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while done := {module for module, needs in left.items() if not needs}:
        left = {module: needs - done for module, needs in left.items() if module not in done}
    assert left == {}


def test_type_checkers_are_told_of_each_public_name_where_it_is() -> None:
    tree = ast.parse((ROOT / "slimdiff_fx/__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    told = {alias.asname: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert told == slimdiff_fx._HOME
    assert set(slimdiff_fx.__all__) == {*told, "register"}
