"""Fits racing to the same held-out error: whoever has used the least time goes on."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol


class Runner(Protocol):
    """A fit that takes part."""

    num_steps: int  # in all

    @property
    def steps(self) -> int:
        """Optimiser steps done so far."""
        ...

    def advance(self) -> None:
        """Some more optimiser steps, done on return; this is what is timed."""
        ...

    def learned(self) -> Any:
        """The library's parameters, leaves [P, ...]."""
        ...


class Point(NamedTuple):
    """Where a fit is."""

    seconds: float
    steps: int
    nll: list[float]  # held-out, of each member

    @property
    def mean(self) -> float:
        """Over the members."""
        return sum(self.nll) / len(self.nll)


class Curve(NamedTuple):
    """What became of a fit."""

    points: list[Point]
    stopped: str  # why it ended: done, max_seconds, interrupted

    def seconds_to(self, goal: float) -> float | None:
        """Of the first point whose NLL is no more than ``goal``; None if it never was."""
        return next((point.seconds for point in self.points if point.mean <= goal), None)

    def at(self, seconds: float) -> Point | None:
        """The last point that was reached in ``seconds``; None if none was."""
        return next((point for point in reversed(self.points) if point.seconds <= seconds), None)


def race(
    runners: Mapping[str, Runner], holdout_nll: Callable[[Any], list[float]], max_seconds: float
) -> dict[str, Curve]:
    """Runs all fits to their ends, to ``max_seconds`` each, or until Ctrl-C.

    Args:
      runners: the fits.
      holdout_nll: of parameters, one number for each member; outside the clocks.
      max_seconds: of a fit.
    """
    points: dict[str, list[Point]] = {name: [] for name in runners}
    stopped: dict[str, str] = {}

    def seconds(name: str) -> float:
        return points[name][-1].seconds if points[name] else 0.0

    try:
        while running := [name for name in runners if name not in stopped]:
            name = min(running, key=seconds)
            runner = runners[name]
            start = time.perf_counter()
            runner.advance()
            elapsed = time.perf_counter() - start
            points[name].append(Point(seconds(name) + elapsed, runner.steps, holdout_nll(runner.learned())))
            if runner.steps >= runner.num_steps:
                stopped[name] = "done"
            elif seconds(name) > max_seconds:
                stopped[name] = "max_seconds"
    except KeyboardInterrupt:
        print("interrupted: this is what there is so far", flush=True)
    return {name: Curve(points[name], stopped.get(name, "interrupted")) for name in runners}


def compare(curves: Mapping[str, Curve], baseline: str, epoch_steps: int) -> dict[str, Any]:
    """Times to the goal, final values, and values after the baseline's time.

    The goal is the median of the baseline's held-out NLLs in its last ``epoch_steps``: a single one jumps
    from evaluation to evaluation. A fit is there, the baseline like all others, at its first evaluation that
    is no worse. There is no goal, and no ratio, where one of them is not a number.

    Args:
      curves: of the fits.
      baseline: the name of the one that sets the goal.
      epoch_steps: optimiser steps.

    ``ratios`` says how many times as long each other fit takes to the goal as the library's tuned ones
    (names that begin with ``ours_tuned``), for one seed: where several are fitted together their time is
    shared among them.
    """
    curves = {name: curve for name, curve in curves.items() if curve.points}
    if baseline not in curves:
        return {"rows": {}, "ratios": {}}
    end = curves[baseline].points[-1]
    last_epoch = [point.mean for point in curves[baseline].points if point.steps > end.steps - epoch_steps]
    goal = math.nan if any(map(math.isnan, last_epoch)) else statistics.median(last_epoch)
    rows = {name: _row(curve, goal, end.seconds) for name, curve in curves.items()}
    ratios: dict[str, dict[str, Any]] = {}
    for own in (name for name in rows if name.startswith("ours_tuned")):
        for other in (name for name in rows if not name.startswith("ours_tuned")):
            times = rows[other]["seconds_to_goal_per_seed"], rows[own]["seconds_to_goal_per_seed"]
            if None not in times:
                ratios.setdefault(own, {})[other] = {"median": times[0] / times[1], "runs": 1}
    return {
        "goal_nll": goal,
        "goal_of": baseline,
        "evaluations_of_the_goal": last_epoch,
        "rows": rows,
        "ratios": ratios,
    }


def _row(curve: Curve, goal: float, baseline_seconds: float) -> dict[str, Any]:
    last, level = curve.points[-1], curve.at(baseline_seconds)
    to_goal, num_seeds = curve.seconds_to(goal), len(last.nll)
    return {
        "num_seeds": num_seeds,
        "seconds_to_goal": to_goal,
        "seconds_to_goal_per_seed": None if to_goal is None else to_goal / num_seeds,
        "nll_after_the_baselines_seconds": None if level is None else level.mean,
        "final_nll": last.mean,
        "final_nll_of_each_seed": last.nll,
        "steps": last.steps,
        "seconds": last.seconds,
        "stopped": curve.stopped,
        "curve": [[round(point.seconds, 3), point.steps, round(point.mean, 5)] for point in curve.points],
    }
