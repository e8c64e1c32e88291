"""Intervals against a table of Student's t and against their own coverage."""

import numpy as np
import pytest

from adm_jax.statistics import mean_interval


def test_three_values_against_the_table() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])
    half = 4.302653 * 1.0 / np.sqrt(3)  # t_{0.975, 2} from a table; the sample's deviation is 1
    np.testing.assert_allclose(interval, (2.0, 2.0 - half, 2.0 + half), rtol=1e-6)


def test_coverage_is_what_it_says() -> None:
    draws = np.random.default_rng(0).normal(5.0, 2.0, size=(4_000, 5))
    covered = [low <= 5.0 <= high for _, low, high in map(mean_interval, draws)]
    assert abs(np.mean(covered) - 0.95) < 0.012  # 3.5 standard errors


@pytest.mark.parametrize("values", [[1.0], [], [1.0, np.nan]])
def test_no_interval_without_two_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two finite"):
        mean_interval(values)
