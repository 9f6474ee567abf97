"""Which files are mutated, and which tests must notice."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]

# What saves and loads: a bug here loses a file, or reads back another one than was written.
SAVING_AND_LOADING = tuple(
    f"slimdiff_fx/{name}.py"
    for name in (
        "calibration/checkpoint",
        "calibration/disk_sums",
        "calibration/rank_sums",
        "denoisers/altered",
        "denoisers/fresh_model",
        "denoisers/slim/adapter_widths",
        "denoisers/slim/files",
        "denoisers/slim/lora",
        "denoisers/slim/models",
        "denoisers/slim/reference",
        "denoisers/slim/saved_folder",
        "denoisers/taken_over",
        "files/atomic_write",
        "files/file_lock",
        "files/manifest",
        "files/output_paths",
        "files/own_files",
        "files/own_folder",
        "files/partial_files",
        "files/plan_file",
        "files/statistics_file",
        "latency/cache",
        "pipelines/load",
        "pipelines/variants",
        "saved/check_saved",
        "saved/folder",
        "saved/hub",
        "saved/model_card",
        "saved/report",
    )
)

# Tests beside the one that has the source's name; without one of its name, a source must stand here.
OTHER_TESTS: dict[str, tuple[str, ...]] = {
    "passes/analyze/thresholds.py": ("tests/passes/plan/test_alignment.py",),
    "passes/arguments.py": ("tests/slimdiff_fx/test_newcomers_words.py",),
    "passes/sites/attention.py": ("tests/passes/sites/test_find.py", "tests/passes/rewrite/test_rewrite.py"),
    "passes/sites/attention_walk.py": ("tests/passes/sites/test_find.py", "tests/passes/rewrite/test_rewrite.py"),
    "passes/solve/compensation.py": (
        "tests/passes/analyze/test_methods.py",
        "tests/passes/analyze/test_sequential.py",
        "tests/passes/solve/test_adapter_maps.py",
    ),
    "passes/capture/dynamo_graph.py": ("tests/slimdiff_fx/slimming/test_while_compiling.py",),
    "passes/solve/error_curves.py": (
        "tests/passes/analyze/test_methods.py",
        "tests/passes/plan/test_alignment.py",
        "tests/passes/analyze/test_refuse_unreachable.py",
    ),
    "passes/errors.py": ("tests/passes/rewrite/test_rewrite.py", "tests/passes/calibrate/test_instrument.py"),
    "passes/sites/feed_forward.py": ("tests/passes/sites/test_find.py", "tests/passes/rewrite/test_rewrite.py"),
    "passes/program/module_tree.py": (
        "tests/passes/program/test_program.py",
        "tests/passes/capture/test_raise_modules.py",
    ),
    "passes/calibrate/ledger.py": (
        "tests/passes/calibrate/test_moments.py",
        "tests/passes/calibrate/test_observers.py",
        "tests/passes/calibrate/test_instrument.py",
    ),
    "passes/analyze/methods.py": ("tests/passes/plan/test_alignment.py",),
    "passes/calibrate/moment_sums.py": (
        "tests/passes/calibrate/test_moments.py",
        "tests/passes/calibrate/test_instrument.py",
    ),
    "passes/capture/lowered_guards.py": ("tests/passes/capture/test_lower.py",),
    "passes/program/inputs.py": (
        "tests/slimdiff_fx/export/test_parity.py",
        "tests/slimdiff_fx/export/test_input_sizes.py",
    ),
    "passes/rewrite/constants.py": (
        "tests/passes/rewrite/test_rewrite.py",
        "tests/passes/rewrite/test_rewrite_checks.py",
    ),
    "passes/rewrite/slicing.py": (
        "tests/passes/rewrite/test_rewrite.py",
        "tests/passes/rewrite/test_rewrite_checks.py",
    ),
    "passes/calibrate/token_sampling.py": (
        "tests/passes/calibrate/test_moments.py",
        "tests/passes/calibrate/test_moments_by_hand.py",
        "tests/passes/calibrate/test_observers.py",
    ),
    "passes/calibrate/observers.py": ("tests/passes/calibrate/test_moments.py",),
    "passes/plan/slim_plan.py": (
        "tests/passes/plan/test_fingerprint.py",
        "tests/passes/rewrite/test_rewrite.py",
        "tests/passes/analyze/test_methods.py",
    ),
    "passes/kinds/feed_forward.py": ("tests/passes/kinds/test_attention.py", "tests/passes/sites/test_find.py"),
    "passes/sites/find.py": ("tests/passes/kinds/test_toy_kind.py",),
    "passes/sites/kind.py": ("tests/passes/kinds/test_attention.py",),
    "passes/sites/kinds.py": ("tests/passes/kinds/test_toy_kind.py",),
    "passes/solve/reader.py": ("tests/passes/analyze/test_methods.py", "tests/passes/kinds/test_toy_kind.py"),
    "passes/solve/recipes.py": ("tests/passes/analyze/test_methods.py",),
    "passes/names.py": ("tests/passes/plan/test_policies.py", "tests/passes/analyze/test_methods.py"),
    "passes/analyze/planner.py": ("tests/passes/analyze/test_methods.py", "tests/passes/plan/test_alignment.py"),
    "passes/plan/policies.py": ("tests/passes/analyze/test_thresholds.py",),
    "passes/program/shapes.py": ("tests/passes/program/test_shapes_specialize.py", "tests/passes/prove/test_verify.py"),
    "passes/sites/site.py": (
        "tests/passes/sites/test_find.py",
        "tests/passes/prove/test_region.py",
        "tests/passes/rewrite/test_rewrite.py",
    ),
    "passes/sites/site_nodes.py": ("tests/passes/rewrite/test_rewrite.py", "tests/passes/calibrate/test_moments.py"),
    "passes/rewrite/site_program.py": (
        "tests/passes/program/test_shapes_specialize.py",
        "tests/slimdiff_fx/latency/test_latency_table.py",
    ),
    "passes/analyze/sweep.py": ("tests/slimdiff_fx/slimming/test_site_analysis.py",),
    "passes/plan/updates.py": (
        "tests/passes/rewrite/test_rewrite.py",
        "tests/passes/analyze/test_sensitivity.py",
        "tests/slimdiff_fx/denoisers/slim/test_apply_plan.py",
    ),
    "passes/sites/walk.py": (
        "tests/passes/sites/test_find.py",
        "tests/passes/plan/test_costs.py",
        "tests/passes/capture/test_lower.py",
    ),
    "slimdiff_fx/saved/folder.py": (
        "tests/slimdiff_fx/test_damaged_files.py",
        "tests/slimdiff_fx/saved/test_model_card.py",
    ),
    "slimdiff_fx/files/file_lock.py": ("tests/slimdiff_fx/latency/test_latency_table.py",),
    "slimdiff_fx/saved/hub.py": ("tests/slimdiff_fx/saved/test_model_card.py",),
    "slimdiff_fx/latency/cache.py": ("tests/slimdiff_fx/latency/test_latency_table.py",),
    "slimdiff_fx/files/manifest.py": (
        "tests/slimdiff_fx/files/test_own_files.py",
        "tests/slimdiff_fx/files/test_own_folder.py",
        "tests/slimdiff_fx/denoisers/slim/test_saved_folder.py",
    ),
    "slimdiff_fx/pipelines/load.py": (
        "tests/slimdiff_fx/denoisers/slim/test_models.py",
        "tests/slimdiff_fx/pipelines/test_trajectory.py",
    ),
    "slimdiff_fx/files/plan_file.py": (
        "tests/slimdiff_fx/test_damaged_files.py",
        "tests/slimdiff_fx/denoisers/slim/test_models.py",
    ),
    "slimdiff_fx/denoisers/slim/reference.py": ("tests/slimdiff_fx/saved/test_check_saved.py",),
    "slimdiff_fx/saved/report.py": (
        "tests/slimdiff_fx/saved/test_model_card_by_hand.py",
        "tests/slimdiff_fx/saved/test_model_card.py",
        "tests/slimdiff_fx/test_damaged_files.py",
    ),
    "slimdiff_fx/denoisers/slim/files.py": (
        "tests/slimdiff_fx/denoisers/slim/test_models.py",
        "tests/slimdiff_fx/test_damaged_files.py",
    ),
}


def sources(root: Path = ROOT) -> list[str]:
    """Give the paths of all files that are mutated, from the root of the project."""
    passes = sorted(
        path.relative_to(root).as_posix() for path in root.glob("passes/**/*.py") if path.stem != "__init__"
    )
    return [*passes, *SAVING_AND_LOADING]


def mirrors_of(source: str, root: Path = ROOT) -> tuple[str, ...]:
    """Give the test files that must notice a bug in `source`.

    Those of its name come first: `test_plan.py`, and `test_plan_checks.py` if there is no `plan_checks.py`.
    """
    path = Path(source)
    folder = root / "tests" / path.parent
    own = [folder / f"test_{path.name}"] if (folder / f"test_{path.name}").is_file() else []
    for more in sorted(folder.glob(f"test_{path.stem}_*.py")):
        if not (root / path.parent / more.name.removeprefix("test_")).is_file():
            own.append(more)
    return tuple(dict.fromkeys([*(test.relative_to(root).as_posix() for test in own), *OTHER_TESTS.get(source, ())]))
