"""The any-step dynamics model (ADM, ICLR 2025).

The model predicts ``s_{t+k}`` and the k-th reward from ``s_t`` and the k actions between: the start
state is joined to every action before a GRU, whose last hidden state a residual head turns into a
Gaussian over the displacement ``s_{t+k} - s_t`` and the reward (section 3.1; architecture of the
authors' code).

In a roll-out the m predictions of Algorithm 1 come from m *streams*, one for each start state. A step
starts a new stream at the current observation and advances all of them with the same action in one
batched GRU call, which costs m cell steps where encoding each history anew costs m (m + 1) / 2.
"""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from adm_jax.config import DynamicsConfig
from adm_jax.dynamics.interface import Dynamics, HoldoutErrors, ModelParams
from adm_jax.nn import gaussian, gru
from adm_jax.nn.layers import ResidualHead, apply
from adm_jax.types import Array, Key, Normalizer, Params, Prediction, Segment, Window

MAX_LOGVAR_INIT, MIN_LOGVAR_INIT = 0.5, -10.0


class ADMParams(NamedTuple):
    """Learned parameters of the network."""

    gru: gru.GRUParams
    head: Params
    min_logvar: Array  # [D + 1]
    max_logvar: Array  # [D + 1]


class Streams(NamedTuple):
    """The m - 1 youngest streams, newest first: the stream at index ``u`` started ``u + 1`` steps ago."""

    hidden: Array  # [L, m - 1, B, W]
    start_obs: Array  # [m - 1, B, D]
    valid: Array  # [m - 1, B] bool


class _Spec(NamedTuple):
    """What is static about a model."""

    obs_dim: int
    action_dim: int
    config: DynamicsConfig
    head: ResidualHead


def make_adm(obs_dim: int, action_dim: int, config: DynamicsConfig) -> Dynamics:
    """The any-step dynamics model for observations [B, D] and actions [B, A]."""
    head = ResidualHead(2 * (obs_dim + 1), config.num_residual_blocks, config.dropout_rate)
    spec = _Spec(obs_dim, action_dim, config, head)
    return Dynamics(
        init=partial(_init, spec),
        loss=partial(_loss, spec),
        validate=partial(_validate, spec),
        finalise=lambda best, holdout: best,
        begin=partial(_begin, spec),
        step=partial(_step, spec),
        max_backtrack=config.max_backtrack,
        loss_all_backtracks=config.backtrack_sampling == "all",
    )


def _init(spec: _Spec, key: Key, normalizer: Normalizer) -> ModelParams:
    width, num_outputs = spec.config.model_hidden_dim, spec.obs_dim + 1
    gru_key, head_key = jax.random.split(key)
    learned = ADMParams(
        gru=gru.init(gru_key, spec.obs_dim + spec.action_dim, width, spec.config.num_gru_layers),
        head=spec.head.init(head_key, jnp.zeros((1, width))),
        min_logvar=jnp.full((num_outputs,), MIN_LOGVAR_INIT, jnp.float32),
        max_logvar=jnp.full((num_outputs,), MAX_LOGVAR_INIT, jnp.float32),
    )
    return ModelParams(learned, normalizer)


def _decode(spec: _Spec, learned: ADMParams, hidden: Array, dropout_key: Key | None) -> tuple[Array, Array]:
    """Top hidden states [..., W] to mean and log-variance [..., D + 1] of displacement and reward."""
    out = apply(spec.head, learned.head, hidden, dropout_key, deterministic=dropout_key is None)
    mean, logvar = jnp.split(out, 2, axis=-1)
    return mean, gaussian.soft_clamp(logvar, learned.min_logvar, learned.max_logvar)


def _predict_segment(
    spec: _Spec, params: ModelParams, segment: Segment, dropout_key: Key | None, all_lengths: bool
) -> tuple[Array, Array, Array, Array]:
    """Means, log-variances, targets [K', B, D + 1] and valid [K', B]; K' is K, or 1 for the last k."""
    learned, normalizer = params
    obs = normalize_obs(normalizer, segment.obs[:, 0])
    action = jnp.moveaxis(normalize_action(normalizer, segment.action), 1, 0)
    inputs = jnp.concatenate([jnp.broadcast_to(obs, (*action.shape[:2], spec.obs_dim)), action], axis=-1)
    hidden = gru.unroll(learned.gru, inputs)
    first = 0 if all_lengths else hidden.shape[0] - 1
    mean, logvar = _decode(spec, learned, hidden[first:], dropout_key)
    displacement = segment.obs[:, 1:] - segment.obs[:, :1]
    target = jnp.concatenate([displacement, segment.reward[..., None]], axis=-1)
    return mean, logvar, jnp.moveaxis(target, 1, 0)[first:], segment.valid.T[first:]


def _loss(spec: _Spec, params: ModelParams, segment: Segment, key: Key) -> tuple[Array, dict[str, Array]]:
    dropout_key = key if spec.config.dropout_rate > 0 else None
    all_lengths = spec.config.backtrack_sampling == "all"
    mean, logvar, target, valid = _predict_segment(spec, params, segment, dropout_key, all_lengths)
    nll = masked_mean(gaussian.nll(mean, logvar, target), valid).mean()  # each k weighs the same (Eq. 2)
    bounds = params.learned.max_logvar.sum() - params.learned.min_logvar.sum()
    return nll + spec.config.logvar_bound_coef * bounds, {"model/train_nll": nll}


def _validate(spec: _Spec, params: ModelParams, segment: Segment) -> HoldoutErrors:
    mean, logvar, target, valid = _predict_segment(spec, params, segment, None, True)
    squared_error = jnp.mean(jnp.square(mean - target), axis=-1)
    nll = gaussian.nll(mean, logvar, target)
    return HoldoutErrors(masked_mean(squared_error, valid)[None], masked_mean(nll, valid)[None])


def _advance(
    spec: _Spec, params: ModelParams, streams: Streams, obs: Array, action: Array
) -> tuple[Streams, Array]:
    """Starts a stream at ``obs`` [B, D], advances all with ``action`` [B, A]; also top hidden states."""
    num_rows, (num_layers, *_, width) = obs.shape[0], streams.hidden.shape
    fresh = jnp.zeros((num_layers, 1, num_rows, width))
    hidden = jnp.concatenate([fresh, streams.hidden], axis=1)
    start_obs = jnp.concatenate([obs[None], streams.start_obs])
    valid = jnp.concatenate([jnp.ones((1, num_rows), bool), streams.valid])
    action = normalize_action(params.normalizer, action)
    action = jnp.broadcast_to(action, (*start_obs.shape[:2], spec.action_dim))
    inputs = jnp.concatenate([normalize_obs(params.normalizer, start_obs), action], axis=-1)
    hidden, top = gru.step(params.learned.gru, hidden, inputs)
    return Streams(hidden, start_obs, valid), top


def _begin(spec: _Spec, params: ModelParams, window: Window) -> Streams:
    num_rows, history = window.valid.shape
    chex.assert_shape(window.obs, (num_rows, spec.config.max_backtrack - 1, spec.obs_dim))
    streams = Streams(
        jnp.zeros((spec.config.num_gru_layers, 0, num_rows, spec.config.model_hidden_dim)),
        jnp.zeros((0, num_rows, spec.obs_dim)),
        jnp.zeros((0, num_rows), bool),
    )
    # unrolled, as the number of streams grows with the history
    for i in range(history):
        streams, _ = _advance(spec, params, streams, window.obs[:, i], window.action[:, i])
    return streams._replace(valid=window.valid.T[::-1])


def _step(
    spec: _Spec, params: ModelParams, carry: Streams, obs: Array, action: Array, key: Key, batch_key: Key
) -> tuple[Streams, Prediction]:
    config = spec.config
    chex.assert_shape(obs, (None, spec.obs_dim))
    chex.assert_shape(action, (obs.shape[0], spec.action_dim))
    backtrack_key, sample_key, dropout_key = jax.random.split(key, 3)
    streams, top = _advance(spec, params, carry, obs, action)
    use_dropout = config.rollout_dropout and config.dropout_rate > 0
    mean, logvar = _decode(spec, params.learned, top, dropout_key if use_dropout else None)
    mean = mean.at[..., :-1].add(streams.start_obs)
    unit_key = batch_key if config.shared_backtrack else backtrack_key
    chosen = draw_unit(streams.valid, unit_key, config.shared_backtrack)
    sample = gaussian.sample(take_unit(mean, chosen), take_unit(logvar, chosen), sample_key)
    prediction = Prediction(sample[:, :-1], sample[:, -1], mean, logvar, streams.valid)
    kept = Streams(streams.hidden[:, :-1], streams.start_obs[:-1], streams.valid[:-1])
    return kept, prediction


def normalize_obs(normalizer: Normalizer, obs: Array) -> Array:
    """Observations [..., D] in units of the dataset's standard deviation."""
    shape = (1,) * (obs.ndim - 1) + (-1,)
    return (obs - normalizer.obs_mean.reshape(shape)) / normalizer.obs_std.reshape(shape)


def normalize_action(normalizer: Normalizer, action: Array) -> Array:
    """Actions [..., A] in units of the dataset's standard deviation."""
    shape = (1,) * (action.ndim - 1) + (-1,)
    return (action - normalizer.action_mean.reshape(shape)) / normalizer.action_std.reshape(shape)


def masked_mean(values: Array, valid: Array) -> Array:
    """Mean over the last axis of the valid entries, [..., B] to [...]; zero where none is valid."""
    chex.assert_equal_shape([values, valid])
    count = jnp.maximum(valid.sum(axis=-1), 1).astype(values.dtype)
    return jnp.sum(jnp.where(valid, values, 0.0), axis=-1) / count


def draw_unit(valid: Array, key: Key, shared: bool) -> Array:
    """A uniform draw [B] among each row's valid units; ``valid`` [U, B] is True for a prefix of the units."""
    num_valid = valid.sum(axis=0)
    uniform = jax.random.uniform(key, () if shared else num_valid.shape)
    return jnp.minimum((uniform * num_valid.astype(uniform.dtype)).astype(jnp.int32), num_valid - 1)


def take_unit(values: Array, chosen: Array) -> Array:
    """Each row's chosen unit: values [U, B, E], chosen [B] to [B, E]."""
    return jnp.take_along_axis(values, chosen[None, :, None], axis=0)[0]
