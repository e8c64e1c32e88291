"""The race to a held-out error, with fits that only pretend."""

import time

import pytest

from benchmarks.speed import fit_race
from benchmarks.speed.fit_race import Curve, Point


class Pretended:
    """Takes ``seconds`` for ten steps; its errors fall by one each time."""

    def __init__(self, seconds, num_steps=30, interrupt_at=None):
        self.seconds, self.num_steps, self.count, self.interrupt_at = seconds, num_steps, 0, interrupt_at

    def advance(self):
        self.count += 1
        if self.count == self.interrupt_at:
            raise KeyboardInterrupt
        time.sleep(self.seconds)

    @property
    def steps(self):
        return 10 * self.count

    def learned(self):
        return -float(self.count)


def race(runners, max_seconds=100.0):
    return fit_race.race(runners, lambda value: [value], max_seconds)


def test_all_run_to_their_end_and_the_clock_holds_the_steps_alone():
    def slow_nll(value):
        time.sleep(0.05)
        return [value]

    curves = fit_race.race({"a": Pretended(0.001), "b": Pretended(0.001, 20)}, slow_nll, 100.0)
    assert [(point.steps, point.mean) for point in curves["a"].points] == [(10, -1), (20, -2), (30, -3)]
    assert curves["b"].points[-1].steps == 20
    assert {curve.stopped for curve in curves.values()} == {"done"}
    assert curves["a"].points[-1].seconds < 0.05


def test_the_one_with_the_least_time_goes_on():
    quick, slow = Pretended(0.001, 1000, interrupt_at=15), Pretended(0.03, 1000)
    curves = race({"slow": slow, "quick": quick})
    assert len(curves["quick"].points) == 14
    assert len(curves["slow"].points) <= 2
    assert curves["quick"].stopped == curves["slow"].stopped == "interrupted"


def test_a_limit_of_time_ends_a_fit():
    assert race({"a": Pretended(0.02, 1000)}, max_seconds=0.03)["a"].stopped == "max_seconds"


def curve(*points):
    return Curve([Point(seconds, steps, nll) for seconds, steps, nll in points], "done")


def test_outcome_by_hand():
    curves = {
        "torch_authors": curve((4.0, 10, [-1.0]), (8.0, 20, [-2.0])),
        "torch_tuned": curve((3.0, 10, [-1.5]), (6.0, 20, [-4.0])),
        "ours_tuned, 2 seeds": curve((2.0, 10, [-1.0, -3.5]), (9.0, 20, [-5.0, -7.0])),
    }
    outcome = fit_race.compare(curves, "torch_authors", 5)
    assert outcome["goal_nll"] == -2.0
    rows, ours = outcome["rows"], outcome["rows"]["ours_tuned, 2 seeds"]
    assert rows["torch_authors"]["seconds_to_goal"] == 8.0
    assert rows["torch_tuned"]["seconds_to_goal"] == 6.0
    assert (ours["seconds_to_goal"], ours["seconds_to_goal_per_seed"]) == (2.0, 1.0)
    assert (ours["nll_after_the_baselines_seconds"], ours["final_nll"]) == (-2.25, -6.0)
    assert ours["final_nll_of_each_seed"] == [-5.0, -7.0]
    ratios = outcome["ratios"]["ours_tuned, 2 seeds"]
    assert {name: ratio["median"] for name, ratio in ratios.items()} == {
        "torch_authors": 8.0,
        "torch_tuned": 6.0,
    }


def test_the_goal_is_the_median_of_the_last_epoch():
    """The baseline's last evaluation fell by chance: it alone would ask too much of the others."""
    points = [(1.0, 10, [-9.0]), (2.0, 20, [-2.0]), (3.0, 30, [-3.0]), (4.0, 40, [-8.0])]
    outcome = fit_race.compare(
        {"torch_authors": curve(*points[1:]), "ours_tuned, 1": curve(*points)}, "torch_authors", 30
    )
    assert (outcome["goal_nll"], outcome["evaluations_of_the_goal"]) == (-3.0, [-2.0, -3.0, -8.0])
    assert outcome["ratios"]["ours_tuned, 1"]["torch_authors"]["median"] == 3.0
    assert fit_race.compare({"a": curve(*points)}, "a", 10)["goal_nll"] == -8.0
    broken = curve(*points[:3], (4.0, 40, [float("nan")]))
    outcome = fit_race.compare(
        {"torch_authors": broken, "ours_tuned, 1": curve(*points)}, "torch_authors", 30
    )
    assert outcome["ratios"] == {}


def test_a_goal_that_is_not_reached_has_no_ratio():
    curves = {
        "torch_authors": curve((1.0, 10, [-3.0])),
        "ours_tuned, 1 seeds": curve((1.0, 10, [float("nan")])),
    }
    outcome = fit_race.compare(curves, "torch_authors", 5)
    assert outcome["rows"]["ours_tuned, 1 seeds"]["seconds_to_goal"] is None
    assert outcome["ratios"] == {}
    assert fit_race.compare({"torch_authors": Curve([], "interrupted")}, "torch_authors", 5)["rows"] == {}


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, None), (1.0, -1.0), (2.5, -2.0)])
def test_the_value_at_a_time(seconds, expected):
    point = curve((1.0, 10, [-1.0]), (2.0, 20, [-2.0])).at(seconds)
    assert (point and point.mean) == expected
