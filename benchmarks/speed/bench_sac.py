"""SAC updates per second, for one seed and for several in one program.

    python -m benchmarks.speed.bench_sac --json=FILE

``ours`` is the library's update program: it draws each batch from dataset and ring buffer too, as PyTorch's
rows do; ``steady`` is the same with the critics and the cloning term of that preset. PyTorch trains one seed;
ratios are of seed-updates per second.
"""

from typing import Any

from benchmarks.speed import report, workload
from benchmarks.speed.counting import count
from benchmarks.speed.options import Options


def run(options: Options) -> dict[str, Any]:
    """Times an epoch's updates for each number of seeds."""
    ways: dict[str, Any] = {}
    details: dict[str, Any] = {}
    counts, amounts, shapes = {}, {}, {}
    populations = [(f"ours, {seeds} seeds", seeds, "code") for seeds in options.sac_seeds or (1,)]
    first = populations[0][1]
    for name, num_seeds, preset in [*populations, (f"ours, {first} seeds, steady", first, "steady")]:
        work = workload.prepare(options, num_seeds, preset=preset)
        state = workload.initial_state(work, full_buffer=True)
        job = workload.update_job(work, state)
        compiled, seconds = workload.compile_job(job)
        ways[name], counts[name] = workload.Loop(compiled, job), count(job.fn, *job.args)
        details[name] = {"compile_seconds": seconds, "num_seeds": num_seeds}
        amounts[name] = options.updates * num_seeds
        shapes = shapes or workload.shapes(work)
    if options.with_torch:
        from benchmarks.speed import torch_rows

        work = workload.prepare(options, 1)
        for name, row in torch_rows.updates(options, work, workload.initial_state(work)).items():
            ways[name], details[name] = row
            amounts[name] = options.updates
    result = report.compare(options, ways, counts, amounts, "seed-updates/s", details)
    seconds = {name: result["rows"][name]["seconds_median"] for name in counts}
    over_first = {name: value / next(iter(seconds.values())) for name, value in seconds.items()}
    shapes["num_seeds"] = [details[name]["num_seeds"] for name in counts]
    return {"shapes": shapes, **result, "seconds_over_first": over_first}


if __name__ == "__main__":
    report.launch(run)
