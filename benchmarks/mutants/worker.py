"""A warm process: it has imported what everybody imports, and forks for each run of tests.

Started by `workplace.py` in a copy of the project; reads one request a line and writes one answer a line, as JSON.
Nothing of the project's own is imported here, so that each child imports what lies in the copy by then.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import coverage
import psutil
import pytest

_WARM = {
    *("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "onnx", "onnxruntime", "onnxscript"),
    *("torch_pruning", "safetensors", "huggingface_hub", "PIL", "rich", "typer", "hypothesis", "pytest"),
}
# Over what the warm process has: a bug may ask for more memory than there is.
_MORE_MEMORY = 8 << 30


class _Watch:
    """A plugin of pytest: which tests to run and in which order, what they took, what they ran, and what failed."""

    def __init__(self, chosen: list[str] | None, skipped: list[str], watch: coverage.Coverage | None) -> None:
        self._chosen, self._skipped, self._watch = chosen, set(skipped), watch
        self._began = 0.0
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        known = {item.nodeid: item for item in items if item.nodeid not in self._skipped}
        items[:] = list(known.values()) if self._chosen is None else [known[name] for name in self._chosen]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._began = time.process_time()
        self._name("setup")

    # After fixtures are made: what a shared fixture runs is of no one test.
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self._name(item.nodeid)

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        self._name("setup")
        self.seconds[item.nodeid] = time.process_time() - self._began

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def _name(self, context: str) -> None:
        if self._watch is not None:
            self._watch.switch_context(context)


def main() -> None:
    """Warm up, say so, and serve until there are no more requests."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _warm_up()
    importlib.import_module("_hypothesis_pytestplugin")
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), file=answers, flush=True)


def _warm_up() -> None:
    """Import whatever the project's files import from large libraries."""
    for path in sorted(path for folder in ("passes", "slimdiff_fx", "tests") for path in Path(folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                module, names = node.module or "", [alias.name for alias in node.names]
                _import(module, names)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    _import(alias.name, [])


def _import(module: str, names: list[str]) -> None:
    if module.split(".")[0] in _WARM:
        # Optional parts may be missing, and a test's own import will say so better.
        with suppress(Exception):
            loaded = importlib.import_module(module)
            for name in names:
                getattr(loaded, name, None)


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    result = Path(request["result"])
    result.unlink(missing_ok=True)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(request)
    process = psutil.Process(child)
    while time.monotonic() - began < request["wall_seconds"] and _seconds(process) < request["cpu_seconds"]:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        status = signal.SIGXCPU
    # The children of tests go with it.
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(child, 0)
    answer = json.loads(result.read_text()) if result.exists() else {"code": None, "failed": []}
    signal_number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {**answer, "signal": signal_number, "wall": round(time.monotonic() - began, 2)}


def _seconds(process: psutil.Process) -> float:
    """Give a child's processor time. A limit that the system holds makes the clock that tests read a coarse one."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _run(request: dict[str, Any]) -> None:
    """Run tests in this child, write down what happened, and end."""
    os.setsid()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + _MORE_MEMORY,) * 2)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    began = time.process_time()
    watch = None
    if request["cover"]:
        watch = coverage.Coverage(data_file=None, include=request["cover"], config_file=False, messages=False)
        watch.start()
    plugin = _Watch(request["tests"], request["skipped"], watch)
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "_hypothesis_pytestplugin",
        "--hypothesis-seed=0",
        "--tb=short",
        "--show-capture=no",
    ]
    options += ["-x"] if request["stop"] else []
    options += [f"--basetemp={request['scratch']}"]
    code = pytest.main([*options, *request["files"]], plugins=[plugin])
    lines = _lines(watch)
    answer = {"code": int(code), "failed": plugin.failed, "seconds": plugin.seconds, "lines": lines}
    answer["cpu"] = round(time.process_time() - began, 2)
    Path(request["result"]).write_text(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


def _lines(watch: coverage.Coverage | None) -> dict[str, dict[str, list[str]]]:
    """Give, by file and line, the tests that ran it; "" stands for imports, "setup" for fixtures."""
    if watch is None:
        return {}
    watch.stop()
    data = watch.get_data()
    found: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for path in data.measured_files():
        name = Path(path).relative_to(Path.cwd()).as_posix()
        found[name] = {str(line): contexts for line, contexts in data.contexts_by_lineno(path).items()}
    return found


if __name__ == "__main__":
    main()
