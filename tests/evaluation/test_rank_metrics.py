"""DOPE's metrics against closed forms, and their bootstrap."""

import numpy as np
import pytest

from adm_jax.evaluation.rank_metrics import compare, rank_metrics

TRUTH = [10.0, 30.0, 20.0, 50.0, 40.0]


def test_perfect_estimates():
    metrics = rank_metrics(TRUTH, TRUTH)
    assert metrics == pytest.approx(
        {
            "normalized_absolute_error": 0.0,
            "rank_correlation": 1.0,
            "regret@1": 0.0,
            "regret@3": 0.0,
            "pearson_correlation": 1.0,
        }
    )


def test_by_hand():
    """Normalised by 10 and 50: truth 0, 1/2, 1/4, 1, 3/4."""
    estimates = [50.0, 30.0, 20.0, 10.0, 200.0]  # 1, 1/2, 1/4, 0, and 2 after clipping
    metrics = rank_metrics(estimates, TRUTH)
    assert metrics["normalized_absolute_error"] == pytest.approx((1 + 0 + 0 + 1 + 1.25) / 5)
    # ranks of estimates 4, 3, 2, 1, 5 and of the truth 1, 3, 2, 5, 4: squared differences 9, 0, 0, 16, 1
    assert metrics["rank_correlation"] == pytest.approx(1 - 6 * 26 / (5 * 24))
    assert metrics["regret@1"] == pytest.approx(0.25)  # the last is chosen, of 3/4
    assert metrics["regret@3"] == pytest.approx(0.25)  # the last, the first, the second
    unit, true = np.array([1, 0.5, 0.25, 0, 2]), np.array([0, 0.5, 0.25, 1, 0.75])
    assert metrics["pearson_correlation"] == pytest.approx(np.corrcoef(unit, true)[0, 1])


def test_a_reversed_order_has_full_regret():
    metrics = rank_metrics([5, 3, 4, 1, 2], TRUTH)
    assert metrics["rank_correlation"] == pytest.approx(-1)
    assert metrics["regret@1"] == pytest.approx(1)
    assert metrics["regret@3"] == pytest.approx(0.5)
    others = rank_metrics([5, 3, 4, 1, 2], TRUTH, regret_at=[2, 4])
    assert {name: others[name] for name in others if "@" in name} == {
        "regret@2": pytest.approx(0.75),  # the first and the third, of 0 and 1/4
        "regret@4": pytest.approx(0.25),  # all but the fourth, the best
    }


@pytest.mark.parametrize("estimates", [[1.0] * 5, [np.nan, 1, 2, 3, 4]])
def test_what_tells_nothing_apart_is_nan(estimates):
    assert np.isnan(rank_metrics(estimates, TRUTH)["rank_correlation"])


def test_without_one_estimate_there_is_no_interval_either():
    """Most resamples of five have the policy without one; those that lack it must not speak for all."""
    whole, lacking = [1.0, 2.0, 3.0, 4.0, 6.0], [1.0, 2.0, np.nan, 4.0, 6.0]
    compared = compare({"whole": whole, "lacking": lacking}, TRUTH)
    for name in ("lacking", "whole - lacking"):
        assert np.isnan(list(compared[name]["rank_correlation"].values())).all()
    assert np.isfinite(list(compared["whole"]["rank_correlation"].values())).all()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="same two or more"):
        rank_metrics([1.0, 2.0], TRUTH)


def test_bootstrap_is_paired():
    rng = np.random.default_rng(0)
    truth = np.arange(26.0)
    close, far = truth + rng.normal(0, 1, 26), truth + rng.normal(0, 30, 26)
    table = compare({"close": close, "again": close, "far": far}, truth)
    assert set(table["close"]) == set(rank_metrics(close, truth))
    for metric in table["close"]:
        row = table["close"][metric]
        assert row["value"] == pytest.approx(rank_metrics(close, truth)[metric])
        assert row["low"] <= row["value"] <= row["high"] or metric.startswith("regret")
        # of two estimators that are the same every resample is
        assert table["close - again"][metric] == {"value": 0.0, "low": 0.0, "high": 0.0}
    difference = table["close - far"]["rank_correlation"]
    assert difference["low"] > 0
    paired = difference["high"] - difference["low"]
    assert 0 < paired < 1.5
    assert compare({"far": far}, truth, seed=1)["far"] != table["far"]
