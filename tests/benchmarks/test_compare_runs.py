"""Differences of runs against their formulas written out."""

import pytest

from benchmarks.compare_runs import compare


def run(returns, seeds=(0, 1, 2)):
    rows = [
        {"phase": "train", "steps": steps, "eval/return": [[value - 1.0, value + 1.0] for value in values]}
        for steps, values in returns.items()
    ]
    return {"config": {"seeds": list(seeds), "warmup_steps": 10}, "evaluations": rows}


def test_differences_at_common_steps_after_warm_up():
    # 10 is warm-up and 40 only one run's; the means of 20 and 30 are 2, 4, 9 and 1, 2, 3
    ours = run({10: [99.0] * 3, 20: [1.0, 3.0, 8.0], 30: [3.0, 5.0, 10.0], 40: [99.0] * 3})
    number, welch, paired = compare(ours, run({10: [0.0] * 3, 20: [1.0, 2.0, 3.0], 30: [1.0, 2.0, 3.0]}))
    assert number == 2
    assert (welch.mean, paired.mean) == (3.0, 3.0)
    # variances 13 and 1, errors (13 + 1) / 3; 2.3056 degrees of freedom, their quantile 3.7994
    assert (welch.low, welch.high) == pytest.approx(
        (3 - 3.7994 * (14 / 3) ** 0.5, 3 + 3.7994 * (14 / 3) ** 0.5), rel=1e-3
    )
    # differences 1, 2, 6: variance 7, two degrees of freedom, 4.3027
    with_one_less = compare(ours, run({20: [1.0, 2.0, 3.0], 30: [9.0] * 3}), until=29)
    assert (with_one_less[0], with_one_less[1].mean) == (1, 2.0)
    assert paired.high == pytest.approx(3 + 4.3027 * (7 / 3) ** 0.5, rel=1e-4)


def test_runs_that_have_nothing_in_common_are_refused():
    with pytest.raises(ValueError, match="evaluations: none after warm-up at the same number"):
        compare(run({20: [1.0] * 3}), run({30: [1.0] * 3}))
    with pytest.raises(ValueError, match=r"seeds: \[0, 1, 2\] and \[0, 1, 3\]; must be the same"):
        compare(run({20: [1.0] * 3}), run({20: [1.0] * 3}, seeds=(0, 1, 3)))
