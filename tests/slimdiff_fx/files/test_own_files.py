"""Files that slimdiff_fx writes are told from others by what is in them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from passes.errors import OutputError
from slimdiff_fx.export.formats import FORMATS
from slimdiff_fx.files.manifest import MANIFEST_FILE, manifest_of, manifest_with
from slimdiff_fx.files.own_files import (
    EXECUTORCH,
    ONNX,
    OPENVINO,
    PAGE,
    PLAN,
    PT2,
    STATISTICS,
    FileKind,
    check_output_file,
    export_place,
    is_own_file,
)
from tests.file_tree import tree


def write_onnx(file: Path, *, data: bool = False) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [256], torch.arange(256).float().numpy().tobytes(), raw=True)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [256]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", shape[:1], shape[1:], [weight]))
    place = f"{file.name}.data"
    onnx.save(model, file, save_as_external_data=data, location=place if data else None, size_threshold=0)


def write_pt2(file: Path) -> None:
    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    with file.open("wb") as stream:
        torch.export.save(torch.export.export(Double(), (torch.ones(2),)), stream)


def write_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "precious")


def write_pth(file: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, file)


def text(content: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(content)


WRITERS: dict[str, Callable[[Path], object]] = {
    "notes": text("precious"),
    "JSON": text('{"precious": 1}'),
    "JSON list": text('["a prompt"]'),
    "deep JSON": text("[" * 100_000),
    "plan": text(json.dumps({"format": 2, "fingerprint": {}, "sites": {}, "updates": {}})),
    "weights": lambda file: save_file({"w": torch.zeros(1)}, file),
    "statistics": lambda file: save_file({"w": torch.zeros(1)}, file, {"calibration": "{}"}),
    "onnx": write_onnx,
    "pt2": write_pt2,
    "archive": write_zip,
    "torch.save": write_pth,
    "html": text("<!doctype html><title>mine</title>"),
    "page": text('<!doctype html>\n<meta name="generator" content="slimdiff_fx">'),
    "old page": text("<!doctype html>" + " " * 9000 + '<p class="over">slimdiff_fx report</p>'),
    "xml": text('<?xml version="1.0"?><svg/>'),
    "openvino": text('<?xml version="1.0"?>\n<net name="Model0" version="11">\n<layers>'),
    "executorch": lambda file: file.write_bytes(b"\x20\x00\x00\x00ET12rest"),
    "binary": lambda file: file.write_bytes(bytes(range(256)) * 8),
    "one byte": lambda file: file.write_bytes(b"\x08"),
}
KINDS: dict[str, tuple[FileKind, set[str]]] = {
    "plan": (PLAN, {"plan"}),
    "statistics": (STATISTICS, {"statistics"}),
    "page": (PAGE, {"page", "old page"}),
    "onnx": (ONNX, {"onnx"}),
    "pt2": (PT2, {"pt2"}),
    "openvino": (OPENVINO, {"openvino"}),
    "executorch": (EXECUTORCH, {"executorch"}),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("content", WRITERS)
def test_a_kind_is_known_by_its_content(content: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    WRITERS[content](file)
    assert {name for name, (kind, own) in KINDS.items() if is_own_file(file, kind)} == {
        name for name, (kind, own) in KINDS.items() if content in own
    }


@pytest.mark.parametrize("kind", KINDS)
def test_only_its_own_kind_and_nothing_are_replaced(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "file.x"
    described, own = KINDS[kind]
    file.touch()
    assert check_output_file(file, described, overwrite=True) == file
    WRITERS[min(own)](file)
    assert check_output_file(file, described, overwrite=True) == file
    with pytest.raises(OutputError, match="exists; choose another output, or pass `overwrite=True`"):
        check_output_file(file, described, overwrite=False)
    WRITERS["notes"](file)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"file\.x is not "):
        check_output_file(file, described, overwrite=True)
    assert tree(tmp_path) == before


def test_data_belongs_to_the_onnx_file_that_names_it(tmp_path: Path) -> None:
    file, data = tmp_path / "a.onnx", tmp_path / "a.onnx.data"
    write_onnx(file, data=True)
    assert data.is_file()
    check_output_file(file, ONNX, overwrite=True)
    with pytest.raises(OutputError, match=r"a\.onnx exists"):
        check_output_file(file, ONNX, overwrite=False)
    write_onnx(file)  # holds its weights itself: whose is the data?
    with pytest.raises(OutputError, match=r"a\.onnx\.data would be replaced"):
        check_output_file(file, ONNX, overwrite=True)
    file.unlink()
    with pytest.raises(OutputError, match=r"a\.onnx\.data exists"):
        check_output_file(file, ONNX, overwrite=False)


def test_weights_belong_to_the_openvino_file_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"weights")
    with pytest.raises(OutputError, match=r"a\.bin would be replaced"):
        check_output_file(tmp_path / "a.xml", OPENVINO, overwrite=True)
    WRITERS["openvino"](tmp_path / "a.xml")
    check_output_file(tmp_path / "a.xml", OPENVINO, overwrite=True)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("content", ["JSON", "plan", "weights", "statistics", "notes", "archive"])
def test_the_python_api_replaces_exports_of_its_format_alone(format: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / "file.xml"
    WRITERS[content](file)
    before = file.read_bytes()
    with pytest.raises(OutputError, match=r"file\.xml is not an? .*, and nothing else is replaced"):
        export_place(file, FORMATS[format].kind)
    for beside in FORMATS[format].kind.beside(tmp_path / "new.xml"):
        WRITERS[content](beside)
        with pytest.raises(OutputError, match="would be replaced, and it doesn't belong"):
            export_place(tmp_path / "new.xml", FORMATS[format].kind)
    assert file.read_bytes() == before


def test_what_a_folder_was_saved_with_is_not_replaced_one_by_one(tmp_path: Path) -> None:
    saved = tmp_path / "slim"
    (saved / "unet").mkdir(parents=True)
    WRITERS["plan"](saved / "unet" / "slim_plan.json")
    WRITERS["statistics"](saved / "statistics.safetensors")
    (saved / MANIFEST_FILE).write_text(manifest_of(saved), encoding="utf-8")
    for name, kind in (("unet/slim_plan.json", PLAN), ("statistics.safetensors", STATISTICS)):
        with pytest.raises(OutputError, match=r"belongs to the pipeline saved in .*slim"):
            check_output_file(saved / name, kind, overwrite=True)
    WRITERS["page"](saved / "report.html")  # put there later, as `report` does
    (saved / MANIFEST_FILE).write_text(manifest_with(saved, ["report.html"]), encoding="utf-8")
    check_output_file(saved / "report.html", PAGE, overwrite=True)
    with (saved / "report.html").open("a", encoding="utf-8") as page:
        page.write("my notes")
    with pytest.raises(OutputError, match="was changed since slimdiff_fx wrote it"):
        check_output_file(saved / "report.html", PAGE, overwrite=True)


def test_the_python_api_expands_and_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.onnx").touch()
    (tmp_path / "link.onnx").symlink_to("model.onnx")
    assert export_place("~/link.onnx", ONNX) == tmp_path / "model.onnx"
    assert export_place("~/new.pt2", PT2) == tmp_path / "new.pt2"


def test_a_listed_file_that_is_gone_leaves_the_record(tmp_path: Path) -> None:
    for name in ("kept.json", "gone.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / MANIFEST_FILE).write_text(manifest_of(tmp_path), encoding="utf-8")
    (tmp_path / "gone.json").unlink()
    assert json.loads(manifest_with(tmp_path, ["gone.json", "never.json"]))["files"].keys() == {"kept.json"}
