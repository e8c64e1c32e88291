"""vmap or map over members: the three programs of an epoch timed both ways, on whatever device there is.

    python -m benchmarks.speed.members --json=FILE

Medians of ``--repeats`` runs after one warm-up, blocked on their results; the two ways alternate, so
that a machine which slows down slows both. ``seed-steps`` are optimiser steps or imagined transitions
of all members together.
"""

import json
import platform
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from benchmarks.speed import measure, report, workload
from benchmarks.speed.options import Options, by_device
from benchmarks.speed.workload import Loop

_SEEDS = flags.DEFINE_integer("num_seeds", 3, "members", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each program", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 200, "optimiser steps per run", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "file the result is written to")


def prepare(options: Options, num_seeds: int) -> dict[str, tuple[Loop, int]]:
    """Each program compiled and ready to run, with the seed-steps of a run."""
    work = workload.prepare(options, num_seeds, fit_steps_per_epoch=options.updates)
    state = workload.initial_state(work, full_buffer=True)  # updates need rows to sample
    jobs = {
        "fit": workload.fit_job(work, workload.initial_fit(work)),
        "rollout": workload.rollout_job(work, state, workload.encode_histories(work, state)[0]),
        "update": workload.update_job(work, state),
    }
    rollout = work.config.rollout
    steps = dict.fromkeys(jobs, options.updates)
    steps["rollout"] = rollout.rollout_batch_size * rollout.rollout_length
    return {
        name: (Loop(workload.compile_job(job)[0], job), num_seeds * steps[name]) for name, job in jobs.items()
    }


def main(argv: list[str]) -> None:
    """Times every program both ways and writes the comparison."""
    del argv
    ways = ("map", "vmap")
    options = {members: by_device(Options(members=members, updates=_STEPS.value)) for members in ways}
    prepared = {members: prepare(options[members], _SEEDS.value) for members in ways}
    rates: dict[str, dict[str, float]] = {}
    for name in ("fit", "rollout", "update"):
        runs: dict[str, Any] = {members: prepared[members][name][0] for members in ways}
        timings = measure.alternate(runs, _REPEATS.value)
        steps = prepared["map"][name][1]
        rates[name] = {
            members: measure.summarize(timing, steps, "seed-steps/s")["rate"]
            for members, timing in timings.items()
        }
        rounded = {members: round(rate, 1) for members, rate in rates[name].items()}
        print(name, rounded, "seed-steps/s", flush=True)
    result = {
        "command": " ".join(["python -m benchmarks.speed.members", *sys.argv[1:]]),
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "seed_steps_per_second": rates,
    }
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    report.start(main)
