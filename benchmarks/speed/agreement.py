"""Whether a device computes what the CPU does, before anything is timed on it.

The same random numbers, parameters and data: a step of roll-outs, histories and penalty included, and the
gradients of one SAC update, each once on the device in the precision that is timed and once on this machine's
CPU in float32. Differences are of Euclidean norms: that of the difference, over that of the CPU's values.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from adm_jax.nn.precision import matmul_precision
from adm_jax.types import InputError
from benchmarks.speed import measure, workload
from benchmarks.speed.options import Options

# Inputs have 24, 11 and 8 bits of mantissa; what passes a GRU, a head and a penalty loses some of them.
ALLOWED = {"float32": 1e-3, "tensorfloat32": 2e-2, "bfloat16": 1e-1}
_STARTS = 500


def run(options: Options) -> dict[str, Any]:
    """Differences by name, the largest of them, and what the precision allows."""
    precision, device = measure.resolved_precision(), jax.devices()[0]
    result: dict[str, Any] = {"device": device.device_kind, "precision": precision}
    if device.platform == "cpu" and precision == "float32":
        return {**result, "left_out": "the device is the CPU, in float32: what others are compared with"}
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError as error:
        return {**result, "left_out": f"JAX has no CPU beside it (JAX_PLATFORMS): {error}".splitlines()[0]}
    small = dataclasses.replace(
        options,
        rollout_batch_size=min(_STARTS, options.rollout_batch_size or _STARTS),
        rollout_length=1,  # no row ends before another begins: the same rows are at the same places
        updates=1,
    )
    found = results(small)
    with jax.default_device(cpu), matmul_precision("float32"):
        expected = results(small)
    differences = {name: difference(found[name], expected[name]) for name in expected}
    return {
        **result,
        "reference": "cpu, float32",
        "allowed": ALLOWED.get(precision, max(ALLOWED.values())),
        "largest_relative_difference": max(differences.values()),
        "differences": differences,
    }


def require(result: dict[str, Any]) -> None:
    """Raises InputError: the device's numbers are not the CPU's, and its speed would mean nothing."""
    if "left_out" in result:
        return
    name, largest = max(result["differences"].items(), key=lambda item: item[1])
    if not largest <= result["allowed"]:
        raise InputError(
            f"agreement: {name} on {result['device']} in {result['precision']} differs from the CPU's by "
            f"{largest:.2g} of its size, more than {result['allowed']:g}; nothing is timed"
        )


def results(options: Options) -> dict[str, np.ndarray]:
    """What a roll-out and an update of two seeds give on JAX's default device."""
    work = workload.prepare(options, 2)
    job = workload.rollout_job(work, workload.initial_state(work), None)
    (buffer, _), _ = workload.compile_job(job)[0](*job.args)
    rows = jax.tree.map(lambda x: np.asarray(x)[:, : options.rollout_batch_size], buffer.data)
    job = workload.update_job(work, workload.initial_state(work, full_buffer=True))
    agent, _ = workload.compile_job(job)[0](*job.args)
    return {
        "rollout/action": rows.action,
        "rollout/reward": rows.reward,
        "rollout/displacement": rows.next_obs - rows.obs,
        # Adam's first moments after one update are the gradients; parameters have but their signs
        "update/actor_gradient": _moments(agent.actor_opt),
        "update/critic_gradient": _moments(agent.critic_opt),
    }


def _moments(state: Any) -> np.ndarray:
    leaves = [
        x for path, x in jax.tree_util.tree_leaves_with_path(state) if ".mu" in jax.tree_util.keystr(path)
    ]
    return np.concatenate([np.asarray(x).ravel() for x in leaves])


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The norm of the difference over that of what is expected; infinite where one isn't finite."""
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    size = float(np.linalg.norm(expected.astype(np.float64)))
    missed = float(np.linalg.norm(found.astype(np.float64) - expected))
    return missed / size if size else (float("inf") if missed else 0.0)
