"""Roll-outs of a policy in a dynamics model (ADM paper, Algorithm 1), penalised, in chunks of rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from adm_jax.data.dataset import Dataset, sample_windows
from adm_jax.dynamics.interface import Dynamics, ModelParams
from adm_jax.types import Array, Key, Prediction, Segment, Transition, Window

PolicyFn = Callable[[Array, Key], Array]  # (obs [B, D], key) -> action [B, A]


class Rollout(NamedTuple):
    """Rows of a batch of roll-outs, R = starts x length, in no order that matters."""

    transitions: Transition  # leaves [R, ...]; the reward is penalised
    valid: Array  # [R] bool; False after termination
    metrics: dict[str, Array]


def rollout(
    dynamics: Dynamics,
    params: ModelParams,
    dataset: Dataset,
    policy_fn: PolicyFn,
    termination_fn: Callable[[Array], Array],
    uncertainty_fn: Callable[[Prediction], Array],
    penalty_coef: Array,
    key: Key,
    *,
    num_starts: int,
    length: int,
    chunk: int,
    min_history: int | None = None,
    reward_fn: Callable[[Array, Array, Array], Array] | None = None,
) -> Rollout:
    """Rolls ``policy_fn`` out from ``num_starts`` windows of the dataset for ``length`` steps.

    Rows are rolled out ``chunk`` at a time, which bounds the memory and keeps it in the cache. A row ends
    after the step whose next state terminates; a step that is not finite ends its row and is not kept.

    Args:
      dynamics: the model.
      params: its parameters.
      dataset: where windows are drawn.
      policy_fn: the policy.
      termination_fn: next observations [B, D] to terminated [B].
      uncertainty_fn: a prediction to its uncertainty [B].
      penalty_coef: beta [], reward <- reward - beta * uncertainty.
      key: consumed.
      num_starts: rows.
      length: steps H.
      chunk: rows rolled out at a time.
      min_history: transitions before a start at least; m - 1 when None.
      reward_fn: known reward, (obs [B, D], action [B, A], next_obs [B, D]) to [B]; the model's when None.
    """
    batch_key, chunks_key = jax.random.split(key)

    def run_chunk(index: Array) -> tuple[Transition, Array, Array]:
        window_key, steps_key = jax.random.split(jax.random.fold_in(chunks_key, index))
        window, obs = sample_windows(dataset, window_key, chunk, dynamics.max_backtrack, min_history)
        alive = index * chunk + jnp.arange(chunk) < num_starts  # the last chunk may be padded

        def body(state: tuple[Any, Array, Array], step: Array) -> tuple[Any, tuple[Transition, Array, Array]]:
            carry, obs, alive = state
            policy_key, model_key = jax.random.split(jax.random.fold_in(steps_key, step))
            action = policy_fn(obs, policy_key)
            carry, prediction = dynamics.step(
                params, carry, obs, action, model_key, jax.random.fold_in(batch_key, step)
            )
            uncertainty = uncertainty_fn(prediction)
            reward = prediction.reward if reward_fn is None else reward_fn(obs, action, prediction.next_obs)
            chex.assert_equal_shape([reward, uncertainty])
            reward = reward - penalty_coef * uncertainty
            terminated = termination_fn(prediction.next_obs)
            kept = alive & jnp.isfinite(prediction.next_obs).all(axis=-1) & jnp.isfinite(reward)
            row = Transition(obs, action, reward, prediction.next_obs, terminated)
            next_obs = jnp.where(kept[:, None], prediction.next_obs, obs)
            return (carry, next_obs, kept & ~terminated), (row, kept, uncertainty)

        start = (dynamics.begin(params, window), obs, alive)
        return jax.lax.scan(body, start, jnp.arange(length))[1]

    rows = jax.lax.map(run_chunk, jnp.arange(-(-num_starts // chunk)))
    transitions, valid, uncertainty = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), rows)
    return Rollout(transitions, valid, _metrics(transitions, valid, uncertainty, num_starts * length))


def _metrics(transitions: Transition, valid: Array, uncertainty: Array, num_rows: int) -> dict[str, Array]:
    """Means over the valid rows."""
    return {
        "rollout/valid_fraction": valid.sum().astype(jnp.float32) / num_rows,
        "rollout/uncertainty": _mean(uncertainty, valid),
        "rollout/penalized_reward": _mean(transitions.reward, valid),
        "rollout/terminated_fraction": _mean(transitions.terminated.astype(jnp.float32), valid),
    }


def open_loop(dynamics: Dynamics, params: ModelParams, segment: Segment, key: Key) -> Array:
    """Sampled next observations [B, K, D] on a segment's recorded actions, each fed back to the model.

    They start at the segment's first state, with no history before it.
    """
    num_rows, history = segment.obs.shape[0], dynamics.max_backtrack - 1
    window = Window(
        obs=jnp.zeros((num_rows, history, segment.obs.shape[-1])),
        action=jnp.zeros((num_rows, history, segment.action.shape[-1])),
        valid=jnp.zeros((num_rows, history), bool),
    )

    def body(state: tuple[Any, Array], xs: tuple[Array, Key]) -> tuple[tuple[Any, Array], Array]:
        carry, obs = state
        action, step_key = xs
        model_key, batch_key = jax.random.split(step_key)
        carry, prediction = dynamics.step(params, carry, obs, action, model_key, batch_key)
        return (carry, prediction.next_obs), prediction.next_obs

    actions = jnp.moveaxis(segment.action, 1, 0)
    start = (dynamics.begin(params, window), segment.obs[:, 0])
    _, next_obs = jax.lax.scan(body, start, (actions, jax.random.split(key, len(actions))))
    return jnp.moveaxis(next_obs, 0, 1)


def open_loop_errors(dynamics: Dynamics, params: ModelParams, segment: Segment, key: Key) -> Array:
    """Mean squared error [K] of the next observation after 1..K predictions fed back, over valid rows.

    In the environment's units, averaged over dimensions; NaN for a length that no row has.
    """
    error = jnp.square(open_loop(dynamics, params, segment, key) - segment.obs[:, 1:]).mean(axis=-1)
    return jnp.mean(error, axis=0, where=segment.valid)


def _mean(values: Array, valid: Array) -> Array:
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(valid.sum().astype(values.dtype), 1.0)
