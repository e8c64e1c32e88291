"""One JSON of off-policy evaluations, or of compounding errors: where README's figures come from.

python -m benchmarks.runs.summarize_measured --runs=runs/ope/<task>/<run_id>,... --json=FILE

Of several off-policy evaluations (of several datasets) the metrics are averaged too, as DOPE does, with
intervals of a bootstrap over the policies of each.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from adm_jax.config.evaluation import REGRET_AT
from adm_jax.evaluation.rank_metrics import compare_over
from adm_jax.files import to_json
from benchmarks.runs.summarize_run import surroundings
from benchmarks.speed import report


def summarize(folders: list[Path]) -> dict[str, Any]:
    """Every run's command, surroundings and result; the estimators' metrics averaged over the runs."""
    runs, regret_at = [], REGRET_AT
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        regret_at = config["config"].get("regret_at", regret_at)
        runs.append({**surroundings(config), "result": json.loads((folder / "result.json").read_text())})
    results = [run["result"] for run in runs]
    if len(results) < 2 or not all("metrics" in result for result in results):
        return {"runs": runs}
    return {"runs": runs, "average": average(results, regret_at)}


def average(results: list[dict[str, Any]], regret_at: Sequence[int] = REGRET_AT) -> dict[str, Any]:
    """The metrics of ``rank_metrics.compare_over`` for every discount that all results have."""
    gammas = [gamma for gamma in results[0]["estimates"] if all(gamma in x["estimates"] for x in results)]
    pairs = {gamma: [_pair(result, gamma) for result in results] for gamma in gammas}
    return {gamma: to_json(compare_over(pairs[gamma], regret_at=regret_at)) for gamma in gammas}


def _pair(result: dict[str, Any], gamma: str) -> tuple[dict[str, list[float]], list[float]]:
    """Estimates and true returns, NaN where there is none."""
    estimates = {
        name: [float("nan") if row["mean"] is None else row["mean"] for row in rows]
        for name, rows in result["estimates"][gamma].items()
    }
    return estimates, result["truth"][list(result["estimates"]).index(gamma)]


def main(argv: list[str]) -> None:
    """Writes the summary."""
    del argv
    given = flags.FLAGS
    content = summarize([Path(run) for run in given.runs])
    Path(given.json).write_text(json.dumps(_rounded(content)) + "\n")


def _rounded(content: Any) -> Any:
    """Numbers to six digits: curves of a thousand steps are long enough."""
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    return float(f"{content:.6g}") if isinstance(content, float) else content


if __name__ == "__main__":
    flags.DEFINE_list("runs", None, "the runs' folders", required=True)
    flags.DEFINE_string("json", None, "file the summary is written to", required=True)
    report.start(main)
