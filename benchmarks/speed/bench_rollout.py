"""Imagined transitions per second of roll-outs with uncertainty, for one seed and several in one program.

    python -m benchmarks.speed.bench_rollout --json=FILE

``ours`` is the library's roll-out program of one seed: windows drawn, m streams a step, penalty, termination,
rows put into the ring buffer; ``ours, 16 seeds`` that of 16. The histories of all transitions are encoded
once, as in a full-length run; ``ours_encoding`` encodes them in each roll-out, and ``ours_plain`` is without
``--fused_kernels``, on a device where a run has them. ``torch_authors`` and
``torch_fair`` do the same in PyTorch (``benchmarks/speed/torch_reference.py``), one seed, ``torch_graphs``
from CUDA graphs; ratios are of transitions per second.
"""

from functools import partial
from typing import Any

from adm_jax.config.models import RecurrentConfig
from adm_jax.training.components import resolve_kernels
from benchmarks.speed import report, workload
from benchmarks.speed.counting import count
from benchmarks.speed.options import Options


def run(options: Options) -> dict[str, Any]:
    """Times the roll-outs of one epoch for each number of seeds."""
    makers = {}
    for number, num_seeds in enumerate(options.rollout_seeds or (1,)):
        name = "ours" if num_seeds == 1 else f"ours, {num_seeds} seeds"
        makers[name] = partial(_of_population, options, name, num_seeds, first=number == 0)
    ways, details, counts, amounts = report.of_populations(makers)
    work = workload.prepare(options, 1)
    if options.with_torch:
        from benchmarks.speed import torch_rows

        for name, row in torch_rows.rollouts(options, work, workload.initial_state(work)).items():
            report.add(name, row, ways, details)
            amounts[name] = _transitions(work)
    result = report.compare(options, ways, counts, amounts, "imagined transitions/s", details)
    return {"shapes": workload.shapes(work), **result}


def _of_population(options: Options, name: str, num_seeds: int, *, first: bool) -> tuple[Any, ...]:
    """The library's ways with these seeds, and by their names details, counts and transitions of a run."""
    work = workload.prepare(options, num_seeds)
    state = workload.initial_state(work)
    histories, encoding_seconds = workload.encode_histories(work, state)
    jobs = {name: workload.rollout_job(work, state, histories)}
    if histories is not None and first:
        jobs[f"{name}_encoding"] = workload.rollout_job(work, state, None)
    model = resolve_kernels(work.config)
    if first and isinstance(model, RecurrentConfig) and model.fused_kernels == "on":
        plain = workload.prepare(options, num_seeds, fused_kernels="off")
        own_histories, _ = workload.encode_histories(plain, state)
        jobs[f"{name}_plain"] = workload.rollout_job(plain, state, own_histories)
    ways, details = {}, {}
    for each, job in jobs.items():
        compiled, seconds = workload.compile_job(job)
        ways[each] = workload.Loop(compiled, job)
        details[each] = {"compile_seconds": seconds, "num_seeds": num_seeds}
    details[name]["encoding_seconds"] = encoding_seconds  # once for all roll-outs
    counts = {each: count(job.fn, *job.args) for each, job in jobs.items()}
    return ways, details, counts, dict.fromkeys(jobs, num_seeds * _transitions(work))


def _transitions(work: workload.Workload) -> int:
    """Of one seed's roll-outs."""
    rollout = work.config.rollout
    return rollout.rollout_batch_size * rollout.rollout_length


if __name__ == "__main__":
    report.launch(run)
