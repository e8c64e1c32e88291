"""Agent steps per second in the real environments: this library's batch against Gymnasium's SyncVectorEnv.

    python -m benchmarks.speed.evaluation --json=FILE

``stepping`` is the environments alone, with actions drawn beforehand: 30 environments for ``--steps`` steps.
An environment whose episode ends is reset in either way: by SyncVectorEnv as it does by itself (its step
after the end is the reset), by the batch at once; such a step is counted for neither. ``evaluate`` is a
whole ``Evaluator.evaluate`` with a jitted MLP policy of random weights, resets included, on either.

``limit`` is what stepping could reach at most: SyncVectorEnv's time over that of its calls of ``mj_step``,
taken in one more run of it, divided among all cores. Physics that are equal to the last bit need these calls.

Medians of ``--repeats`` runs after one warm-up; the two alternate within a repeat, so that a machine which
slows down slows both. ``speedup`` is the median of the repeats' own ratios; ``cpu_speedup`` is the same of
CPU seconds, all threads together: what is saved by less work, without the second core. Where other processes
hold the cores ``speedup`` comes near it; on idle ones it is up to as many times as large as there are cores.
"""

import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from absl import flags

from adm_jax.envs import batch as batch_module
from adm_jax.envs import environment
from adm_jax.envs import evaluator as evaluator_module
from adm_jax.envs.batch import EnvBatch, GymnasiumBatch, make_batch
from benchmarks.speed import report

_ENVS = flags.DEFINE_list("envs", ["Hopper-v4", "Walker2d-v4", "HalfCheetah-v4", "Ant-v4"], "environments")
_NUM_ENVS = flags.DEFINE_integer("num_envs", 30, "environments side by side", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 200, "steps of each environment in a run", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 7, "timed runs of each way", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "file the result is written to")


def make_gymnasium(env_id: str, num_envs: int, spare_cores: int = 0) -> GymnasiumBatch:
    """The batch that environments without rules of their own get; it has one thread."""
    del spare_cores
    return GymnasiumBatch(env_id, environment.make_env(env_id), num_envs)


def step_vector(env_id: str, actions: np.ndarray) -> Callable[[], int]:
    """A run of Gymnasium's SyncVectorEnv just as it comes; gives the number of agent steps."""
    makers = [lambda: environment.make_env(env_id)] * actions.shape[1]
    vector = gymnasium.vector.SyncVectorEnv(makers)

    def run() -> int:
        vector.reset(seed=0)
        count, ended = 0, np.zeros(actions.shape[1], bool)
        for action in actions:
            _, _, terminated, truncated, _ = vector.step(action)
            count += int((~ended).sum())
            ended = terminated | truncated
        return count

    return run


def limit(run: Callable[[], int]) -> float:
    """How many times as fast a run would be of which nothing but MuJoCo's steps were left, on all cores."""
    mj_step, inside = mujoco.mj_step, 0.0  # pyright: ignore[reportAttributeAccessIssue]

    def timed(*args: Any, **options: Any) -> None:
        nonlocal inside
        start = time.perf_counter()
        mj_step(*args, **options)
        inside += time.perf_counter() - start

    mujoco.mj_step = timed  # pyright: ignore[reportAttributeAccessIssue]
    try:
        start = time.perf_counter()
        run()
        total = time.perf_counter() - start
    finally:
        mujoco.mj_step = mj_step  # pyright: ignore[reportAttributeAccessIssue]
    return round(len(os.sched_getaffinity(0)) * total / inside, 2)


def step_batch(batch: EnvBatch, actions: np.ndarray) -> Callable[[], int]:
    """A run of the batch with the same actions."""

    def run() -> int:
        batch.reset(range(batch.num_envs))
        for action in actions:
            _, _, terminated, truncated = batch.step(action)
            ended = np.flatnonzero(terminated | truncated)
            if ended.size:
                batch.reset([0] * ended.size, ended)
        return actions.shape[0] * actions.shape[1]

    return run


def evaluate(env_id: str, num_envs: int, make: Callable[..., EnvBatch]) -> Callable[[], int]:
    """A run of a whole evaluation on the batches that ``make`` makes."""
    evaluator_module.make_batch = make
    try:
        evaluator = evaluator_module.Evaluator(env_id, [0], num_envs)
    finally:
        evaluator_module.make_batch = batch_module.make_batch
    sizes = (evaluator.obs_dim, 256, 256, len(evaluator.action_low))
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, n**-0.5, (n, m)).astype(np.float32) for n, m in itertools.pairwise(sizes)]

    @jax.jit
    def act(obs: jax.Array) -> jax.Array:
        for weight in weights[:-1]:
            obs = jax.nn.relu(obs @ weight)
        return jnp.tanh(obs @ weights[-1])

    return lambda: int(evaluator.evaluate(act).lengths.sum())


def compare(ways: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Steps per second of each of two ways, and how much faster the first one is."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    cpu_rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(_REPEATS.value + 1):
        for name, run in ways.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            count = run()
            if repeat:  # the first one warms up
                rates[name].append(count / (time.perf_counter() - start))
                cpu_rates[name].append(count / (time.process_time() - cpu_start))
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    return {**medians, "speedup": _median_ratio(rates), "cpu_speedup": _median_ratio(cpu_rates)}


def _median_ratio(rates: dict[str, list[float]]) -> float:
    return round(statistics.median(a / b for a, b in zip(*rates.values(), strict=True)), 2)


def main(argv: list[str]) -> None:
    """Compares the two ways in every environment."""
    del argv
    num_envs, results = _NUM_ENVS.value, {}
    for env_id in _ENVS.value:
        batch = make_batch(env_id, num_envs)
        rng = np.random.default_rng(0)
        shape = (_STEPS.value, num_envs, *batch.action_low.shape)
        actions = rng.uniform(batch.action_low, batch.action_high, shape).astype(np.float32)
        one_by_one = step_vector(env_id, actions)
        stepping = compare({"batch": step_batch(batch, actions), "sync_vector_env": one_by_one})
        results[env_id] = {
            "stepping": {**stepping, "limit": limit(one_by_one)},
            "evaluate": compare(
                {
                    "batch": evaluate(env_id, num_envs, make_batch),
                    "sync_vector_env": evaluate(env_id, num_envs, make_gymnasium),
                }
            ),
        }
        batch.close()
        print(env_id, results[env_id], flush=True)
    result = {
        "command": " ".join(["python -m benchmarks.speed.evaluation", *sys.argv[1:]]),
        "device": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": {"jax": jax.__version__, **environment.versions(), "python": platform.python_version()},
        "load_average_at_the_end": os.getloadavg(),
        "num_envs": num_envs,
        "agent_steps_per_second": results,
    }
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    report.start(main)
