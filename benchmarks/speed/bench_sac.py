"""SAC updates per second, for one seed and for several in one program.

    python -m benchmarks.speed.bench_sac --json=FILE

``ours`` is the library's update program: it draws each batch from dataset and ring buffer too, as PyTorch's
rows do; ``steady`` is the same with the critics and the cloning term of that preset. PyTorch trains one seed;
ratios are of seed-updates per second.
"""

from functools import partial
from typing import Any

from benchmarks.speed import report, workload
from benchmarks.speed.counting import count
from benchmarks.speed.options import Options


def run(options: Options) -> dict[str, Any]:
    """Times an epoch's updates for each number of seeds."""
    first, *others = options.sac_seeds or (1,)
    populations = [(f"ours, {first} seeds", first, "code"), (f"ours, {first} seeds, steady", first, "steady")]
    populations += [(f"ours, {seeds} seeds", seeds, "code") for seeds in others]
    makers = {row[0]: partial(_of_population, options, *row) for row in populations}
    ways, details, counts, amounts = report.of_populations(makers)
    work = workload.prepare(options, 1)
    if options.with_torch:
        from benchmarks.speed import torch_rows

        for name, row in torch_rows.updates(options, work, workload.initial_state(work)).items():
            report.add(name, row, ways, details)
            amounts[name] = options.updates
    result = report.compare(options, ways, counts, amounts, "seed-updates/s", details)
    seconds = {name: result["rows"][name]["seconds_median"] for name in counts}
    over_first = {name: value / next(iter(seconds.values())) for name, value in seconds.items()}
    shapes = {**workload.shapes(work), "num_seeds": [details[name]["num_seeds"] for name in counts]}
    return {"shapes": shapes, **result, "seconds_over_first": over_first}


def _of_population(options: Options, name: str, num_seeds: int, preset: str) -> tuple[Any, ...]:
    """The library's updates of these seeds, and by their name details, counts and the updates of a run."""
    work = workload.prepare(options, num_seeds, preset=preset)
    job = workload.update_job(work, workload.initial_state(work, full_buffer=True))
    compiled, seconds = workload.compile_job(job)
    details = {"compile_seconds": seconds, "num_seeds": num_seeds}
    counts = count(job.fn, *job.args)
    return (
        {name: workload.Loop(compiled, job)},
        {name: details},
        {name: counts},
        {name: options.updates * num_seeds},
    )


if __name__ == "__main__":
    report.launch(run)
