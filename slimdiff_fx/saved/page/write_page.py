"""From a slim folder to the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from passes.errors import CheckpointError
from slimdiff_fx.files.atomic_write import replaced_file
from slimdiff_fx.files.output_paths import expand, follow
from slimdiff_fx.files.own_files import PAGE, check_output_file
from slimdiff_fx.saved.headline import Headline, what_to_do
from slimdiff_fx.saved.page.depth_map import depth_map
from slimdiff_fx.saved.page.embedded_pictures import read_pairs, read_sheet
from slimdiff_fx.saved.page.figures import how_made, key_figures
from slimdiff_fx.saved.page.missing import find_missing
from slimdiff_fx.saved.pictures import psnr_words
from slimdiff_fx.saved.site_names import short_name
from slimdiff_fx.saved.summary import short

PAGE_FILE = "report.html"
_REPORT, _ANALYSIS = "report.json", "analysis.json"
_SCRIPTS = ("charts.js", "sweep.js", "sites.js", "page.js")


def write_page(folder: Path, out: Path | None = None, *, overwrite: bool = False) -> Path:
    """Write one HTML page that holds all of its pictures, data, styles and scripts, and asks the network for nothing.

    Args:
        folder: what `slim` or `apply` wrote. What it lacks, the page says.
        out: the page; report.html in the folder if None, and then an older page there is replaced without asking,
            being made from the folder.
        overwrite: replace another page at `out`.

    Returns:
        Where the page is.

    Raises:
        OutputError: the page can't be written there, or something else would be lost.
        CheckpointError: there is no report, it is garbled, or the page can't be written.
    """
    folder = expand(folder)
    _report_of(folder)
    file = folder / PAGE_FILE if out is None else expand(out)
    # In the folder that it is made from it has its own place; elsewhere it must not replace what it is made from.
    inputs = {} if follow(file).parent == follow(folder) else {"DIR": folder}
    check_output_file(file, PAGE, overwrite=overwrite or out is None, inputs=inputs)
    page = page_of(folder)
    with replaced_file(file) as partial:
        partial.write_text(page, encoding="utf-8")
    return file


def page_of(folder: Path, name: str | None = None) -> str:
    """Give the page's text.

    Args:
        folder: what `slim` or `apply` wrote, or is writing.
        name: of the folder, for a report that names no model; what `folder` is called if None.

    Raises:
        CheckpointError: there is no report, or it is garbled.
    """
    report = _report_of(folder)
    analysis = _read(folder / _ANALYSIS)
    try:
        return _render(_context(folder, {"model": name or folder.name, **report}, analysis))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{folder}: {_REPORT} or {_ANALYSIS} lacks or garbles {error}; slim again to write them anew"
        ) from error


def _report_of(folder: Path) -> dict[str, Any]:
    report = _read(folder / _REPORT)
    if report is None:
        raise CheckpointError(f"there is no {_REPORT} in {folder}; give the folder that `slimdiff-fx slim` wrote")
    return report


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} can't be read ({error}); slim again to write it anew") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} holds no JSON object; slim again to write it anew")
    return data


def _context(folder: Path, report: Mapping[str, Any], analysis: Mapping[str, Any] | None) -> dict[str, Any]:
    entry = report.get("pictures") or {}
    pairs = read_pairs(folder, entry)
    sites = report["summary"]["sites"]
    headline = Headline.from_report(report)
    return {
        "model": report["model"],
        "report": report,
        "figures": key_figures(report, analysis),
        "how_made": how_made(report, report["seconds"]),
        "pairs": pairs,
        "sheet": None if pairs else read_sheet(folder, entry),
        "seed": entry.get("seed"),
        "mean_psnr": psnr_words(entry["mean_psnr_db"]) if "mean_psnr_db" in entry else None,
        "advice": what_to_do(headline.excess) if headline.excess is not None else None,
        "has_errors": _has_errors(analysis),
        "sites": [{**site, "short": short_name(site["name"])} for site in sites],
        "map": depth_map([site["name"] for site in sites]),
        "analysis": analysis,
        "missing": find_missing(report, analysis, pairs=bool(pairs)),
        "data": _data(report, analysis),
    }


def _has_errors(analysis: Mapping[str, Any] | None) -> bool:
    """Say whether the prediction's error is expected or measured at other sizes than the saved one."""
    analysis = analysis or {}
    return (analysis.get("curves") or {}).get("of") == "prediction" or "measured" in analysis


def _data(report: Mapping[str, Any], analysis: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put together what the page's scripts draw from."""
    summary = report["summary"]
    sites = [
        {
            "name": site["name"],
            "short": short_name(site["name"]),
            "kind": site["kind"],
            "channels": site["units"] * site["width"],
            "kept": site["kept"] * site["width_kept"],
            "params": site["params"],
        }
        for site in summary["sites"]
    ]
    totals = {key: summary[key] for key in ("params", "params_kept", "macs", "macs_kept", "site_params")}
    return {
        **totals,
        "sites": sites,
        "tau": report["policy"].get("tau"),
        "error": (report.get("predicted") or {}).get("relative_mse"),
        "analysis": analysis,
    }


def _render(context: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("slimdiff_fx.saved.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = short
    environment.filters["psnr"] = psnr_words
    assets = resources.files("slimdiff_fx.saved.page") / "assets"
    scripts = "\n".join((assets / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    style = (assets / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.jinja").render(**context, style=style, scripts=scripts)
