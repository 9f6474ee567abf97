"""What a finished grid says: tables for the page on quality, curves and sheets of pictures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from PIL import Image, ImageDraw

from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.readme_blocks import write_block

_TABLE_BUDGET = 0.3
_SCALE = 2  # pixels of a sheet for each of a picture
_LABEL = 120


def write_report(results: Mapping[str, Any], *, pictures: Path, into: Path, page: Path) -> None:
    """Write curves and sheets into a folder, and the tables between the page's markers.

    Args:
        results: the grid's JSON.
        pictures: where the grid kept pictures.
        into: folder for figures.
        page: the file with the markers; left alone if it has none.
    """
    if not results["cells"]:
        return
    into.mkdir(parents=True, exist_ok=True)
    _curves(results, into / "quality-curves.png")
    for removed in sorted({cell["removed"] for cell in results["cells"]}):
        methods = _order(results)[0]
        _sheet(results, removed, methods, pictures, into / f"quality-{removed:.0%}.png".replace("%", ""))
    write_block("quality", tables(results), page)


def tables(results: Mapping[str, Any]) -> str:
    """Write both tables as markdown: the prediction's error at every budget, and pictures at one."""
    methods, budgets = _order(results)
    lines = ["| method | " + " | ".join(f"{removed:.0%}" for removed in budgets) + " |"]
    lines.append("|---|" + "---|" * len(budgets))
    for method in methods:
        row = [_figure(values(results, method, removed, "relative_mse"), "{:.2g}") for removed in budgets]
        lines.append(f"| {method} | " + " | ".join(row) + " |")
    shown = (("psnr", "{:.1f}"), ("ssim", "{:.3f}"), ("kid", "{:.4f}"), ("fid", "{:.1f}"), ("agreement", "{:.3f}"))
    lines += ["", f"| at {_TABLE_BUDGET:.0%} | PSNR, dB | SSIM | KID | FID | agreement |", "|---|---|---|---|---|---|"]
    for method in methods:
        row = [_figure(values(results, method, _TABLE_BUDGET, name), form) for name, form in shown]
        lines.append(f"| {method} | " + " | ".join(row) + " |")
    names = {"floor": "dense, other noise", "dense": "dense itself", "ceiling": "real pictures"}
    for bound, name in names.items():
        found = [each[bound] for each in results["bounds"].values() if bound in each]
        row = [_figure([each[key] for each in found if key in each], form) for key, form in shown[2:]]
        lines.append(f"| *{name}* | – | – | " + " | ".join(row) + " |")
    return "\n".join(lines)


def values(results: Mapping[str, Any], method: str, removed: float, name: str) -> list[float]:
    """Give one figure of a method at a budget, seed by seed."""
    return [
        cell[name]
        for cell in results["cells"]
        if cell["method"] == method and cell["removed"] == removed and name in cell
    ]


def _figure(found: Sequence[float], form: str) -> str:
    if not found:
        return "–"
    mean = form.format(statistics.mean(found))
    return mean if len(found) < 2 else f"{mean} ± {form.format(statistics.stdev(found))}"


def _order(results: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    found = {cell["method"] for cell in results["cells"]}
    methods = [name for name in CONTESTANTS if name in found]
    return methods, sorted({cell["removed"] for cell in results["cells"]})


def _curves(results: Mapping[str, Any], file: Path) -> None:
    methods, budgets = _order(results)
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 9))
    panels = (
        ("weights_kept", "relative_mse", "attention and feed-forward weights kept", "relative squared error", True),
        ("macs_kept", "relative_mse", "multiply-adds of the denoiser kept", "relative squared error", True),
        ("weights_kept", "psnr", "attention and feed-forward weights kept", "PSNR of pictures, dB", False),
        ("weights_kept", "kid", "attention and feed-forward weights kept", "KID-EffNetLite0 to dense", False),
    )
    colours = pyplot.get_cmap("tab10")
    for axis, (across, up, across_label, up_label, logarithmic) in zip(axes.flat, panels, strict=True):
        for number, method in enumerate(methods):
            points = []
            for removed in budgets:
                heights = values(results, method, removed, up)
                if heights:
                    points.append(
                        (
                            statistics.mean(values(results, method, removed, across)),
                            statistics.mean(heights),
                            min(heights),
                            max(heights),
                        )
                    )
            points.sort()
            x, y, low, high = zip(*points, strict=True)
            width = 2.5 if method == "best" else 1.2
            axis.plot(x, y, marker="o", markersize=3, linewidth=width, color=colours(number % 10), label=method)
            axis.fill_between(x, low, high, color=colours(number % 10), alpha=0.15)
        if logarithmic:
            axis.set_yscale("log")
        axis.set_xlabel(across_label)
        axis.set_ylabel(up_label)
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    pyplot.close(figure)


def _sheet(results: Mapping[str, Any], removed: float, methods: Sequence[str], pictures: Path, file: Path) -> None:
    """Draw a row of pictures for each method, dense above."""
    rows = [("dense", pictures / "quality-dense-0")]
    rows += [(method, pictures / f"quality-{method}-{removed:g}-0") for method in methods]
    found = [(name, sorted(folder.glob("*.png"))) for name, folder in rows if folder.is_dir()]
    if len(found) < 2:
        return
    side = Image.open(found[0][1][0]).width * _SCALE
    sheet = Image.new("RGB", (_LABEL + side * len(found[0][1]), side * len(found)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, files) in enumerate(found):
        error = values(results, name, removed, "relative_mse")
        draw.text((4, row * side + side // 2 - 14), name, fill="black")
        if error:
            draw.text((4, row * side + side // 2 + 2), f"error {error[0]:.1e}", fill="gray")
        for column, each in enumerate(files):
            picture = Image.open(each).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (_LABEL + column * side, row * side))
    sheet.save(file, optimize=True)
