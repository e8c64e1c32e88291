"""The any-step dynamics model (ADM, ICLR 2025).

The model predicts ``s_{t+k}`` and the k-th reward from ``s_t`` and the k actions between: the start
state is joined to every action before a GRU, whose last hidden state a residual head turns into a
Gaussian over the displacement ``s_{t+k} - s_t`` and the reward (section 3.1; architecture of the
authors' code).

In a roll-out the m predictions of Algorithm 1 come from m *streams*, one for each start state. A step
starts a new stream at the current observation and advances all of them with the same action in one
batched GRU call, which costs m cell steps where encoding each history anew costs m (m + 1) / 2.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from adm_jax.config.models import RecurrentConfig
from adm_jax.dynamics import recurrent
from adm_jax.dynamics.interface import Dynamics, ModelParams
from adm_jax.dynamics.prediction import normalize_action, normalize_obs
from adm_jax.dynamics.recurrent import Spec
from adm_jax.nn import gru
from adm_jax.types import Array, Key, Prediction, Segment, Window


class Streams(NamedTuple):
    """The m - 1 youngest streams, newest first: the stream at index ``u`` started ``u + 1`` steps ago."""

    hidden: tuple[Array, ...]  # L of [m - 1, B, W]
    start_obs: Array  # [m - 1, B, D]
    valid: Array  # [m - 1, B] bool


def make_adm(obs_dim: int, action_dim: int, config: RecurrentConfig) -> Dynamics:
    """The any-step dynamics model for observations [B, D] and actions [B, A]."""
    spec = recurrent.make_spec(obs_dim, action_dim, config)
    return recurrent.assemble(spec, _predict_segment, _begin, _step)


def _predict_segment(
    spec: Spec, params: ModelParams, segment: Segment, dropout_key: Key | None, all_lengths: bool
) -> tuple[Array, Array, Array, Array]:
    """Means, log-variances, targets [K', B, D + 1] and valid [K', B]; K' is K, or 1 for the last k."""
    learned, normalizer = params
    obs = normalize_obs(normalizer, segment.obs[:, 0])
    action = jnp.moveaxis(normalize_action(normalizer, segment.action), 1, 0)
    inputs = jnp.concatenate([jnp.broadcast_to(obs, (*action.shape[:2], spec.obs_dim)), action], axis=-1)
    hidden = gru.unroll(learned.gru, inputs)
    first = 0 if all_lengths else hidden.shape[0] - 1
    mean, logvar = recurrent.decode(spec, learned, hidden[first:], dropout_key)
    displacement = segment.obs[:, 1:] - segment.obs[:, :1]
    target = jnp.concatenate([displacement, segment.reward[..., None]], axis=-1)
    return mean, logvar, jnp.moveaxis(target, 1, 0)[first:], segment.valid.T[first:]


def _advance(
    spec: Spec, params: ModelParams, streams: Streams, obs: Array, action: Array
) -> tuple[Streams, Array]:
    """Starts a stream at ``obs`` [B, D], advances all with ``action`` [B, A]; also top hidden states."""
    start_obs = jnp.concatenate([obs[None], streams.start_obs])
    valid = jnp.concatenate([jnp.ones((1, obs.shape[0]), bool), streams.valid])
    action = normalize_action(params.normalizer, action)
    action = jnp.broadcast_to(action, (*start_obs.shape[:2], spec.action_dim))
    inputs = jnp.concatenate([normalize_obs(params.normalizer, start_obs), action], axis=-1)
    hidden = gru.step(params.learned.gru, streams.hidden, inputs, fused=spec.fused)
    return Streams(hidden, start_obs, valid), hidden[-1]


def _begin(spec: Spec, params: ModelParams, window: Window) -> Streams:
    num_rows, history = window.valid.shape
    chex.assert_shape(window.obs, (num_rows, spec.config.max_backtrack - 1, spec.obs_dim))
    streams = Streams(
        recurrent.no_states(spec, num_rows),
        jnp.zeros((0, num_rows, spec.obs_dim)),
        jnp.zeros((0, num_rows), bool),
    )
    # unrolled, as the number of streams grows with the history
    for i in range(history):
        streams, _ = _advance(spec, params, streams, window.obs[:, i], window.action[:, i])
    return streams._replace(valid=window.valid.T[::-1])


def _step(
    spec: Spec, params: ModelParams, carry: Streams, obs: Array, action: Array, key: Key, batch_key: Key
) -> tuple[Streams, Prediction]:
    chex.assert_shape(obs, (None, spec.obs_dim))
    chex.assert_shape(action, (obs.shape[0], spec.action_dim))
    streams, top = _advance(spec, params, carry, obs, action)
    prediction = recurrent.predict_streams(
        spec, params.learned, top, streams.start_obs, streams.valid, key, batch_key
    )
    return jax.tree.map(lambda x: x[:-1], streams), prediction
