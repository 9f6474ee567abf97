"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Generator
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip what torch can't do where ATEN_CPU_CAPABILITY hides the AVX-512 of a processor with AMX.

    Its attention in bfloat16 packs for the processor that it finds, with kernels for the one that it is told of.
    """
    try:
        yield
    except RuntimeError as error:
        if "pack_vnni2 is only supported when avx512 is supported" in str(error):
            pytest.skip("torch has no attention in bfloat16 here: ATEN_CPU_CAPABILITY hides AVX-512, and not AMX")
        raise
