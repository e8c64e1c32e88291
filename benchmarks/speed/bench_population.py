"""Wall-clock of one epoch of ADMPO-OFF against the number of seeds trained side by side.

    python -m benchmarks.speed.bench_population --json=FILE --png=FILE

``seconds_per_seed`` falls where seeds share what is fixed; ``over_first`` is the time over that of the
smallest population. A population that doesn't fit into memory is trained as a run trains it, a batch of
``members_per_batch`` after the other: its time is that of an epoch of each. One whose epoch would take longer
than ``--max_seconds``, in proportion to the one before, is left out, and so is one of which not even a
single seed fits. PyTorch trains seeds one after the other: its line is one seed's epoch times their number.
That epoch alternates ``--repeats`` times with the smallest population's, whose ratios are reported; larger
populations, of up to minutes each, are timed ``--population_repeats`` times.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from adm_jax.population import memory
from adm_jax.runs.batches import batch_sizes, first_that_fits
from adm_jax.types import InputError
from benchmarks.speed import measure, report, workload
from benchmarks.speed.counting import Counts, count
from benchmarks.speed.options import Options


def run(options: Options) -> dict[str, Any]:
    """Times an epoch for each number of seeds, smallest first, and PyTorch for that one."""
    rows: dict[str, dict[str, Any]] = {}
    torch_rows = _torch_rows(options)
    beside = {other: run for other, (run, _) in torch_rows.items()}
    others = {other: {"left_out": "no population to alternate with"} for other in beside}
    ratios: dict[str, Any] = {}
    first = previous = None
    for num_seeds in sorted(set(options.population)):
        name = f"ours, {num_seeds} seeds"
        if previous is not None:
            expected = previous["seconds_median"] / previous["num_seeds"] * num_seeds
            if expected > options.max_seconds:
                rows[name] = {
                    "left_out": f"an epoch of about {expected:.0f} s; max_seconds is {options.max_seconds:g}"
                }
                continue
        try:
            if first is None:
                row, timings = measure_population(options, num_seeds, options.repeats, beside)
                ratios[name] = {
                    other: measure.ratio(timings[other], timings["ours"], num_seeds) for other in beside
                }
                others = _report_torch(options, torch_rows, timings)
                first = row
                beside.clear()  # what is timed alone shall have the memory
                torch_rows.clear()
            else:
                row, _ = measure_population(options, num_seeds, options.population_repeats)
        except InputError as error:
            rows[name] = {"left_out": str(error)}
            continue
        row["over_first"] = row["seconds_median"] / first["seconds_median"]
        rows[name] = previous = row
    result = {
        "shapes": workload.shapes(workload.prepare(options, 1)),
        "rows": rows | (others or {other: dict(report.ABSENT) for other in report.TORCH_ROWS}),
        "ratios": ratios,
    }
    if options.png:
        draw(result, options.png)
    return result


def measure_population(
    options: Options, num_seeds: int, repeats: int, beside: Mapping[str, Callable[[], Any]] | None = None
) -> tuple[dict[str, Any], dict[str, measure.Timing]]:
    """One population's row, and the timings of its epoch (``ours``) and of what alternates with it.

    Args:
      options: sizes of the epoch.
      num_seeds: P.
      repeats: timed epochs, after one of a batch to warm up.
      beside: name -> a run of something else.

    Raises:
      InputError: not even one seed fits into memory.
    """
    built = _build(options, num_seeds)
    num_batches = num_seeds // built.num_seeds
    epoch = workload.Epoch(built.work, built.rollout, built.update)

    def epoch_of_each_batch() -> None:
        for _ in range(num_batches):
            epoch()

    top = measure.make_ceilings(options.matmul_size or 1, options.copy_mib)
    others = {**(beside or {}), **top.ways}
    measure.alternate({"ours": epoch, **others}, repeats=0)  # to warm up: every batch is the same program's
    timings = measure.alternate({"ours": epoch_of_each_batch, **others}, repeats, warmups=0)
    row = measure.summarize(
        timings["ours"], num_seeds * options.updates, "seed-updates/s, roll-outs included"
    )
    parts = {
        f"{name}_seconds_median": float(
            np.median(np.sum(np.reshape(seconds[1:], (-1, num_batches)), axis=1))  # but the one to warm up
        )
        for name, seconds in epoch.seconds.items()
    }
    products = Counter({product: number * num_batches for product, number in built.products.items()})
    return {
        "num_seeds": num_seeds,
        "members_per_batch": built.num_seeds,
        **row,
        **measure.efficiency(Counts(products), timings["ours"], top, timings),
        **parts,
        "seconds_per_seed": row["seconds_median"] / num_seeds,
        "compile_seconds": built.compile_seconds,
        "memory_gib": built.need.total / 2**30,
        "histories_gib": built.need.histories / 2**30,
        "ceilings": top.report(timings),
    }, timings


class _Built(NamedTuple):
    """The programs of as many seeds as fit into memory."""

    num_seeds: int
    work: workload.Workload
    rollout: Any
    update: Any
    compile_seconds: float
    products: Counter
    need: memory.MemoryEstimate


def _build(options: Options, num_seeds: int) -> _Built:
    """The programs of all the seeds, or of the largest batch that fits into memory, as a run chooses it."""
    return first_that_fits(batch_sizes(num_seeds, None, None), lambda size: _build_batch(options, size))


def _build_batch(options: Options, num_seeds: int) -> _Built:
    work = workload.prepare(options, num_seeds)
    _, state = workload.abstract_state(work)
    histories = workload.abstract_histories(work, state)
    jobs = [workload.rollout_job(work, state, histories), workload.update_job(work, state)]
    (rollout, rollout_seconds), (update, update_seconds) = map(workload.compile_job, jobs)
    need = memory.estimate(
        {"rollout": rollout, "update": update}, state=state, resident=work.data, histories=histories
    )
    memory.require(need)
    products = sum((count(job.fn, *job.args).products for job in jobs), Counter())
    return _Built(num_seeds, work, rollout, update, rollout_seconds + update_seconds, products, need)


def _torch_rows(options: Options) -> dict[str, tuple[Callable[[], Any], dict[str, Any]]]:
    """PyTorch's epochs of one seed, and what there is to know about them; none without PyTorch."""
    if not options.with_torch:
        return {}
    from benchmarks.speed import torch_rows

    work = workload.prepare(options, 1)
    rows: dict[str, Any] = torch_rows.epochs(options, work, workload.initial_state(work))
    return {name: (run, detail) for name, (run, detail) in rows.items() if run}


def _report_torch(
    options: Options, rows: Mapping[str, tuple[Any, dict[str, Any]]], timings: Mapping[str, measure.Timing]
) -> dict[str, dict[str, Any]]:
    unit = "seed-updates/s, roll-outs included"
    return {
        name: {"num_seeds": 1, **measure.summarize(timings[name], options.updates, unit), **detail}
        for name, (_, detail) in rows.items()
    }


def draw(result: dict[str, Any], path: str) -> None:
    """Plots wall-clock against the number of seeds, both logarithmic, into a PNG file."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [row for name, row in result["rows"].items() if name.startswith("ours") and "num_seeds" in row]
    seeds = np.array([row["num_seeds"] for row in rows])
    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.plot(seeds, [row["seconds_median"] for row in rows], "o-", label="adm_jax")
    for name in report.TORCH_ROWS:
        if "seconds_median" in result["rows"][name]:
            one = result["rows"][name]["seconds_median"]
            axes.plot(seeds, one * seeds, "--", label=f"{name.replace('_', ', ')}, one seed x seeds")
    axes.set(xlabel="seeds", ylabel="seconds of an epoch", xscale="log", yscale="log")
    axes.set_xticks(seeds, [str(number) for number in seeds])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    report.launch(run)
