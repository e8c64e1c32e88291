"""SAC updates per second, for one seed and for several in one program.

    python -m benchmarks.speed.bench_sac --json=FILE

``ours`` is the library's update program: it draws each batch from dataset and ring buffer too, as PyTorch's
rows do; ``steady`` is the same with the critics and the cloning term of that preset. PyTorch trains one seed;
ratios are of seed-updates per second.
"""

from typing import Any

from benchmarks.speed import measure, report, workload
from benchmarks.speed.counting import Counts, count
from benchmarks.speed.options import Options


def run(options: Options) -> dict[str, Any]:
    """Times an epoch's updates for each number of seeds."""
    ways: dict[str, Any] = {}
    details: dict[str, Any] = {}
    counts: dict[str, Counts] = {}
    amounts: dict[str, float] = {}
    first, *others = options.sac_seeds or (1,)
    populations = [(f"ours, {first} seeds", first, "code"), (f"ours, {first} seeds, steady", first, "steady")]
    populations += [(f"ours, {seeds} seeds", seeds, "code") for seeds in others]
    for number, (name, num_seeds, preset) in enumerate(populations):
        if number and (late := measure.no_time()):
            details[name] = late
            continue
        try:
            way, counts_of_way, details[name] = _of_population(options, num_seeds, preset)
            if number:
                way()  # memory that runs out is told of this population, not of all
        except (MemoryError, RuntimeError) as error:
            reason = report.out_of_memory(error)
            if not number or reason is None:
                raise
            details[name] = {"left_out": f"out of memory: {reason}"}
            continue
        ways[name], counts[name], amounts[name] = way, counts_of_way, options.updates * num_seeds
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


def _of_population(options: Options, num_seeds: int, preset: str) -> tuple[workload.Loop, Counts, Any]:
    """The library's updates of these seeds, what a run multiplies, and details."""
    work = workload.prepare(options, num_seeds, preset=preset)
    job = workload.update_job(work, workload.initial_state(work, full_buffer=True))
    compiled, seconds = workload.compile_job(job)
    details = {"compile_seconds": seconds, "num_seeds": num_seeds}
    return workload.Loop(compiled, job), count(job.fn, *job.args), details


if __name__ == "__main__":
    report.launch(run)
