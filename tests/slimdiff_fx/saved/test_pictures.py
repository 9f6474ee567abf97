import io
import math

import pytest
from PIL import Image

from slimdiff_fx.saved.pictures import (
    Comparison,
    decibels,
    mean_psnr,
    mean_words,
    pick_conditions,
    png_bytes,
    psnr_words,
    side_by_side,
)


def test_psnr_is_infinite_for_equal_pictures_and_right_for_others():
    grey, darker = Image.new("RGB", (8, 8), (100, 100, 100)), Image.new("RGB", (8, 8), (90, 90, 90))
    equal, other = Comparison(("a", "b"), (grey, grey), (grey, darker)).psnr()
    assert math.isinf(equal)
    assert other == pytest.approx(20 * math.log10(255 / 10))


def test_the_mean_is_of_the_pictures_that_differ():
    assert mean_psnr([20.0, math.inf, 31.0]) == 25.5
    assert mean_psnr([math.inf, math.inf]) == math.inf
    assert decibels(0.0) == math.inf
    assert decibels(255.0**2) == 0.0


def test_ratios_in_words():
    assert [psnr_words(value) for value in (21.44, math.inf, None)] == ["21.4 dB", "equal", "equal"]
    assert mean_words([20.0], 20.0) == ("20.0 dB", "mean of 1 picture")
    assert mean_words([20.0, None, None], 20.0) == ("20.0 dB", "mean of 1 picture; 2 more are equal")
    assert mean_words([None], None) == ("equal", "every picture")


def test_sheet_shows_dense_left_and_slim_right():
    red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    sheet = side_by_side(Comparison(("a very long prompt " * 20,) * 3, (red,) * 3, (blue,) * 3), "title")
    loaded = Image.open(io.BytesIO(png_bytes(sheet)))
    assert loaded.size == sheet.size
    row = [loaded.getpixel((x, 120)) for x in range(loaded.width)]
    reds, blues = ([x for x, value in enumerate(row) if value == colour] for colour in ((255, 0, 0), (0, 0, 255)))
    assert len(reds) == len(blues) == 320
    assert min(reds) < min(blues) < max(reds) < max(blues)


def test_a_white_picture_has_an_edge_on_the_sheet():
    white = Image.new("RGB", (16, 16), "white")
    sheet = side_by_side(Comparison(("",), (white,), (white,)))
    row = [sheet.getpixel((x, 100)) for x in range(sheet.width)]
    edges = [x for x, value in enumerate(row) if value != (255, 255, 255)]
    assert len(edges) == 4
    assert edges[1] - edges[0] == edges[3] - edges[2] == 161


def test_conditions_are_spread_over_the_list():
    assert pick_conditions([str(number) for number in range(100)], 4) == ("12", "37", "62", "87")
    assert pick_conditions(["a"], 4) == ("a",)
    assert pick_conditions(["a", "b"], 0) == ()
