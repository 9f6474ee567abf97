import json
import os
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from passes.calibrate.statistics import Statistics
from passes.errors import CheckpointError, OutputError
from slimdiff_fx.calibration.run import statistics_of
from slimdiff_fx.files.statistics_file import StoredStatistics, load_record, load_statistics, save_statistics


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
    save_file({"weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        load_statistics(tmp_path / "w.safetensors")


def test_incomplete_statistics_make_no_plan():
    assert statistics_of(stored()).samples == 5
    with pytest.raises(CheckpointError, match="3 of 5 samples"):
        statistics_of(stored(done=3))


def same(one, other):
    return one.statistics.identical(other.statistics) and (one.settings, one.done, one.total) == (
        other.settings,
        other.done,
        other.total,
    )


def test_one_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path):
    """Every byte of the header, and every bit of a good part of the sums."""
    file, whole = tmp_path / "s.safetensors", stored()
    save_statistics(whole, file)
    content, draw = file.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(header), *draw.sample(range(header, len(content)), 300)]
    read = []
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        try:
            back = load_statistics(file)
        except CheckpointError:
            continue
        assert same(back, whole), f"byte {place}"
        read.append(place)
    assert all(place < header for place in read), "no bit of the sums is free"
    assert len(read) < 0.05 * header, "nothing but blanks may differ"


@pytest.mark.parametrize("change", [{"done": 4}, {"total": 6}, {"settings": {"seed": 1, "conditions": ["a", "ü"]}}])
def test_a_changed_record_is_refused_also_where_it_is_read_alone(tmp_path, change):
    file = tmp_path / "s.safetensors"
    save_statistics(stored(), file)
    with safe_open(file, framework="pt") as opened:
        metadata, tensors = opened.metadata(), {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    save_file(tensors, file, {"calibration": json.dumps({**json.loads(metadata["calibration"]), **change})})
    for load in (load_record, load_statistics):
        with pytest.raises(CheckpointError, match="its checksum differs"):
            load(file)


def test_other_sums_under_the_same_record_are_refused(tmp_path):
    file = tmp_path / "s.safetensors"
    save_statistics(stored(), file)
    with safe_open(file, framework="pt") as opened:
        metadata, tensors = opened.metadata(), {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    changed = {**tensors, "a.ff/abs": tensors["a.ff/abs"].nextafter(torch.tensor(9.0, dtype=torch.float64))}
    for other in (changed, {key: value for key, value in tensors.items() if key != "a.ff/count"}):
        save_file(other, file, metadata)
        with pytest.raises(CheckpointError, match="its checksum differs"):
            load_statistics(file)
    save_file(tensors, file, metadata)
    assert same(load_statistics(file), stored())


def test_a_file_of_an_earlier_version_is_refused_and_may_be_replaced(tmp_path):
    file = tmp_path / "s.safetensors"
    record = json.dumps({"settings": {"seed": 0}, "done": 5, "total": 5})
    save_file(stored().statistics.to_tensors(), file, {"calibration": record})
    for load in (load_record, load_statistics):
        with pytest.raises(CheckpointError, match=r"earlier version, with no checksum.*calibrate again"):
            load(file)
    save_statistics(stored(), file)
    assert same(load_statistics(file), stored())


def test_equal_statistics_are_equal_files(tmp_path):
    for name in "ab":
        save_statistics(stored(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_no_statistics_is_not_replaced(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    with pytest.raises(OutputError, match="is not statistics"):
        save_statistics(stored(), tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == content


def test_the_mode_is_what_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        save_statistics(stored(), tmp_path / "s.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "s.safetensors").stat().st_mode & 0o777 == 0o640
