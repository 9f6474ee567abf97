"""The first file a stranger opens is true: these functions, in this order, in these files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

import passes.pipeline
from passes.pipeline import STAGES
from passes.plan.policies import KeepParams
from tests.toy_block import build, samples


def test_the_table_is_of_the_stages() -> None:
    rows = re.findall(r"^(\w[\w ]*?)  .*`(\w+)`.* (\w+/\w+)$", passes.pipeline.__doc__ or "", re.M)
    assert [name for name, _, _ in rows] == list(STAGES)
    for name, function, file in rows:
        stage = STAGES[name]
        assert stage.__name__ in (function, "find_sites")
        assert Path(sys.modules[stage.__module__].__file__ or "").match(f"passes/{file}.py")


def test_one_after_the_other_they_make_a_smaller_program() -> None:
    stage = STAGES
    inputs = (samples(2), torch.tensor(500))
    program = stage["capture"](build(), inputs, dynamic_shapes=({0: torch.export.Dim.AUTO}, None))
    sites = stage["find sites"](program)
    statistics = stage["calibrate"](stage["instrument"](program, sites, moments=True), [(inputs, {})])
    plan = stage["analyze"](program, sites, statistics, KeepParams(0.9), method="best")
    slim = stage["rewrite"](program, plan)
    assert stage["validate"](program, plan, slim).relative_error < 1e-12
    lowered = stage["lower"](slim).module()
    with torch.no_grad():
        torch.testing.assert_close(lowered(*inputs), slim(*inputs), rtol=1e-12, atol=1e-12)
