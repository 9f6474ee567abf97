"""What the command line offers by name is what the tables have, and nothing is imported for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from passes import names as compiler_names
from passes.errors import UsageError
from passes.plan.policies import check_normalization
from passes.solve.recipes import RECIPES
from slimdiff_fx import names
from slimdiff_fx.calibration.timestep_weights import WEIGHTS
from slimdiff_fx.commands.options import choices
from slimdiff_fx.export.formats import FORMATS
from slimdiff_fx.pipelines.load import DTYPES

# By option, what adds an entry to its table.
ANOTHER = {
    "slim --method": "recipes.RECIPES['another'] = recipes.Recipe()",
    "slim --compensate": "names.COMPENSATIONS += ('another',)",
    "slim --normalize": "names.NORMALIZATIONS += ('another',)",
    "slim --timestep-weights": "timestep_weights.WEIGHTS['another'] = min",
    "slim --calibrate-on": "product.CALIBRATE_ON += ('another',)",
    "slim --dtype": "product.PRECISIONS += ('another',)",
    "export --target": "product.ONNX_TARGETS += ('another',)",
    "export --residuals": "product.RESIDUALS += ('another',)",
    "export --format": "formats.FORMATS = {**formats.FORMATS, 'another': replace(ONNX, int8=('another',))}",
    "export --int8": "",  # of the format above
}
# In a process of its own, for the command line reads the tables when it is imported.
PROGRAM = """
import sys
from dataclasses import replace
from passes import names
from passes.solve import recipes
from slimdiff_fx import names as product
from slimdiff_fx.calibration import timestep_weights
from slimdiff_fx.export import formats
ONNX = formats.FORMATS["onnx"]
{entries}
from typer.testing import CliRunner
from slimdiff_fx.cli import app
for words in {options}:
    for name in ("another", "third"):
        # Options are read in their order, and the last is wrong.
        done = CliRunner().invoke(app, [*words.split(), name, "--seed", "none"], env={{"COLUMNS": "400"}})
        print(words, name, done.stderr.partition("Invalid value for '")[2].partition("'")[0])
assert "torch" not in sys.modules
"""


def test_tables_are_offered_in_their_order() -> None:
    tables = {
        "Method": list(RECIPES),
        "Compensate": list(compiler_names.COMPENSATIONS),
        "Normalize": list(compiler_names.NORMALIZATIONS),
        "TimestepWeights": list(WEIGHTS),
        "CalibrateOn": list(names.CALIBRATE_ON),
        "Target": list(names.ONNX_TARGETS),
        "Residuals": list(names.RESIDUALS),
        "Dtype": ["auto", *DTYPES],
        "Format": list(FORMATS),
        "Int8": ["static", "dynamic", "weights"],
    }
    assert {name: [each.value for each in getattr(choices, name)] for name in tables} == tables


def test_an_entry_in_a_table_is_a_choice() -> None:
    program = PROGRAM.format(entries="\n".join(ANOTHER.values()), options=list(ANOTHER))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = [line for words in ANOTHER for line in (f"{words} another --seed", f"{words} third {words.split()[1]}")]
    assert done.stdout.splitlines() == expected


def test_what_is_said_of_a_name_that_is_none() -> None:
    with pytest.raises(UsageError, match=r"^unknown normalization 'mean'; there are 'max' and 'minmax'$"):
        check_normalization("mean")
