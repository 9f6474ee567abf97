"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toy_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a tiny text-to-image pipeline; it must not be changed."""
    from tests.toy_pipeline import build_toy_pipeline

    return build_toy_pipeline(tmp_path_factory.mktemp("toy") / "toy-pipeline")


@pytest.fixture(scope="session")
def slim_folders(toy_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give slim folders by how they were made, "best", "threshold" and "applied"; they must not be changed."""
    from tests.slim_folders import build_slim_folders

    return build_slim_folders(toy_pipeline, tmp_path_factory.mktemp("slim"))
