"""Measurements on disk: nothing that any process kept is lost, and nothing of another environment is taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from passes.errors import CheckpointError
from slimdiff_fx.latency import cache as module
from slimdiff_fx.latency.cache import LatencyCache

ENVIRONMENT: dict[str, Any] = {
    "backend": "eager",
    "versions": {"torch": "2.0"},
    "hardware": "abacus",
    "threads": 1,
    "dtype": "float32",
}


def test_what_another_process_kept_in_the_meantime_stays(tmp_path: Path) -> None:
    one, other = LatencyCache(tmp_path, ENVIRONMENT), LatencyCache(tmp_path, ENVIRONMENT)
    one.put("a", 1)
    other.put("b", [2, 3])
    one.put("c", {"d": 4})
    other.put("a", 5)
    again = LatencyCache(tmp_path, ENVIRONMENT)
    assert [again.get(key) for key in "abcd"] == [5, [2, 3], {"d": 4}, None]
    assert [one.get(key) for key in "abc"] == [1, [2, 3], {"d": 4}]
    assert [file.name for file in tmp_path.iterdir()] == [one.file.name]


def test_who_writes_waits_for_who_is_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one comes in right between reading and writing."""
    one, other = LatencyCache(tmp_path, ENVIRONMENT), LatencyCache(tmp_path, ENVIRONMENT)
    plain, second = module.replaced_file, threading.Thread(target=other.put, args=("b", 2))
    waited: list[bool] = []

    @contextmanager
    def interrupted(path: Path) -> Iterator[Path]:
        monkeypatch.setattr(module, "replaced_file", plain)
        second.start()
        second.join(0.3)
        waited.append(second.is_alive())
        with plain(path) as partial:
            yield partial

    monkeypatch.setattr(module, "replaced_file", interrupted)
    one.put("a", 1)
    second.join()
    again = LatencyCache(tmp_path, ENVIRONMENT)
    assert waited == [True]
    assert (again.get("a"), again.get("b")) == (1, 2)
    assert [file.name for file in tmp_path.iterdir()] == [one.file.name]


def test_a_failed_write_keeps_what_was_there_and_lets_others_in(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path, ENVIRONMENT)
    cache.put("a", 1)
    before = cache.file.read_text()
    with pytest.raises(TypeError):
        cache.put("b", object())
    assert cache.file.read_text() == before
    other = LatencyCache(tmp_path, ENVIRONMENT)
    other.put("c", 3)
    assert LatencyCache(tmp_path, ENVIRONMENT).get("a") == 1
    assert [file.name for file in tmp_path.iterdir()] == [cache.file.name]


@pytest.mark.slow
def test_real_processes_lose_nothing(tmp_path: Path) -> None:
    script = f"""
        import pathlib, sys, time
        from slimdiff_fx.latency.cache import LatencyCache
        folder = pathlib.Path({str(tmp_path)!r})
        cache = LatencyCache(folder / "cache", {ENVIRONMENT!r})
        (folder / f"ready{{sys.argv[1]}}").touch()
        while len(list(folder.glob("ready*"))) < 3:
            time.sleep(0.01)
        for number in range(30):
            cache.put(f"{{sys.argv[1]}}/{{number}}", number)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    started = [subprocess.Popen([*command, str(number)], env={**os.environ}) for number in range(3)]
    assert [each.wait() for each in started] == [0, 0, 0]
    again = LatencyCache(tmp_path / "cache", ENVIRONMENT)
    assert [again.get(f"{who}/{number}") for who in range(3) for number in range(30)] == [*range(30)] * 3
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("change", [{"threads": 2}, {"hardware": "other"}, {"versions": {"torch": "2.1"}}])
def test_another_environment_has_another_file(change: dict[str, object], tmp_path: Path) -> None:
    one, other = LatencyCache(tmp_path, ENVIRONMENT), LatencyCache(tmp_path, {**ENVIRONMENT, **change})
    one.put("a", 1)
    assert other.get("a") is None
    assert LatencyCache(tmp_path, {**ENVIRONMENT, **change}).get("a") is None
    assert one.file != other.file


def test_a_file_of_another_environment_is_not_believed(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path, ENVIRONMENT)
    cache.put("a", 1)
    data = json.loads(cache.file.read_text())
    data["environment"]["threads"] = 2
    cache.file.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="of another environment"):
        LatencyCache(tmp_path, ENVIRONMENT)
    with pytest.raises(CheckpointError, match="of another environment"):  # also when it became so later
        cache.put("b", 2)
