"""How far one online run's returns lie above another's at equal environment steps.

python -m benchmarks.compare_runs RUN.json OTHER.json ... [--until=STEPS]   (files of summarize_run)

A seed's value is the mean of its evaluations after warm-up at the steps that both runs were evaluated at. The
difference of the means over seeds has two 95 % intervals: Welch's, seeds as independent draws, and Student's
over the differences of equal seeds.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from absl import app, flags
from scipy import stats

from adm_jax.statistics import Interval, mean_interval


def compare(
    run: dict[str, Any], other: dict[str, Any], until: int | None = None
) -> tuple[int, Interval, Interval]:
    """Number of common evaluations, and the difference with Welch's and with the paired interval.

    Args:
      run: a summary.
      other: another one.
      until: later evaluations than after so many environment steps are left out.

    Raises:
      ValueError: the runs have no evaluation after warm-up in common, or not the same seeds, two at least.
    """
    if run["config"]["seeds"] != other["config"]["seeds"]:
        raise ValueError(f"seeds: {run['config']['seeds']} and {other['config']['seeds']}; must be the same")
    ours, others = _returns(run), _returns(other)
    steps = sorted(step for step in set(ours) & set(others) if until is None or step <= until)
    if not steps:
        raise ValueError("evaluations: none after warm-up at the same number of environment steps")
    a, b = ([statistics.mean(row) for row in zip(*map(of.get, steps), strict=True)] for of in (ours, others))
    paired = mean_interval([x - y for x, y in zip(a, b, strict=True)])
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return len(steps), Interval(paired.mean, float(welch.low), float(welch.high)), paired


def _returns(run: dict[str, Any]) -> dict[int, list[float]]:
    """Environment steps -> each seed's mean return."""
    warmup = run["config"]["warmup_steps"]
    rows = [row for row in run["evaluations"] if row["phase"] == "train" and row["steps"] > warmup]
    return {row["steps"]: [statistics.mean(episodes) for episodes in row["eval/return"]] for row in rows}


def main(argv: list[str]) -> None:
    """Prints a line for each other run."""
    if len(argv) < 3:
        raise app.UsageError("two files at least")
    given = flags.FLAGS
    run, *others = (json.loads(Path(path).read_text()) for path in argv[1:])
    for path, other in zip(argv[2:], others, strict=True):
        evaluations, welch, paired = compare(run, other, given.until)
        print(
            f"above {path} by {welch.mean:.0f} [{welch.low:.0f}, {welch.high:.0f}], "
            f"paired [{paired.low:.0f}, {paired.high:.0f}], over {evaluations} evaluations"
        )


if __name__ == "__main__":
    flags.DEFINE_integer("until", None, "environment steps, with warm-up, of the last evaluation that counts")
    app.run(main)
