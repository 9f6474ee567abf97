"""The saved folder: a whole diffusers pipeline, the plan, statistics, report and card. JSON and safetensors only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from passes.errors import UsageError
from slimdiff_fx.files.manifest import MANIFEST_FILE
from slimdiff_fx.files.output_paths import follow
from slimdiff_fx.files.own_folder import own_folder
from slimdiff_fx.files.plan_file import PLAN_FILE, load_plan, save_plan
from slimdiff_fx.files.statistics_file import save_statistics
from slimdiff_fx.other_libraries import quiet_libraries
from slimdiff_fx.pipelines.sampling import denoiser_name
from slimdiff_fx.saved.check_saved import check_saved_pipeline, refuse_unsavable
from slimdiff_fx.saved.compare import PICTURE_FILE
from slimdiff_fx.saved.headline import Headline
from slimdiff_fx.saved.model_card import CARD_FILE, DENSE_CARD_FILE, model_card
from slimdiff_fx.saved.page.write_page import PAGE_FILE, page_of
from slimdiff_fx.saved.report import build_report, without_figures, without_measured
from slimdiff_fx.saved.slimmed import Slimmed

STATISTICS_FILE = "statistics.safetensors"
REPORT_FILE = "report.json"
# What may lie beside model_index.json and belongs to the pipeline: captions, sampling defaults, licences and credits.
_COMPANIONS = (".json", ".md", ".txt", "")
ANALYSIS_FILE = "analysis.json"
_NOT_COMPANIONS = ("model_index.json", REPORT_FILE, ANALYSIS_FILE, MANIFEST_FILE)


def save_result(
    result: Slimmed,
    folder: Path,
    *,
    overwrite: bool = False,
    report: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Save a slim pipeline so that the folder is whole or as it was before.

    Args:
        result: what slimming gave.
        folder: where to; written beside it and renamed. `~` is expanded.
        overwrite: replace what slimdiff_fx wrote there, exports and pages included; with anything else in it the folder
            is refused.
        report: for report.json; made from the result if None.
        files: more files for the folder, by name or by folder/name, such as pictures.

    Raises:
        UsageError: the result holds no pipeline.
        OutputError: the folder is in the way.
        CheckpointError: it can't be written; or the pipeline holds what no folder brings back.
    """
    pipe = result.pipe
    if pipe is None:
        raise UsageError("a bare denoiser was slimmed, so there is no pipeline to save; save result.model instead")
    refuse_unsavable(pipe, result.model)
    changed = result.reference is not None and not result.reference.has_these_weights(result.model)
    source = Path(str(pipe.config.get("_name_or_path") or ""))
    with own_folder(folder, overwrite=overwrite, inputs={"the pipeline": _folder_of(source)}) as partial:
        save_pipeline(pipe, partial)
        check_saved_pipeline(partial, pipe, result.model, result.reference, changed=changed)
        if result.statistics is not None:
            # Second moments are large, and were only needed to solve for the new weights.
            light = replace(result.statistics, statistics=result.statistics.statistics.light())
            save_statistics(light, partial / STATISTICS_FILE)
        report = report if report is not None else build_report(result)
        analysis = result.analysis
        if changed:
            report, analysis, files = without_figures(report), without_measured(analysis), {}
        headline = Headline.from_report(report).on_disk(_weight_bytes(partial / denoiser_name(pipe)))
        report = {**report, "headline": headline.to_dict()}
        (partial / REPORT_FILE).write_text(json.dumps(report, indent=1), encoding="utf-8")
        if analysis is not None:
            (partial / ANALYSIS_FILE).write_text(json.dumps(analysis, separators=(",", ":")), encoding="utf-8")
        for companion in _companions(source):
            name = DENSE_CARD_FILE if companion.name == CARD_FILE else companion.name
            shutil.copyfile(companion, partial / name)
        picture = PICTURE_FILE if PICTURE_FILE in (files or {}) else None
        card = model_card(pipe, report, source=source, picture=picture)
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
        for name, content in (files or {}).items():
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_bytes(content)
        _leave_page(partial, follow(folder).name)


def _leave_page(folder: Path, name: str) -> None:
    """Write the report page into the saved folder, last. If that fails, the folder is kept without it."""
    file = folder / PAGE_FILE
    try:
        file.write_text(page_of(folder, name), encoding="utf-8")
    except Exception:  # `slimdiff-fx report` says why
        file.unlink(missing_ok=True)


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("diffusion_pytorch_model*.safetensors"))


def save_pipeline(pipe: DiffusionPipeline, folder: Path) -> None:
    """Save a pipeline as diffusers does, its weights in half precision where that loses nothing.

    Weights that came from half precision files and are only sliced still fit into half precision exactly. They are
    stored so, and loaded in float32 again: the same numbers in half the space.
    """
    with _stored_small(pipe) as shrunk, quiet_libraries():
        pipe.save_pretrained(folder, safe_serialization=True)
    for config in (folder / "model_index.json", *folder.glob("*/config.json")):
        data = json.loads(config.read_text(encoding="utf-8"))
        # The path that the pipeline was loaded from is private, and wrong on another machine.
        data.pop("_name_or_path", None)
        if "dtype" in data and config.parent.name in shrunk:
            # transformers loads in the dtype that the configuration names, whatever the file holds.
            data["dtype"] = "float32"
        config.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _stored_small(pipe: DiffusionPipeline) -> Iterator[list[str]]:
    """Turn the float32 parameters that are exact in half precision into it, and back afterwards; yields whose."""
    shrunk: dict[str, nn.Module] = {}
    try:
        for name, module in pipe.components.items():
            if isinstance(module, nn.Module) and _fits_half(module):
                shrunk[name] = module
                _cast_parameters(module, torch.float16)
        yield list(shrunk)
    finally:
        for module in shrunk.values():
            _cast_parameters(module, torch.float32)


def _fits_half(module: nn.Module) -> bool:
    return all(
        values.dtype == torch.float32 and torch.equal(values.half().float(), values) for values in module.parameters()
    )


def _cast_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def _folder_of(source: Path) -> Path | None:
    """Give the pipeline's folder, if it was loaded from one; with no name it would be the current folder."""
    return source if source != Path() and (source / "model_index.json").is_file() else None


def _companions(source: Path) -> list[Path]:
    if not (source / "model_index.json").is_file():
        return []
    return [
        file
        for file in sorted(source.iterdir())
        if file.is_file() and file.suffix in _COMPANIONS and file.name not in _NOT_COMPANIONS and file.name[0] != "."
    ]


__all__ = [
    "PLAN_FILE",
    "REPORT_FILE",
    "STATISTICS_FILE",
    "load_plan",
    "save_pipeline",
    "save_plan",
    "save_result",
]
