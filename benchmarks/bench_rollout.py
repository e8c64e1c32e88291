"""Imagined transitions per second of a roll-out with uncertainty, one seed.

    python -m benchmarks.bench_rollout --json=FILE

``ours`` is the library's roll-out program: windows drawn, m streams a step, penalty, termination, rows put
into the ring buffer. ``torch_authors`` and ``torch_fair`` do the same in PyTorch
(``benchmarks/torch_reference.py``).
"""

from typing import Any

from benchmarks import report, workload
from benchmarks.counting import count
from benchmarks.options import Options


def run(options: Options) -> dict[str, Any]:
    """Times the roll-outs of one epoch."""
    work = workload.prepare(options, 1)
    state = workload.initial_state(work)
    job = workload.rollout_job(work, state)
    compiled, seconds = workload.compile_job(job)
    ways: dict[str, Any] = {"ours": workload.Loop(compiled, job)}
    details: dict[str, Any] = {"ours": {"compile_seconds": seconds}}
    if options.with_torch:
        from benchmarks import torch_rows

        for name, row in torch_rows.rollouts(options, work, state).items():
            ways[name], details[name] = row
    rollout = work.config.rollout
    transitions = rollout.rollout_batch_size * rollout.rollout_length
    result = report.compare(
        options,
        ways,
        {"ours": count(job.fn, *job.args)},
        dict.fromkeys(ways, transitions),
        "imagined transitions/s",
        details,
    )
    return {"shapes": workload.shapes(work), **result}


if __name__ == "__main__":
    report.launch(run)
