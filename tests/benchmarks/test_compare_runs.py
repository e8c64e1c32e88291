"""Differences of runs against their formulas written out."""

import json

import pytest

from adm_jax.types import InputError
from benchmarks.runs.compare_runs import compare, row
from benchmarks.runs.summarize_run import read, steadiness


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
    with pytest.raises(InputError, match="evaluations: none after warm-up at the same number"):
        compare(run({20: [1.0] * 3}), run({30: [1.0] * 3}))
    with pytest.raises(InputError, match=r"seeds: \[0, 1, 2\] and \[0, 1, 3\]; must be the same"):
        compare(run({20: [1.0] * 3}), run({20: [1.0] * 3}, seeds=(0, 1, 3)))


def test_a_row_has_means_and_intervals_over_seeds():
    # half the intervals' width: 4.3027 (13 / 3)^0.5 of 1, 3, 8; of 2, 4, 9, the seeds' own means, as much
    ours = run({10: [99.0] * 3, 20: [1.0, 3.0, 8.0], 30: [3.0, 5.0, 10.0], 40: [0.0] * 3})
    assert row(ours, at=(20, 25), until=30) == ["4 [-5, 13]", "", "5 [-4, 14]"]


def test_steadiness_is_the_lowest_over_the_highest_of_the_last_five():
    cloned = {"phase": "bc", "eval/return": [[0.0]]}
    rows = run(
        {10: [1.0, 8.0], 20: [4.0, 5.0], 30: [2.0, 5.0], 40: [4.0, 5.0], 50: [4.0, 5.0], 60: [4.0, 5.0]}
    )
    in_time = sorted(rows["evaluations"], key=lambda row: row["steps"])
    assert steadiness([cloned, *in_time]) == [0.5, 1.0]  # without 10


def test_seeds_of_several_runs_are_read_as_one_run(tmp_path):
    summaries = {
        "a": run({20: [1.0, 2.0, 3.0], 30: [9.0] * 3}),
        "b": run({20: [4.0, 5.0], 40: [9.0] * 2}, seeds=(3, 4)),
        "others": run({20: [0.0] * 5}, seeds=range(5)),
        "other_rate": run({20: [4.0]}, seeds=[5]),
    }
    summaries["other_rate"]["config"]["tau"] = 0.02
    files = {name: str(tmp_path / f"{name}.json") for name in summaries}
    for name, summary in summaries.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({**summary, "result": {"warmup_steps": 10}}))
    joined = read(f"{files['a']}+{files['b']}")
    number, welch, paired = compare(joined, read(files["others"]))
    assert (number, welch.mean, paired.mean) == (1, 3.0, 3.0)
    with pytest.raises(InputError, match=r"seeds \[0, 1, 2\] and \[0, 1, 2, 3, 4\]; must be others"):
        read(f"{files['a']}+{files['others']}")
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(InputError, match=r"bench\.json holds no evaluations"):
        read(str(tmp_path / "bench.json"))
    with pytest.raises(InputError, match="not of one setting: tau"):
        read(f"{files['a']}+{files['other_rate']}")
