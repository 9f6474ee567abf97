from __future__ import annotations

import pytest

from passes.program.size_limits import SizeLimit, simplified, size_limit

H, W = "L['sample'].size()[2]", "L['sample'].size()[3]"


@pytest.mark.parametrize(
    ("allowed", "limit", "words"),
    [
        (lambda size: True, SizeLimit(1, 1), "at least 1"),
        (lambda size: size % 8 == 0, SizeLimit(8, 8), "a multiple of 8"),
        (lambda size: size % 4 == 0 and size > 4, SizeLimit(4, 8), "a multiple of 4, at least 8"),
        (lambda size: 2 <= size < 64, SizeLimit(1, 2, 63), "at least 2, at most 63"),
        (lambda size: size == 8, SizeLimit(1, 8, 8), "8 only"),
        (lambda size: size % 2 == 0 and size != 6, SizeLimit(2, 2, None, (6,)), "a multiple of 2, not 6"),
    ],
)
def test_what_allowed_sizes_have_in_common(allowed, limit, words) -> None:  # type: ignore[no-untyped-def]
    found = size_limit(allowed, tried=100)
    assert found == limit
    assert str(found) == words


def test_no_size_is_no_limit() -> None:
    assert size_limit(lambda size: False, tried=10) is None


@pytest.mark.parametrize(
    ("guard", "simple"),
    [
        (f"{H} == (2 + 2*(((-1) + {H}) // 2))", (f"{H} % 2 == 0",)),
        (f"({H} % 6) == 0 and {H} > 8", (f"{H} % 6 == 0", f"{H} >= 12")),
        (f"({H} // 2) % (2*({H} // 2)) != 0", (f"{H} >= 2",)),
        (f"{H} >= 1", ()),
        (f"2 <= {H} < 64", (f"{H} >= 2", f"{H} <= 63")),
        (f"2*{H} == 16", (f"{H} == 8",)),
        # of two sizes, of holes, of more than sizes, of bounds that are out of reach: as they were
        (f"{H} == {W}", (f"{H} == {W}",)),
        (f"{H} <= 1000", (f"{H} <= 1000",)),
        (f"64*{H} != 64000", (f"64*{H} != 64000",)),
        (f"{H} * 128 <= 2147483648", (f"{H} * 128 <= 2147483648",)),
        (f"{H} != 6", (f"{H} != 6",)),
        (f"{H} * L['n'] > 3", (f"{H} * L['n'] > 3",)),
        ("L['a']['b'][0].size()[1] == 2*(L['a']['b'][0].size()[1] // 2)", ("L['a']['b'][0].size()[1] % 2 == 0",)),
    ],
)
def test_guards_on_one_size_come_to_a_multiple(guard: str, simple: tuple[str, ...]) -> None:
    assert simplified([guard, guard]) == simple


def test_guards_on_the_same_size_are_taken_together() -> None:
    # 0 or 3 more than a multiple of 4, and even
    guards = [f"(2 + 2*(((-1) + {H}) // 4)) == (1 + (((-1) + {H}) // 2))", f"{H} != {W}", f"{H} % 2 == 0", f"{H} >= 3"]
    assert simplified(guards) == (f"{H} % 4 == 0", f"{H} != {W}")
