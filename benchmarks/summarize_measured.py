"""One JSON of off-policy evaluations, or of compounding errors: where README's figures come from.

python -m benchmarks.summarize_measured --runs=runs/ope/<task>/<run_id>,... --json=FILE

Of several off-policy evaluations (of several datasets) the metrics are averaged too, as DOPE does.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.summarize_run import surroundings


def summarize(folders: list[Path]) -> dict[str, Any]:
    """Every run's command, surroundings and result; the mean of each estimator's metrics over the runs."""
    runs = []
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        runs.append({**surroundings(config), "result": json.loads((folder / "result.json").read_text())})
    tables = [run["result"]["metrics"] for run in runs if "metrics" in run["result"]]
    averages = average(tables) if len(tables) == len(runs) > 1 else None
    return {"runs": runs} if averages is None else {"runs": runs, "average": averages}


def average(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the runs of what all of them have: ``{gamma: {estimator: {metric: value}}}``.

    A metric that some run could not tell (the rank correlation of equal estimates) is None.
    """
    first, *others = tables

    def mean(gamma: str, name: str, metric: str) -> float | None:
        values = [table[gamma][name][metric]["value"] for table in tables]
        return None if None in values else float(np.mean(values))

    return {
        gamma: {
            name: {metric: mean(gamma, name, metric) for metric in metrics}
            for name, metrics in estimators.items()
            if all(name in table.get(gamma, {}) for table in others)
        }
        for gamma, estimators in first.items()
    }


def main(argv: list[str]) -> None:
    """Writes the summary."""
    del argv
    given = flags.FLAGS
    content = summarize([Path(run) for run in given.runs])
    Path(given.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    flags.DEFINE_list("runs", None, "the runs' folders", required=True)
    flags.DEFINE_string("json", None, "file the summary is written to", required=True)
    app.run(main)
