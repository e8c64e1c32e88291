"""Environments that live in a dynamics model: roll-outs of an episode's length that go on from call to call.

Full-horizon policy optimisation (ADM-v2's ADM2PO-fh) steps a few thousand of them a few steps at a time. One
that has ended begins anew at a state of the dataset; its history is gathered from a pool that is encoded once
a call, as encoding histories for every environment at every step would triple the cost.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adm_jax.data.dataset import Dataset, gather_windows, sample_starts
from adm_jax.dynamics.histories import RowLayout, encode_rows, from_flat, row_layouts
from adm_jax.dynamics.interface import Carry, Dynamics, ModelParams
from adm_jax.rollout import (
    ReturnsFn,
    Rollout,
    Rows,
    Simulation,
    Taken,
    means_of,
    over_steps,
    roll,
    sums_of,
    take_step,
)
from adm_jax.types import Array, Key, Transition


class ModelEnvs(NamedTuple):
    """C chunks of B environments; the carry is laid out as the model has it."""

    carry: Carry  # leaves [C, ..., B, ...]
    obs: Array  # [C, B, D]
    num_steps: Array  # [C, B] int32, since the episode began
    ended: Array  # [C, B] bool: begins anew with the next step


def init(dynamics: Dynamics, params: ModelParams, dataset: Dataset, num_envs: int, chunk: int) -> ModelEnvs:
    """At least ``num_envs`` environments in whole chunks, none of which has begun."""
    num_chunks, rows = -(-num_envs // chunk), jnp.zeros((chunk,), jnp.int32)

    def begin() -> tuple[Carry, Array]:
        window, obs = gather_windows(dataset, rows, dynamics.max_backtrack)
        return dynamics.begin(params, window), obs

    carry, obs = jax.tree.map(lambda x: jnp.zeros((num_chunks, *x.shape), x.dtype), jax.eval_shape(begin))
    shape = (num_chunks, chunk)
    return ModelEnvs(carry, obs, jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool))


def _restart(envs: ModelEnvs, pool: Carry, obs: Array, starts: Array, layouts: Carry, key: Key) -> ModelEnvs:
    """A chunk whose ended environments begin anew, at any of ``starts`` [E], rows of ``obs`` and the pool."""
    chunk, ended = envs.ended.shape[0], envs.ended
    drawn = jax.random.randint(key, (chunk,), 0, starts.shape[0])

    def choose(new: Array, old: Array, axis: int) -> Array:
        shape = [chunk if i == axis else 1 for i in range(old.ndim)]
        return jnp.where(ended.reshape(shape), new, old)

    def begun(new: Array, old: Array, layout: RowLayout) -> Array:
        return choose(new, old, layout.axis)

    fresh = from_flat(jax.tree.map(lambda x: x[drawn], pool), layouts)
    return ModelEnvs(
        jax.tree.map(begun, fresh, envs.carry, layouts),
        choose(obs[starts[drawn]], envs.obs, 0),
        jnp.where(ended, 0, envs.num_steps),
        jnp.zeros((chunk,), bool),
    )


def advance(
    simulation: Simulation,
    envs: ModelEnvs,
    dataset: Dataset,
    key: Key,
    *,
    num_envs: int,
    length: int,
    horizon: int,
    min_history: int | None = None,
    returns_fn: ReturnsFn | None = None,
) -> tuple[ModelEnvs, Rollout]:
    """Takes ``length`` steps in every environment.

    An episode ends where its next state terminates, with a step that is not finite, which is not kept, or
    after ``horizon`` steps, which is no termination.

    Args:
      simulation: the policy and the model.
      envs: of ``init``, or of the call before.
      dataset: where episodes begin, at any of its states that has the history.
      key: consumed.
      num_envs: E; further ones only fill the last chunk up.
      length: steps.
      horizon: steps of an episode at most.
      min_history: transitions before a start at least; m - 1 when None.
      returns_fn: makes multi-step transitions of a call's steps; one step each when None.

    Returns ``(envs, rollout)``; the rollout's rows are R = C * length * B.
    """
    dynamics, params = simulation.dynamics, simulation.params
    num_chunks, chunk = envs.ended.shape
    pool_key, batch_key, chunks_key = jax.random.split(key, 3)
    starts = sample_starts(dataset, pool_key, num_envs, dynamics.max_backtrack, min_history)
    pool = encode_rows(dynamics, params, dataset, starts, chunk)
    layouts = row_layouts(dynamics, params, dataset)

    def run_chunk(envs: ModelEnvs, index: Array) -> tuple[ModelEnvs, tuple[Taken, Array, Transition]]:
        chunk_key = jax.random.fold_in(chunks_key, index)
        exists = index * chunk + jnp.arange(chunk) < num_envs

        def step(envs: ModelEnvs, number: Array) -> tuple[ModelEnvs, tuple[Taken, Array, Array]]:
            reset_key, step_key = jax.random.split(jax.random.fold_in(chunk_key, number))
            envs = _restart(envs, pool, dataset.transitions.obs, starts, layouts, reset_key)
            rows = Rows(envs.carry, envs.obs, exists)
            rows, taken = take_step(simulation, rows, step_key, jax.random.fold_in(batch_key, number))
            num_steps = envs.num_steps + 1
            ended = ~rows.alive | (num_steps >= horizon)
            return ModelEnvs(rows.carry, rows.obs, num_steps, ended), (taken, num_steps, ended)

        envs, (taken, num_steps, ended) = roll(step, envs, length)
        continues = taken.kept[1:] & ~ended[:-1]
        transitions = over_steps(returns_fn, taken.transition, continues, chunk_key, length)
        return envs, (taken, num_steps, transitions)

    envs, rows = jax.lax.map(lambda chunk: run_chunk(*chunk), (envs, jnp.arange(num_chunks)))
    taken, num_steps, transitions = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), rows)
    metrics = means_of(sums_of(taken), jnp.asarray(num_envs * length, jnp.float32))
    step_of_episode = jnp.where(taken.kept, num_steps, 0.0).sum() / jnp.maximum(taken.kept.sum(), 1)
    return envs, Rollout(transitions, taken.kept, {**metrics, "rollout/episode_step": step_of_episode})
