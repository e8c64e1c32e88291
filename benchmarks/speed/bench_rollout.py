"""Imagined transitions per second of a roll-out with uncertainty, one seed.

    python -m benchmarks.speed.bench_rollout --json=FILE

``ours`` is the library's roll-out program: windows drawn, m streams a step, penalty, termination, rows put
into the ring buffer. The histories of all transitions are encoded once, as in a full-length run;
``ours_encoding`` encodes them in each roll-out. ``torch_authors`` and ``torch_fair`` do the same in PyTorch
(``benchmarks/speed/torch_reference.py``).
"""

from typing import Any

from benchmarks.speed import report, workload
from benchmarks.speed.counting import count
from benchmarks.speed.options import Options


def run(options: Options) -> dict[str, Any]:
    """Times the roll-outs of one epoch."""
    work = workload.prepare(options, 1)
    state = workload.initial_state(work)
    histories, encoding_seconds = workload.encode_histories(work, state)
    jobs = {"ours": workload.rollout_job(work, state, histories)}
    if histories is not None:
        jobs["ours_encoding"] = workload.rollout_job(work, state, None)
    ways: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for name, job in jobs.items():
        compiled, seconds = workload.compile_job(job)
        ways[name], details[name] = workload.Loop(compiled, job), {"compile_seconds": seconds}
    details["ours"]["encoding_seconds"] = encoding_seconds  # once for all roll-outs
    if options.with_torch:
        from benchmarks.speed import torch_rows

        for name, row in torch_rows.rollouts(options, work, state).items():
            ways[name], details[name] = row
    rollout = work.config.rollout
    transitions = rollout.rollout_batch_size * rollout.rollout_length
    result = report.compare(
        options,
        ways,
        {name: count(job.fn, *job.args) for name, job in jobs.items()},
        dict.fromkeys(ways, transitions),
        "imagined transitions/s",
        details,
    )
    return {"shapes": workload.shapes(work), **result}


if __name__ == "__main__":
    report.launch(run)
