"""One epoch of full-horizon policy optimisation, and ADM-v2's roll-outs against ADM's; one seed.

    python -m benchmarks.speed.bench_full_horizon --json=FILE

An epoch is 25 steps of 4,096 environments that live in the model and 500 updates of batch 1,024, as the
authors have it. ``adm_v2`` and ``adm`` take the same steps
with as many streams; the histories of new episodes are encoded in each epoch.
"""

from typing import Any

import numpy as np

from adm_jax.config.presets import full_horizon
from benchmarks.speed import measure, report, workload
from benchmarks.speed.counting import count
from benchmarks.speed.options import Options

DYNAMICS = ("adm_v2", "adm")


def run(options: Options) -> dict[str, Any]:
    """Times the model's steps, with either model, and the epoch."""
    sizes = {
        "persistent": True,
        "rollout_batch_size": options.model_envs,
        "rollout_length": full_horizon.STEPS_PER_EPOCH,
        "batch_size": options.full_horizon_batch_size,
        "updates_per_epoch": options.full_horizon_updates,
    }
    ways, counts, details, work = {}, {}, {}, None
    for dynamics in reversed(DYNAMICS):
        work = workload.prepare(options, 1, dynamics=dynamics, **sizes)
        job = workload.rollout_job(work, workload.initial_state(work), None)
        compiled, seconds = workload.compile_job(job)
        ways[dynamics], details[dynamics] = workload.Loop(compiled, job), {"compile_seconds": seconds}
        counts[dynamics] = count(job.fn, *job.args)
    assert work is not None  # ADM-v2's
    state = workload.initial_state(work)
    update = workload.update_job(work, state)
    programs = [workload.compile_job(job)[0] for job in (workload.rollout_job(work, state, None), update)]
    epoch = workload.Epoch(work, *programs)
    transitions = options.model_envs * full_horizon.STEPS_PER_EPOCH
    result = report.compare(
        options, ways, counts, dict.fromkeys(ways, transitions), "imagined transitions/s", details
    )
    rows = {name: result["rows"][name] for name in DYNAMICS}
    timing = measure.alternate({"epoch": epoch}, options.repeats)["epoch"]
    rows["epoch"] = measure.summarize(timing, 1, "epochs/s")
    for name, values in epoch.seconds.items():
        rows["epoch"][f"{name}_seconds_median"] = float(np.median(values[-len(timing.wall) :]))
    return {
        "shapes": {**workload.shapes(work), "horizon": work.config.rollout.horizon},
        "rows": rows,
        "ceilings": result["ceilings"],
        "adm_v2_over_adm": rows["adm"]["seconds_median"] / rows["adm_v2"]["seconds_median"],
    }


if __name__ == "__main__":
    report.launch(run)
