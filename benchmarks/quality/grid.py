"""Methods × budgets × seeds, cell by cell, into one JSON file that is whole after every cell."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.measure import machine, write_result
from benchmarks.quality.arena import Arena, Scale, enter
from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.quality.judge import Judge

Cell = tuple[str, float, int]
_KEPT_PICTURES = 8


def cells(methods: Sequence[str], budgets: Sequence[float], seeds: Sequence[int]) -> Iterator[Cell]:
    """Walk over the grid: a whole seed first, so that an early stop leaves whole tables."""
    for seed in seeds:
        for method in methods:
            for budget in budgets:
                yield method, budget, seed


def read_results(file: Path, model: str, scale: Scale) -> dict[str, Any]:
    """Read what an earlier run left, if it had the same settings; else start anew."""
    settings = {"model": model, "scale": asdict(scale)}
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text())
        if found.get("settings") == settings:
            return found
    return {"benchmark": "quality", "settings": settings, "cells": [], "bounds": {}}


def missing(results: dict[str, Any], wanted: Iterator[Cell]) -> list[Cell]:
    """List the cells that aren't there yet."""
    done = {(cell["method"], cell["removed"], cell["seed"]) for cell in results["cells"]}
    return [cell for cell in wanted if cell not in done]


def run_cells(
    results: dict[str, Any],
    todo: Sequence[Cell],
    arena: Arena,
    judge: Judge,
    *,
    name: str,
    folder: Path,
    pictures: Path,
    after_cell: Callable[[dict[str, Any]], None] = lambda cell: None,
) -> None:
    """Measure cells, writing the file after each.

    Args:
        results: what is there already; grows.
        todo: the cells.
        arena: the dense model.
        judge: what measures.
        name: of the JSON file, without its ending.
        folder: where that goes.
        pictures: where a few pictures of each cell go, for sheets.
        after_cell: told each cell.
    """
    for method, removed, seed in todo:
        results["machine"] = machine()
        if str(seed) not in results["bounds"]:
            results["bounds"][str(seed)] = judge.bounds(seed)
        if not (pictures / f"{name}-dense-{seed}").is_dir():
            _keep(judge.dense_pictures(seed), pictures / f"{name}-dense-{seed}")
        start = time.perf_counter()
        entry = enter(arena, CONTESTANTS[method].make(arena, removed, seed))
        planned = time.perf_counter()
        figures, drawn = judge.measure(entry.model, seed)
        cell = {
            "method": method,
            "removed": removed,
            "seed": seed,
            "weights_kept": round(entry.weights_kept, 5),
            "macs_kept": round(entry.macs_kept, 5),
            "predicted": entry.predicted,
            "validation": entry.validation,
            **figures,
            "seconds": {"plan": round(planned - start, 2), "measure": round(time.perf_counter() - planned, 2)},
        }
        results["cells"].append(cell)
        _keep(drawn, pictures / f"{name}-{method}-{removed:g}-{seed}")
        write_result(name, results, folder)
        after_cell(cell)


def _keep(drawn: Sequence[Image.Image], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(drawn[:_KEPT_PICTURES]):
        picture.save(folder / f"{number}.png")
