"""The bootstrapping recurrent model: what ADM's network is without any-step prediction (ADM-v2's RDM).

The network is ADM's, but it reads the state at every step of the history, true ones in fitting, and predicts
the displacement from the last of them. With histories of k = 1..m steps a roll-out has m predictions of each
next state, as ADM has; but every one of them stands on the model's own predictions.

In a roll-out the m histories are m *streams*, as in ``adm_jax.dynamics.adm``: each step starts one and
advances all with the same state and action, in one batched GRU call.
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


class Histories(NamedTuple):
    """The m - 1 youngest streams, newest first: the one at index ``u`` has read ``u + 1`` states."""

    hidden: tuple[Array, ...]  # L of [m - 1, B, W]
    valid: Array  # [m - 1, B] bool


def make_bootstrapped_rnn(obs_dim: int, action_dim: int, config: RecurrentConfig) -> Dynamics:
    """The bootstrapping recurrent model for observations [B, D] and actions [B, A]."""
    spec = recurrent.make_spec(obs_dim, action_dim, config)
    return recurrent.assemble(spec, _predict_segment, _begin, _step)


def _inputs(params: ModelParams, obs: Array, action: Array) -> Array:
    """What the GRU reads [..., D + A]."""
    normalizer = params.normalizer
    return jnp.concatenate([normalize_obs(normalizer, obs), normalize_action(normalizer, action)], axis=-1)


def _predict_segment(
    spec: Spec, params: ModelParams, segment: Segment, dropout_key: Key | None, all_lengths: bool
) -> tuple[Array, Array, Array, Array]:
    """One-step predictions after histories of true states: see recurrent.assemble."""
    inputs = _inputs(params, segment.obs[:, :-1], segment.action)
    hidden = gru.unroll(params.learned.gru, jnp.moveaxis(inputs, 1, 0))
    first = 0 if all_lengths else hidden.shape[0] - 1
    mean, logvar = recurrent.decode(spec, params.learned, hidden[first:], dropout_key)
    displacement = segment.obs[:, 1:] - segment.obs[:, :-1]
    target = jnp.concatenate([displacement, segment.reward[..., None]], axis=-1)
    return mean, logvar, jnp.moveaxis(target, 1, 0)[first:], segment.valid.T[first:]


def _advance(
    spec: Spec, params: ModelParams, histories: Histories, obs: Array, action: Array
) -> tuple[Histories, Array]:
    """Starts a stream and lets all read ``obs`` [B, D] and ``action`` [B, A]; also top hidden states."""
    valid = jnp.concatenate([jnp.ones((1, obs.shape[0]), bool), histories.valid])
    inputs = jnp.broadcast_to(_inputs(params, obs, action), (*valid.shape, spec.obs_dim + spec.action_dim))
    hidden = gru.step(params.learned.gru, histories.hidden, inputs, fused=spec.fused)
    return Histories(hidden, valid), hidden[-1]


def _begin(spec: Spec, params: ModelParams, window: Window) -> Histories:
    config, (num_rows, length) = spec.config, window.valid.shape
    chex.assert_shape(window.obs, (num_rows, config.max_backtrack - 1, spec.obs_dim))
    histories = Histories(recurrent.no_states(spec, num_rows), jnp.zeros((0, num_rows), bool))
    # unrolled, as the number of streams grows with the history
    for i in range(length):
        histories, _ = _advance(spec, params, histories, window.obs[:, i], window.action[:, i])
    return histories._replace(valid=window.valid.T[::-1])


def _step(
    spec: Spec, params: ModelParams, carry: Histories, obs: Array, action: Array, key: Key, batch_key: Key
) -> tuple[Histories, Prediction]:
    chex.assert_shape(obs, (None, spec.obs_dim))
    chex.assert_shape(action, (obs.shape[0], spec.action_dim))
    histories, top = _advance(spec, params, carry, obs, action)
    prediction = recurrent.predict_streams(
        spec, params.learned, top, obs[None], histories.valid, key, batch_key
    )
    return jax.tree.map(lambda x: x[:-1], histories), prediction
