"""Online runs' returns in a table, and how far the first one's lie above each other's at equal steps.

python -m benchmarks.runs.compare_runs RUN.json OTHER.json ... [--until=STEPS] [--at=STEPS,...]

The files are summarize_run's. A seed's value is the mean of its evaluations after warm-up, in a comparison at
the steps that both runs were evaluated at. Means over seeds have Student's 95 % interval; their difference
has two, Welch's, seeds as independent draws, and Student's over the differences of equal seeds.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from absl import flags
from scipy import stats

from adm_jax.statistics import Interval, mean_interval
from adm_jax.types import InputError
from benchmarks.runs import summarize_run
from benchmarks.speed import report


def compare(
    run: dict[str, Any], other: dict[str, Any], until: int | None = None
) -> tuple[int, Interval, Interval]:
    """Number of common evaluations, and the difference with Welch's and with the paired interval.

    Args:
      run: a summary.
      other: another one.
      until: later evaluations than after so many environment steps are left out.

    Raises:
      InputError: the runs have no evaluation after warm-up in common, or not the same seeds, two at least.
    """
    if run["config"]["seeds"] != other["config"]["seeds"]:
        raise InputError(f"seeds: {run['config']['seeds']} and {other['config']['seeds']}; must be the same")
    ours, others = _returns(run), _returns(other)
    steps = sorted(step for step in set(ours) & set(others) if until is None or step <= until)
    if not steps:
        raise InputError("evaluations: none after warm-up at the same number of environment steps")
    a, b = ([statistics.mean(row) for row in zip(*map(of.get, steps), strict=True)] for of in (ours, others))
    paired = mean_interval([x - y for x, y in zip(a, b, strict=True)])
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return len(steps), Interval(paired.mean, float(welch.low), float(welch.high)), paired


def row(run: dict[str, Any], at: Sequence[int], until: int | None = None) -> list[str]:
    """Means over seeds with intervals ``at`` each number of steps, and over all ``until`` one.

    Empty where there was no evaluation.
    """
    returns = {step: values for step, values in _returns(run).items() if until is None or step <= until}
    columns = [*map(returns.get, at), [statistics.mean(seed) for seed in zip(*returns.values(), strict=True)]]
    return [_text(mean_interval(values)) if values else "" for values in columns]


def _text(value: Interval) -> str:
    return f"{value.mean:.0f} [{value.low:.0f}, {value.high:.0f}]"


def _returns(run: dict[str, Any]) -> dict[int, list[float]]:
    """Environment steps -> each seed's mean return."""
    warmup = run["config"]["warmup_steps"]
    rows = [row for row in run["evaluations"] if row["phase"] == "train" and row["steps"] > warmup]
    return {row["steps"]: [statistics.mean(episodes) for episodes in row["eval/return"]] for row in rows}


def main(argv: list[str]) -> None:
    """Prints a row of a table for each run, and a line for each but the first."""
    if len(argv) < 3:
        raise InputError("give two files at least, as in RUN.json OTHER.json")
    given = flags.FLAGS
    run, *others = runs = [summarize_run.read(files) for files in argv[1:]]
    at = [int(steps) for steps in given.at]
    print("|", " | ".join(["steps", *given.at, "mean of all after warm-up"]), "|")
    print("|---" * (len(at) + 2) + "|")
    for path, columns in zip(argv[1:], (row(of, at, given.until) for of in runs), strict=True):
        print("|", " | ".join([path, *columns]), "|")
    for path, other in zip(argv[2:], others, strict=True):
        evaluations, welch, paired = compare(run, other, given.until)
        among_equals = f"[{paired.low:.0f}, {paired.high:.0f}]"
        print(f"above {path} by {_text(welch)}, paired {among_equals}, over {evaluations} evaluations")


if __name__ == "__main__":
    flags.DEFINE_integer("until", None, "environment steps, with warm-up, of the last evaluation that counts")
    flags.DEFINE_list("at", [], "environment steps, with warm-up, of the evaluations that have a column")
    report.start(main, takes_files=True)
