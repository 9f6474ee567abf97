"""report.json: what was asked for and what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch

from slimdiff_fx.saved.headline import Headline
from slimdiff_fx.saved.slimmed import Slimmed

_PACKAGES = ("slimdiff-fx", "torch", "diffusers", "transformers", "torch-pruning", "safetensors")


def build_report(result: Slimmed, **further: Any) -> dict[str, Any]:
    """Put a result's figures into JSON values.

    Args:
        result: what slimming gave.
        further: more entries, such as the model's name, the pictures' distances, or "call", how long one call of the
            denoiser takes (see `slimdiff_fx.slimming.call_latency`).
    """
    validation = result.validation
    report = {
        "format": 1,
        "policy": dict(result.plan.policy),
        "predicted": dict(result.plan.predicted) or None,
        "calibration": None if result.statistics is None else _calibration(dict(result.statistics.settings)),
        "summary": result.summary.to_json(),
        "validation": None
        if validation is None
        else {
            "relative_error": validation.relative_error,
            "tolerance": validation.tolerance,
            "dtype": validation.dtype,
            "inputs": list(validation.inputs),
        },
        "latency": None if result.latency is None else asdict(result.latency),
        "call": None,
        "weights_changed": False,
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "environment": {
            "packages": {name: _version(name) for name in _PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        **further,
    }
    return {**report, "headline": Headline.of(report).to_dict()}


def without_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a report what was measured or expected of weights that have been changed since, and say so."""
    gone = dict.fromkeys(("predicted", "validation", "measured", "pictures", "latency", "call", "headline"))
    return {**report, **gone, "weights_changed": True}


def without_measured(analysis: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Leave out of an analysis what was measured with the chosen plan's weights."""
    return None if analysis is None else {name: value for name, value in analysis.items() if name != "measured"}


def _calibration(settings: dict[str, Any]) -> dict[str, Any]:
    # The statistics file holds the prompts; the report says how many there were.
    conditions = settings.pop("conditions", [])
    settings.pop("images", None)
    return {"distinct_conditions": len(set(conditions)), **settings}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
