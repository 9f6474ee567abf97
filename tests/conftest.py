"""Fixtures shared by all tests."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

# Before torch is imported: threads of test processes that run side by side wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

from tests.shared_captures import shared_captures  # noqa: F401 - a fixture of all tests


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let captures be turned back into real ones."""
    parser.addoption("--real-captures", action="store_true", help="capture every model anew: slow, as users do")


# What costs most to make and is made once in a process: files that use the same run on the same worker.
_SHARED = {
    "pipeline": re.compile(r"\b(toy_pipeline|slim_folders)\b"),
    "families": re.compile(r"\b(toy_denoisers|tests\.families|tests\.plans)\b"),
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests together on one worker, and files together that share what is slow to make."""
    if config.getoption("dist") != "loadfile" or config.getoption("--real-captures"):
        return None
    from xdist.scheduler import LoadFileScheduling

    class Sharing(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return _group(config.rootpath / file) or file

    return Sharing(config, log)


@functools.cache
def _group(file: Path) -> str | None:
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return next((name for name, uses in _SHARED.items() if uses.search(text)), None)


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
