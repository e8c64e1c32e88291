"""One epoch of ADMPO-OFF (roll-out and updates): all seeds in one program against PyTorch, seed after seed.

    python -m benchmarks.speed.bench_end_to_end --json=FILE

Also what such an epoch takes to compile, with an empty and with a filled compilation cache, and the memory
that its programs and the encoded histories take beyond parameters, buffers and dataset with 50,000 starts, as
XLA plans it.
"""

import tempfile
from collections import Counter
from typing import Any

import jax
import numpy as np

from adm_jax.population.memory import temporary_bytes, tree_bytes
from benchmarks.speed import report, workload
from benchmarks.speed.counting import Counts, count
from benchmarks.speed.options import Options
from benchmarks.speed.workload import Job, Workload

_GIB = 2**30
MEMORY_STARTS = 50_000


def run(options: Options) -> dict[str, Any]:
    """Times the epoch, its compilation, and asks for its memory."""
    work = workload.prepare(options, options.num_seeds)
    jobs = _jobs(work)
    rollout, rollout_seconds = workload.compile_job(jobs["rollout"])
    update, update_seconds = workload.compile_job(jobs["update"])
    epoch = workload.Epoch(work, rollout, update)
    ways: dict[str, Any] = {"ours": epoch}
    details: dict[str, Any] = {"ours": {"compile_seconds": rollout_seconds + update_seconds}}
    if options.with_torch:
        from benchmarks.speed import torch_rows

        for name, row in torch_rows.epochs(options, work, workload.initial_state(work)).items():
            report.add(name, row, ways, details)
    total: Counter = Counter()
    for job in jobs.values():
        total.update(count(job.fn, *job.args).products)
    result = report.compare(
        options,
        ways,
        {"ours": Counts(total)},
        dict.fromkeys(ways, len(work.config.seeds)),
        "seed-epochs/s",
        details,
    )
    row = result["rows"]["ours"]
    for name, values in epoch.seconds.items():
        timed = values[1:][: row["repeats"]]  # but the one to warm up, and one for a trace
        row[f"{name}_seconds_median"] = float(np.median(timed))
    row["encoding_seconds"] = epoch.encoding_seconds  # once, before the first epoch
    result = {"shapes": workload.shapes(work), **result}
    if options.compilation:
        result |= {"compile_seconds": compile_seconds(work), "memory": memory(options)}
    return result


def _jobs(work: Workload) -> dict[str, Job]:
    """The programs of an epoch on abstract arrays."""
    _, state = workload.abstract_state(work)
    histories = workload.abstract_histories(work, state)
    return {
        "rollout": workload.rollout_job(work, state, histories),
        "update": workload.update_job(work, state),
    }


def compile_seconds(work: Workload) -> dict[str, dict[str, float]]:
    """Seconds to trace and compile each program of an epoch: cold, and read back from the cache on disk."""
    seconds: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for when in ("cold", "cached"):
            jax.clear_caches()  # as in a new process: nothing is traced yet
            each = {name: workload.compile_job(job, folder)[1] for name, job in _jobs(work).items()}
            seconds[when] = {**each, "epoch": sum(each.values())}
    return seconds


def memory(options: Options) -> dict[str, Any]:
    """GiB of the programs of an epoch and of the histories it keeps, of the buffers and of all else.

    The number of starts is that of the published settings, whatever is timed; nothing is allocated.
    """
    overrides = {} if options.quick else {"rollout_batch_size": MEMORY_STARTS}
    work = workload.prepare(options, options.num_seeds, **overrides)
    jobs = _jobs(work)
    temporary = {name: temporary_bytes(workload.compile_job(job)[0]) for name, job in jobs.items()}
    _, state = workload.abstract_state(work)
    histories = tree_bytes(workload.abstract_histories(work, state))
    return {
        "num_seeds": options.num_seeds,
        "rollout_batch_size": work.config.rollout.rollout_batch_size,
        "beyond_buffers_gib": (max(temporary.values()) + histories) / _GIB,
        "histories_gib": histories / _GIB,
        "temporaries_gib": {name: size / _GIB for name, size in temporary.items()},
        "buffers_gib": tree_bytes(state.buffer) / _GIB,
        "agents_and_models_gib": tree_bytes((state.agent, state.model)) / _GIB,
    }


if __name__ == "__main__":
    report.launch(run)
