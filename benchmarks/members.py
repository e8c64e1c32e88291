"""vmap or map over members: the three programs of an epoch timed both ways, on whatever device there is.

    python -m benchmarks.members --json=FILE

Medians of ``--repeats`` runs after one warm-up, blocked on their results; the two ways alternate, so
that a machine which slows down slows both. Arguments are not donated, as they are used again: both ways
copy the buffers, which a run does not. ``seed-steps`` are optimiser steps or imagined transitions
of all members together.
"""

import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from adm_jax.config import OfflineConfig, config_for_task
from adm_jax.data import builtin, minari_io
from adm_jax.data.dataset import make_dataset
from adm_jax.dynamics import fitting
from adm_jax.envs.termination import get_termination
from adm_jax.training import programs
from adm_jax.training.population import compile_program, member_keys

_SEEDS = flags.DEFINE_integer("num_seeds", 3, "members", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "timed runs of each program", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 200, "optimiser steps per run", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "file the result is written to")


def prepare(config: OfflineConfig, members: str) -> dict[str, tuple[Any, tuple, int]]:
    """Each program compiled, with its arguments and the seed-steps of a run."""
    parts = programs.make_parts(config, 11, 3, 1.0, get_termination("hopper"), members)
    dataset = make_dataset(minari_io.load(builtin.BUILTIN_ID), parts.dynamics.max_backtrack)
    holdout = fitting.holdout_segments(dataset, parts.dynamics.max_backtrack, config.fit)
    keys, hyper = member_keys(config.seeds, 0), programs.population_hyper(config)
    fit = jax.jit(lambda k: programs.init_fit(parts, dataset, k))(keys)
    agent, buffer, model = jax.jit(lambda f, k: programs.init_train(parts, config, f, dataset, holdout, k))(
        fit, keys
    )
    rollout_args = (buffer, agent.actor_params, model, hyper, keys, dataset)
    roll_out = compile_program(programs.rollout_program(parts, config), *rollout_args)
    buffer, _ = roll_out(*rollout_args)  # updates need rows to sample
    fit_args = (fit, keys, keys, dataset, holdout, jax.random.key(0))
    update_args = (agent, buffer, hyper, keys, dataset, jnp.ones(()))
    num_members, steps = len(config.seeds), config.updates_per_epoch
    transitions = config.rollout.rollout_batch_size * config.rollout.rollout_length
    fit_program = compile_program(programs.fit_program(parts, config), *fit_args)
    update = compile_program(programs.update_program(parts, config), *update_args)
    return {
        "fit": (fit_program, fit_args, num_members * steps),
        "rollout": (roll_out, rollout_args, num_members * transitions),
        "update": (update, update_args, num_members * steps),
    }


def main(argv: list[str]) -> None:
    """Times every program both ways and writes the comparison."""
    del argv
    config = config_for_task(
        "hopper-builtin",
        seeds=tuple(range(_SEEDS.value)),
        updates_per_epoch=_STEPS.value,
        fit_steps_per_epoch=_STEPS.value,
    )
    prepared = {members: prepare(config, members) for members in ("map", "vmap")}
    rates: dict[str, dict[str, float]] = {}
    for name in ("fit", "rollout", "update"):
        seconds: dict[str, list[float]] = {"map": [], "vmap": []}
        for repeat in range(_REPEATS.value + 1):
            for members, runs in prepared.items():
                program, arguments, _ = runs[name]
                start = time.perf_counter()
                jax.block_until_ready(program(*arguments))
                if repeat:  # the first one warms up
                    seconds[members].append(time.perf_counter() - start)
        count = prepared["map"][name][2]
        rates[name] = {members: count / statistics.median(times) for members, times in seconds.items()}
        print(
            name,
            {members: round(rate, 1) for members, rate in rates[name].items()},
            "seed-steps/s",
            flush=True,
        )
    result = {
        "command": " ".join(["python -m benchmarks.members", *sys.argv[1:]]),
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "seed_steps_per_second": rates,
    }
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
