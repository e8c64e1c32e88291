"""Returns of several summarized runs in one plot: means over seeds and their 95 % intervals.

python -m benchmarks.runs.draw_runs --runs=a.json,b.json --names=ADMPO-ON,SAC --png=FILE
"""

from typing import Any

import numpy as np
from absl import flags

from benchmarks.runs.summarize_run import over_seeds, read
from benchmarks.speed import report


def curve(summary: dict[str, Any]) -> dict[str, np.ndarray]:
    """``at`` (environment steps, or updates without any), mean, low and high [E] of the evaluations."""
    rows = [row for row in summary["evaluations"] if row["phase"] == "train"]
    seeds = [over_seeds([float(np.mean(returns)) for returns in row["eval/return"]]) for row in rows]
    values = {name: np.array([row[name] for row in seeds], np.float64) for name in ("mean", "low", "high")}
    return {"at": np.array([row.get("steps", row["updates"]) for row in rows]), **values}


def draw(summaries: dict[str, dict[str, Any]], path: str) -> None:
    """Draws all of them into a PNG file; warm-up is shaded."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4))
    for name, summary in summaries.items():
        values = curve(summary)
        (line,) = axes.plot(values["at"], values["mean"], label=name)
        axes.fill_between(
            values["at"], values["low"], values["high"], color=line.get_color(), alpha=0.2, lw=0
        )
    warmup = max(summary["result"].get("warmup_steps", 0) for summary in summaries.values())
    if warmup:
        axes.axvspan(0, warmup, color="gray", alpha=0.15, lw=0, label="warm-up")
    axes.set(xlabel="environment steps" if warmup else "updates", ylabel="return", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the curves: bands fill the axes
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv: list[str]) -> None:
    """Draws the plot."""
    del argv
    given = flags.FLAGS
    summaries = [read(files) for files in given.runs]
    draw(dict(zip(given.names, summaries, strict=True)), given.png)


if __name__ == "__main__":
    flags.DEFINE_list("runs", None, "files that benchmarks.runs.summarize_run has written", required=True)
    flags.DEFINE_list("names", None, "what each is called in the plot", required=True)
    flags.DEFINE_string("png", None, "file the plot is written to", required=True)
    report.start(main)
