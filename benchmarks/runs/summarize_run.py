"""One JSON of a run's folder, with means over seeds and their intervals: where README's figures come from.

python -m benchmarks.runs.summarize_run --run=runs/admpo_off/<task>/<run_id> --json=FILE

Seeds of one setting may be spread over runs: where such a file is read, ``a.json+b.json`` stands for the run
of all their seeds.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from adm_jax.statistics import mean_interval
from adm_jax.types import InputError
from benchmarks.speed import report

ONLINE_METRICS = ("critic/q", "model/best_error")  # what critics expect, and the models' held-out NLL
ESTIMATES = ("critic/q_initial", "model/return", "model/discounted_return", "critic/q_excess")  # offline
_LAST = 5  # evaluations, over which a run is steady or not


def summarize(folder: Path) -> dict[str, Any]:
    """The run's command, surroundings, evaluations and result; intervals are Student's t over seeds, 95 %.

    Of an online run also each seed's ``ONLINE_METRICS``; of an offline one its ``ESTIMATES``, and its lowest
    over its highest return in the last five evaluations.
    """
    config = json.loads((folder / "config.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    rows, metrics = _rows(folder / "eval.jsonl"), _rows(folder / "metrics.jsonl")
    names = ("phase", "steps", "updates", "eval/return", "eval/unaveraged_return")
    # nothing is cloned in an online run, and nothing evaluated without an environment
    kinds = [kind for kind in ("members", "bc") if result.get(kind)]
    return {
        **surroundings(config),
        "returns": {kind: over_seeds([member["return_mean"] for member in result[kind]]) for kind in kinds},
        "evaluations": [{name: row[name] for name in names if name in row} for row in rows],
        "metrics": [
            {name: row[name] for name in ("steps", "updates", *ONLINE_METRICS, *ESTIMATES) if name in row}
            for row in metrics
            if "steps" in row or ESTIMATES[0] in row
        ],
        "steadiness": steadiness(rows),
        "result": {name: result[name] for name in result if name not in ("files", "seal")},
    }


def steadiness(evaluations: list[dict[str, Any]]) -> list[float]:
    """Each member's lowest over its highest mean return in the last five evaluations of its learning."""
    returns = [row["eval/return"] for row in evaluations if row["phase"] == "train"][-_LAST:]
    if not returns:
        return []
    means = np.mean(np.array(returns, float), axis=-1)  # [evaluations, P]
    return (means.min(axis=0) / means.max(axis=0)).tolist()


def read(files: str) -> dict[str, Any]:
    """Reads a summary; of several, joined by ``+``, the seeds of all at the evaluations that all have.

    Raises:
      InputError: a file is no summary; they share a seed, or differ in more than seeds and number of steps.
    """
    summary, *others = map(_summary, files.split("+"))
    for other in others:
        summary = _joined(summary, other, files)
    return summary


def _summary(file: str) -> dict[str, Any]:
    try:
        summary = json.loads(Path(file).read_text())
    except ValueError as error:
        raise InputError(f"{file} is no JSON file: {error}") from error
    if not isinstance(summary, dict) or "evaluations" not in summary:
        raise InputError(f"{file} holds no evaluations; benchmarks.runs.summarize_run writes such files")
    return summary


def _joined(run: dict[str, Any], other: dict[str, Any], files: str) -> dict[str, Any]:
    a, b = run["config"], other["config"]
    differing = {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)} - {"seeds", "num_steps"}
    if differing:
        raise InputError(f"{files}: not of one setting: {', '.join(sorted(differing))}")
    if set(a["seeds"]) & set(b["seeds"]):
        raise InputError(f"{files}: seeds {a['seeds']} and {b['seeds']}; must be others in each")
    rows = {_when(row): row for row in other["evaluations"]}
    return {
        "config": {**a, "seeds": [*a["seeds"], *b["seeds"]]},
        "result": run["result"],
        "evaluations": [
            {**row, "eval/return": row["eval/return"] + rows[_when(row)]["eval/return"]}
            for row in run["evaluations"]
            if _when(row) in rows
        ],
    }


def _when(row: dict[str, Any]) -> tuple[str, int]:
    return row["phase"], row["steps"] if "steps" in row else row["updates"]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def surroundings(config: dict[str, Any]) -> dict[str, Any]:
    """A run's command, versions, commit, settings and data, without the folders of the machine it ran on."""
    dropped, shortened = ("workdir", "models"), ("policies", "truth")
    settings = {name: value for name, value in config["config"].items() if name not in dropped}
    settings |= {name: _names(settings[name]) for name in shortened if settings.get(name)}
    arguments = []
    for argument in config["command_line"][1:]:
        name, _, value = argument.removeprefix("--").partition("=")
        if name not in dropped:
            arguments.append(f"--{name}={_names(value)}" if name in shortened else argument)
    names = ("git_commit", "created", "versions", "device", "dataset_sha256")
    return {
        "command": " ".join(["python", *arguments]),
        **{name: config[name] for name in names if name in config},
        "config": settings,
    }


def _names(paths: str) -> str:
    """The files' names without their folders; several with commas between."""
    return ",".join(Path(path).name for path in paths.split(","))


def over_seeds(values: list[float | None]) -> dict[str, Any]:
    """Mean and interval of one value per seed; of a single seed or one that broke there is no interval."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or len(known) < len(values):
        return {"mean": known[0] if len(values) == len(known) == 1 else None, "low": None, "high": None}
    return mean_interval(known)._asdict()


def main(argv: list[str]) -> None:
    """Writes the summary."""
    del argv
    given = flags.FLAGS
    Path(given.json).write_text(json.dumps(summarize(Path(given.run)), indent=1) + "\n")


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "the run's folder", required=True)
    flags.DEFINE_string("json", None, "file the summary is written to", required=True)
    report.start(main)
