"""Make the tables of the README and of the pages on speed and cost, and the plot, from the files of results.

python -m benchmarks.readme_tables
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.measure import RESULTS
from benchmarks.readme_blocks import write_block

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PLOT = DOCS / "pictures" / "latency.png"
# Where each table stands. The last two are written by their own benchmarks.
PAGES = {
    "summary": ROOT / "README.md",
    "latency": DOCS / "speed.md",
    "latency-budget": DOCS / "latency_budget.md",
    "cost": DOCS / "cost.md",
    "overhead": DOCS / "cost.md",
    "formats": DOCS / "export.md",
    "quality": DOCS / "quality.md",
}
BACKENDS = {
    "ort": "ONNX Runtime",
    "openvino": "OpenVINO",
    "inductor": "Inductor",
    "aoti": "AOTInductor",
    "eager": "eager",
}
MODELS = {"emoji": "`emoji`", "sd15": "SD 1.5", "sdxl-stage": "SDXL, one stage"}
Result = dict[str, Any]


def results_of(benchmark: str, folder: Path = RESULTS) -> list[Result]:
    """Read a benchmark's files, in the order of `MODELS` and `BACKENDS`."""
    found: list[Result] = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    mine = [each for each in found if each.get("benchmark") == benchmark]
    models, backends = list(MODELS), list(BACKENDS)
    known = [each for each in mine if each["model"] in models and _backend(each) in backends]
    return sorted(known, key=lambda each: (models.index(each["model"]), backends.index(_backend(each))))


def _backend(result: Result) -> str:
    return str(result["backend"] if "backend" in result else result["costs"]["backend"])


def summary_table(quality: dict[str, Any], results: Sequence[Result]) -> str:
    """Give what removing a share of the sites' weights costs and brings: the README's one table."""
    timed = {each["model"]: each for each in results if each["align"] is None and each["backend"] == "ort"}
    models = {name: {row["name"]: row for row in timed[name]["models"]} for name in ("emoji", "sd15")}
    lines = [
        f"| removed | error | PSNR | {' | '.join(f'speed, {MODELS[name]}' for name in models)} |",
        f"|---:|---:|---:|{'---:|' * len(models)}",
    ]
    for removed in (0.15, 0.3, 0.41):
        cells = [each for each in quality["cells"] if each["method"] == "best" and each["removed"] == removed]
        error, psnr = (mean(each[figure] for each in cells) for figure in ("relative_mse", "psnr"))
        speeds = [f"{1 / rows[f'−{removed:.0%} of the sites']['time_ratio']:.2f}×" for rows in models.values()]
        lines.append(f"| {removed:.0%} | {error:.1e} | {psnr:.1f} dB | {' | '.join(speeds)} |")
    return "\n".join(lines)


def latency_table(results: Sequence[Result]) -> str:
    """Give each slim model's speed over dense, and in brackets what it realizes of the multiply-adds saved."""
    plain = [each for each in results if each["align"] is None]
    lines = [
        "| denoiser, input | runtime | dense | −15% | −30% | −41% | planned for latency |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for result in plain:
        dense, *slim = result["models"]
        shape = "×".join(map(str, next(iter(result["inputs"].values()))))
        shares = [row for row in slim if row["name"].startswith("−")]
        planned = next((row for row in slim if row["name"].startswith("latency")), None)
        cells = [f"{1 / row['time_ratio']:.2f}× ({row['realized']:.2f})" for row in shares]
        if planned is None:
            cells.append("–")
        else:
            gone = (dense["params"] - planned["params"]) / result["site_params"]
            cells.append(f"{1 / planned['time_ratio']:.2f}× ({planned['realized']:.2f}), −{gone:.0%}")
        name = f"{MODELS[result['model']]}, {shape}, {result['dtype'].replace('float', 'fp').replace('bfp', 'bf')}"
        milliseconds = dense["median_ms"]
        time = f"{milliseconds:.1f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
        lines.append(" | ".join([f"| {name}", BACKENDS[result["backend"]], time, *cells]) + " |")
    return "\n".join(lines)


def budget_table(results: Sequence[Result]) -> str:
    """Give what was asked for, expected and measured, and what plans of as much error by parameters measure."""
    lines = [
        "| denoiser | runtime | asked | expected | measured | off | off at first | params kept "
        "| as much error, by parameters |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        by_params = {row["target"]: row for row in result["plans"] if row["made_by"] == "params"}
        for row in result["plans"]:
            if row["made_by"] != "latency":
                continue
            other = by_params.get(row["target"])
            expected, measured = (row.get("tries") or [(row["expected"], row["measured"])])[0]
            lines.append(
                f"| {MODELS[result['model']]} | {BACKENDS[_backend(result)]} | {row['target']:.2f} "
                f"| {row['expected']:.3f} | {row['measured']:.3f} | {row['off']:+.1%} "
                f"| {expected / measured - 1:+.1%} | {row['params_kept']:.1%} "
                f"| {'–' if other is None else format(other['measured'], '.3f')} |"
            )
    return "\n".join(lines)


def cost_table(cells: dict[str, Any], exponents: dict[str, Any]) -> str:
    """Give each stage's processor seconds by size, and the peak of memory."""
    stages = ("capture", "analyze", "rewrite", "validate", "lower")
    lines = [
        f"| denoiser | parameters | {' | '.join(stages)} | all | peak over the loaded model |",
        f"|---|---:|{'---:|' * len(stages)}---:|---:|",
    ]
    for name, cell in cells.items():
        if name.startswith("scaling/"):
            seconds = " | ".join(f"{cell['stages'][stage]['cpu_seconds']:.1f} s" for stage in stages)
            lines.append(
                f"| {name.partition('/')[2]}, {cell['dtype'].replace('float', 'fp').replace('bfp', 'bf')} "
                f"| {cell['params'] / 1e6:,.0f}M | {seconds} | {cell['cpu_seconds']:.0f} s "
                f"| {cell['peak_over_loaded_ratio']:.2f}× its weights |"
            )
    fits = exponents["params"]
    shown = " | ".join(f"{fits[stage]['value']:.2f}" for stage in (*stages, "all"))
    lines.append(f"| exponent over parameters | | {shown} | |")
    return "\n".join(lines)


def overhead_table(cells: dict[str, Any]) -> str:
    """Give what observers cost over a plain forward."""
    lines = ["| denoiser | batch | light statistics | with second moments |", "|---|---:|---:|---:|"]
    for name, cell in cells.items():
        if name.startswith("overhead/"):
            light, moments = (f"{cell['watched'][what]['overhead']:+.1%}" for what in ("light", "moments"))
            lines.append(f"| {MODELS[name.partition('/')[2]]} | {cell['batch']} | {light} | {moments} |")
    return "\n".join(lines)


def plot_latency(results: Sequence[Result], file: Path) -> None:
    """Draw latency over parameters kept, a line for each runtime; circles are planned for latency."""
    models = [name for name in MODELS if any(each["model"] == name for each in results)]
    figure, axes = plt.subplots(1, len(models), figsize=(5 * len(models), 4), squeeze=False, layout="constrained")
    colours = dict(zip(BACKENDS, plt.colormaps["tab10"].colors, strict=False))
    for axis, model in zip(axes[0], models, strict=True):
        drawn = [each for each in results if each["model"] == model and each["align"] is None]
        for result in drawn:
            colour = colours[result["backend"]]
            even = [row for row in result["models"][1:] if row["name"].startswith("−")]
            x = [1.0, *(row["param_ratio"] for row in even)]
            axis.plot(x, [1.0, *(row["time_ratio"] for row in even)], "-o", ms=3, color=colour)
            axis.plot([], [], "-", color=colour, label=BACKENDS[result["backend"]])
            for row in result["models"][1:]:
                if row["name"].startswith("latency"):
                    axis.plot(row["param_ratio"], row["time_ratio"], "o", mfc="none", ms=8, color=colour)
        even = [row for row in drawn[0]["models"][1:] if row["name"].startswith("−")]
        axis.plot(
            [1.0, *(row["param_ratio"] for row in even)], [1.0, *(row["mac_ratio"] for row in even)], "k:", label="MACs"
        )
        axis.set(title=MODELS[model].strip("`"), xlabel="parameters kept", ylabel="latency ÷ dense")
        axis.invert_xaxis()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def blocks(folder: Path = RESULTS) -> dict[str, str]:
    """Give the blocks that are made here, by name."""
    cost, quality = (json.loads((folder / f"{name}.json").read_text()) for name in ("cost", "quality"))
    latency = results_of("latency", folder)
    return {
        "summary": summary_table(quality, latency),
        "latency": latency_table(latency),
        "latency-budget": budget_table(results_of("latency_budget", folder)),
        "cost": cost_table(cost["cells"], cost["exponents"]),
        "overhead": overhead_table(cost["cells"]),
    }


def main() -> None:
    """Write the blocks and the plot."""
    for name, text in blocks().items():
        write_block(name, text, PAGES[name])
    plot_latency(results_of("latency"), PLOT)


if __name__ == "__main__":
    main()
