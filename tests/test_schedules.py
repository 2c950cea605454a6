"""Named schedules of step size and temperature."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch")

from coophash import schedules


def test_constant_linear_geometric():
    assert schedules.constant(0.3, 4) == [0.3] * 4
    np.testing.assert_allclose(schedules.linear(1.0, 0.0, 5), [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(schedules.geometric(1.0, 0.01, 5), np.geomspace(1.0, 0.01, 5))
    for schedule in (schedules.linear, schedules.geometric, schedules.cosine):
        assert schedule(0.5, 0.1, 1) == [0.5] and schedule(0.5, 0.1, 0) == []
        assert schedule(0.5, 0.1, 9)[-1] == pytest.approx(0.1)


def test_polynomial_is_the_decay_of_sgld():
    """a (b + i)^-gamma, with a = first · b^gamma."""
    b, gamma = 10.0, 0.55
    a = 0.2 * b**gamma
    expected = [a * (b + i) ** -gamma for i in range(50)]
    np.testing.assert_allclose(schedules.polynomial(0.2, 50, power=gamma, offset=b), expected)


def test_cosine_is_the_schedule_of_cyclical_sgmcmc():
    """first/2 (cos(pi mod(i, n) / n) + 1), with the end of a cycle on its last step."""
    cycle = schedules.cosine(1.0, 0.0, 5)
    expected = [0.5 * math.cos(math.pi * i / 4) + 0.5 for i in range(5)]
    np.testing.assert_allclose(cycle, expected, atol=1e-15)
    assert schedules.cosine(1.0, 0.0, 15, cycles=3) == cycle * 3
    uneven = schedules.cosine(1.0, 0.2, 11, cycles=3)
    assert len(uneven) == 11 and [i for i, v in enumerate(uneven) if v == 1.0] == [0, 3, 7]


def test_from_epsilon():
    np.testing.assert_allclose(schedules.from_epsilon([0.04, 0.01], 2), [0.2, 0.1])
    assert schedules.from_epsilon(0.09, 3) == pytest.approx([0.3] * 3)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: schedules.constant(-1.0, 3), ValueError, "value must be a finite number >= 0"),
        (lambda: schedules.linear(1.0, "x", 3), TypeError, "last must be a number, got str"),
        (lambda: schedules.linear(1.0, 0.1, -3), ValueError, "steps must be an integer >= 0"),
        (lambda: schedules.geometric(1.0, 0.0, 3), ValueError, "must be > 0.*use linear"),
        (lambda: schedules.polynomial(1.0, 3, power=0.0), ValueError, "power must be > 0"),
        (lambda: schedules.polynomial(1.0, 3, offset=0.0), ValueError, "offset must be > 0"),
        (lambda: schedules.cosine(1.0, 0.1, 3, cycles=4), ValueError, "cycles must be an integer"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
