import pytest
import torch

from passes.errors import CheckpointError
from passes.statistics import Statistics
from slimdiff_fx.calibration_run import statistics_of
from slimdiff_fx.statistics_file import StoredStatistics, load_statistics, save_statistics


def stored(done=5, total=5):
    generator = torch.Generator().manual_seed(0)
    sums = {
        "abs": torch.rand(10, 4, generator=generator, dtype=torch.float64),
        "square": torch.rand(10, 4, generator=generator, dtype=torch.float64),
        "count": torch.ones(10, dtype=torch.float64),
    }
    statistics = Statistics({"a.ff": sums}, 5, 1, 1000.0, {"structure": "x", "weights": {"a.ff": [0.5]}})
    return StoredStatistics(statistics, {"seed": 0, "conditions": ["a", "ü"]}, done, total)


def test_written_and_read_back_bit_for_bit(tmp_path):
    save_statistics(stored(), tmp_path / "s.safetensors")
    back = load_statistics(tmp_path / "s.safetensors")
    assert back.statistics.identical(stored().statistics)
    assert (back.settings, back.done, back.total) == ({"seed": 0, "conditions": ["a", "ü"]}, 5, 5)


def test_damaged_files_are_refused_by_name(tmp_path):
    file = tmp_path / "s.safetensors"
    with pytest.raises(CheckpointError, match="no statistics at"):
        load_statistics(file)
    save_statistics(stored(), file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"s\.safetensors is truncated"):
        load_statistics(file)


def test_weights_are_no_statistics(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        load_statistics(tmp_path / "w.safetensors")


def test_incomplete_statistics_make_no_plan():
    assert statistics_of(stored()).samples == 5
    with pytest.raises(CheckpointError, match="3 of 5 samples"):
        statistics_of(stored(done=3))
