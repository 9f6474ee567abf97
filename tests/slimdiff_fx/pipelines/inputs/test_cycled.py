import pytest

from slimdiff_fx.pipelines.inputs.cycled import Cycled


def test_it_goes_round_by_index_and_slice():
    cycled = Cycled(("a", "b", "c"), 8)
    assert list(cycled) == list("abcabcab")
    assert cycled[2:7] == ("c", "a", "b", "c", "a")
    assert (cycled[-1], cycled[3]) == ("b", "a")
    assert cycled == tuple("abcabcab")
    assert cycled != tuple("abcabcac")
    with pytest.raises(IndexError):
        cycled[8]


def test_a_round_longer_than_the_whole_is_cut():
    assert Cycled(("a", "b", "c"), 2).one_round == ("a", "b")
    assert Cycled(("a", "b", "c"), 2) == Cycled(("a", "b", "x"), 2)
    assert hash(Cycled(("a", "b", "c"), 2)) == hash(Cycled(("a", "b", "x"), 2))


def test_a_huge_one_takes_no_time():
    cycled = Cycled(("a", "b", "c"), 10**18)
    assert len(cycled) == 10**18
    assert cycled[10**18 - 1] == "a"
    assert cycled[10**18 - 2 :] == ("c", "a")
