"""The matrix of formats is made by running every cell, and keeps what it ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.formats import FORMATS, MODELS, formats_table, measure_formats
from passes.errors import UsageError
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.quantize.calibration_data import QuantizationSettings

RUN = ("pt2", "onnx", "openvino", "executorch")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_cell_is_run_once(toy_pipeline: Path, slim_folders: dict[str, Path], tmp_path: Path) -> None:
    for module in ("torchao", "nncf", "executorch"):
        pytest.importorskip(module)
    dense, slim = load_pipeline(str(toy_pipeline)), load_pipeline(str(slim_folders["best"]))
    settings = QuantizationSettings(samples=2, steps=4)
    result = measure_formats(dense, slim, formats=RUN, settings=settings, output=tmp_path)
    assert result["cells"].keys() == {f"{each}/{model}" for each in RUN for model in MODELS}
    assert not any("refused" in cell for cell in result["cells"].values())
    for each in RUN[1:]:  # an archive of torch.export has its graph as JSON, which outweighs so small a model's weights
        int8, whole = (result["cells"][f"{each}/{model}"]["bytes"] for model in ("slim + int8", "dense"))
        assert int8 < 0.9 * whole
    table = formats_table(result)
    assert table.count("not measured yet") == len(MODELS) * (len(FORMATS) - len(RUN))
    again = measure_formats(dense, slim, formats=RUN, settings=settings, output=tmp_path)
    assert again["cells"] == result["cells"]
    with pytest.raises(UsageError, match="of other models"):
        measure_formats(dense, dense, formats=RUN, settings=settings, output=tmp_path)
