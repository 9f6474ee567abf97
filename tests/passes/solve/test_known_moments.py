"""What a head's moments don't know is raised to what they may have overlooked."""

from __future__ import annotations

import pytest
import torch

from passes.calibrate.moments import Covariance
from passes.solve.known_moments import UNKNOWN, raise_unknown, roots, tails
from tests.covariances import random_covariance, random_weight

HEADS, WIDTH = 3, 6


def test_what_a_head_did_not_show_is_raised_and_nothing_else() -> None:
    drawn = random_covariance(HEADS * WIDTH, 6)
    matrix, mean = drawn.matrix.clone(), torch.zeros(HEADS * WIDTH, dtype=torch.float64)
    first, second, third = (slice(at, at + WIDTH) for at in (0, WIDTH, 2 * WIDTH))
    basis = torch.linalg.qr(random_weight(WIDTH, WIDTH, 7)).Q
    matrix[first], matrix[:, first] = 0, 0
    matrix[first, first] = basis @ torch.diag(torch.tensor([4.0, 2, 1, 1e-9, 0, -1e-8]).double()) @ basis.T
    matrix[third], matrix[:, third] = 0, 0
    mean[second] = 1e3  # its square is subtracted: what is left is known to a share of that
    raised = raise_unknown(Covariance(mean, matrix, 100), HEADS)
    expected = basis @ torch.diag(torch.tensor([4, 2, 1, *[4 * UNKNOWN] * 3]).double()) @ basis.T
    torch.testing.assert_close(raised.matrix[first, first], expected, rtol=0, atol=1e-14)
    least = UNKNOWN * (torch.linalg.eigvalsh(drawn.matrix[second, second])[-1] + 1e6 * WIDTH)
    assert float(torch.linalg.eigvalsh(raised.matrix[second, second])[0]) == pytest.approx(float(least))
    assert not raised.matrix[third].any()
    torch.testing.assert_close(raised.matrix[first, second], matrix[first, second], rtol=0, atol=0)


def test_roots_are_inverse_to_one_another_whatever_the_rank() -> None:
    full, low = random_covariance(WIDTH, 1).matrix, random_covariance(WIDTH, 2, rank=2).matrix
    root, inverse = roots(torch.stack([full, low, torch.zeros_like(full)]))
    identity = torch.eye(WIDTH, dtype=torch.float64)
    torch.testing.assert_close(root @ inverse, identity.expand(3, -1, -1), rtol=0, atol=1e-12)
    torch.testing.assert_close(root[0] @ root[0], full, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(root[1] @ root[1], low, rtol=0, atol=1.01 * UNKNOWN * float(low.trace()))
    assert torch.equal(root[2], identity)


def test_tails_leave_each_entry_out() -> None:
    assert tails(torch.tensor([1e20, 3.0, 2.0, 1.0], dtype=torch.float64)).tolist() == [6.0, 3.0, 1.0, 0.0]
