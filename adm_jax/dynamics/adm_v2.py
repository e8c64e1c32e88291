"""ADM-v2 (ICLR 2026): the state is encoded once into the recurrent state, and actions alone drive it.

An encoder turns ``s_t`` into the first hidden states of a GRU that reads actions only. A decoder turns the
top layer's states before and after the k-th action into a Gaussian over a displacement and the k-th reward,
for every k in 1..m. The displacement is that of one step: the mean is added to the latest state, which the
network does not see (architecture of the authors' code).

The m predictions of a state come from *streams* of different ages, all advanced by one batched GRU call: that
is the parallel any-step roll-out, PARoll. A stream lives m steps. With m streams each step replaces the
oldest; with M < m of them, M steps in a row do and m - M do not.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from adm_jax.config.models import AnyStepV2Config
from adm_jax.dynamics import recurrent
from adm_jax.dynamics.interface import Dynamics, ModelParams
from adm_jax.dynamics.prediction import normalize_action, normalize_obs
from adm_jax.dynamics.recurrent import Spec
from adm_jax.nn import gru
from adm_jax.nn.layers import ResidualHead, apply
from adm_jax.types import Array, Key, Normalizer, Prediction, Segment, Window

Hidden = tuple[Array, ...]  # each layer's [..., W]


class Streams(NamedTuple):
    """The streams that a step finds, newest first: M, or M - 1 with M = m, as the oldest has ended."""

    hidden: Hidden  # L of [S, B, W]
    start_obs: Array | None  # [S, B, D]; None where nothing reads it
    valid: Array  # [S, B] bool
    num_steps: Array | None  # steps since the roll-out began, [B] int32; None with M = m


def make_adm_v2(obs_dim: int, action_dim: int, config: AnyStepV2Config) -> Dynamics:
    """ADM-v2 for observations [B, D] and actions [B, A]."""
    pair = config.decoder_input == "pair"
    head = ResidualHead(
        2 * (obs_dim + 1),
        config.num_residual_blocks,
        config.dropout_rate,
        config.model_hidden_dim if pair else None,
    )
    spec = Spec(obs_dim, action_dim, config, head)
    return recurrent.assemble(spec, _predict_segment, _begin, _step, _init)


def _config(spec: Spec) -> AnyStepV2Config:
    assert isinstance(spec.config, AnyStepV2Config)
    return spec.config


def _encoder(spec: Spec) -> ResidualHead:
    config = _config(spec)
    width = config.model_hidden_dim
    return ResidualHead(
        config.num_gru_layers * width, config.num_encoder_blocks, config.dropout_rate, hidden_dim=width
    )


def _init(spec: Spec, key: Key, normalizer: Normalizer) -> ModelParams:
    config, (encoder_key, key) = _config(spec), jax.random.split(key)
    encodes, width = config.state_input == "encoded", config.model_hidden_dim
    learned = recurrent.init_params(
        spec,
        key,
        gru_inputs=spec.action_dim + (0 if encodes else spec.obs_dim),
        head_inputs=2 * width if config.decoder_input == "pair" else width,
    )
    if encodes:
        learned = learned._replace(encoder=_encoder(spec).init(encoder_key, jnp.zeros((1, spec.obs_dim))))
    return ModelParams(learned, normalizer)


def _encode(
    spec: Spec, params: ModelParams, obs: Array, dropout_key: Key | None = None, fused: bool = False
) -> Hidden:
    """Each layer's first hidden state [..., W] of streams that start at ``obs`` [..., D].

    Without dropout it can have ``fused`` kernels, and no gradient then.
    """
    config, learned = _config(spec), params.learned
    width, num_layers = config.model_hidden_dim, config.num_gru_layers
    if config.state_input == "duplicated":
        return (jnp.zeros((*obs.shape[:-1], width)),) * num_layers
    obs = normalize_obs(params.normalizer, obs)
    hidden = apply(
        _encoder(spec), learned.encoder, obs, dropout_key, deterministic=dropout_key is None, fused=fused
    )
    return tuple(jnp.split(hidden, num_layers, axis=-1))


def _inputs(spec: Spec, params: ModelParams, start_obs: Array | None, action: Array) -> Array:
    """What the GRU reads [S, ..., I]: the action [1, ..., A], joined to every stream's start or alone."""
    action = normalize_action(params.normalizer, action)
    if _config(spec).state_input == "encoded":
        return action
    assert start_obs is not None
    shape = jnp.broadcast_shapes(start_obs.shape[:-1], action.shape[:-1])
    start_obs = normalize_obs(params.normalizer, start_obs)
    return jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in (start_obs, action)], axis=-1)


def _features(spec: Spec, before: Array, after: Array) -> Array:
    """What the decoder reads, of the top hidden states around the last action."""
    return jnp.concatenate([before, after], axis=-1) if _config(spec).decoder_input == "pair" else after


def _predict_segment(
    spec: Spec, params: ModelParams, segment: Segment, dropout_key: Key | None, all_lengths: bool
) -> tuple[Array, Array, Array, Array]:
    """Predictions of every length from a segment's first state: see recurrent.assemble."""
    config, learned = _config(spec), params.learned
    encoder_key, head_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
    start_obs, action = segment.obs[:, 0], jnp.moveaxis(segment.action, 1, 0)
    initial = _encode(spec, params, start_obs, encoder_key)
    after = gru.unroll(learned.gru, _inputs(spec, params, start_obs[None], action), initial)
    before = jnp.concatenate([initial[-1][None], after[:-1]])
    first = 0 if all_lengths else after.shape[0] - 1
    features = _features(spec, before[first:], after[first:])
    mean, logvar = recurrent.decode(spec, learned, features, head_key)
    origin = segment.obs[:, :-1] if config.displacement == "latest" else segment.obs[:, :1]
    target = jnp.concatenate([segment.obs[:, 1:] - origin, segment.reward[..., None]], axis=-1)
    return mean, logvar, jnp.moveaxis(target, 1, 0)[first:], segment.valid.T[first:]


def _admit(spec: Spec, streams: Streams, hidden: Hidden, start_obs: Array) -> Streams:
    """Puts new streams [1, B] in front; where there are M already, the oldest goes."""
    keep = min(streams.valid.shape[0], _config(spec).streams - 1)

    def join(new: Array, old: Array) -> Array:
        return jnp.concatenate([new.astype(old.dtype), old[:keep]])

    return streams._replace(
        hidden=tuple(map(join, hidden, streams.hidden)),
        start_obs=None if streams.start_obs is None else join(start_obs, streams.start_obs),
        valid=join(jnp.ones((1, start_obs.shape[1]), bool), streams.valid),
    )


def _advance(spec: Spec, params: ModelParams, streams: Streams, action: Array) -> tuple[Streams, Array]:
    """Lets all streams read ``action`` [B, A]; also what the decoder reads of them."""
    inputs = _inputs(spec, params, streams.start_obs, action[None])
    hidden = gru.step(params.learned.gru, streams.hidden, inputs, fused=spec.fused)
    return streams._replace(hidden=hidden), _features(spec, streams.hidden[-1], hidden[-1])


def _begin(spec: Spec, params: ModelParams, window: Window) -> Streams:
    config, num_rows = _config(spec), window.valid.shape[0]
    chex.assert_shape(window.obs, (num_rows, config.max_backtrack - 1, spec.obs_dim))
    first = config.max_backtrack - config.streams  # streams start at the last M - 1 states
    obs, action, valid = (jnp.moveaxis(x, 1, 0)[first:] for x in (window.obs, window.action, window.valid))
    starts = _encode(spec, params, obs, fused=spec.fused)
    streams = Streams(
        recurrent.no_states(spec, num_rows),
        jnp.zeros((0, num_rows, spec.obs_dim)) if config.reads_start else None,
        jnp.zeros((0, num_rows), bool),
        jnp.zeros((num_rows,), jnp.int32) if config.streams < config.max_backtrack else None,
    )
    # unrolled, as the number of streams grows with the history
    for i in range(config.streams - 1):
        streams = _admit(spec, streams, tuple(hidden[i][None] for hidden in starts), obs[i][None])
        streams, _ = _advance(spec, params, streams, action[i])
    streams = streams._replace(valid=valid[::-1])
    if streams.num_steps is None:
        return streams
    # one more, which the first step replaces: from then on there are M
    return jax.tree.map(_pad, streams._replace(num_steps=None))._replace(num_steps=streams.num_steps)


def _pad(streams: Array) -> Array:
    """[S, ...] with one more at the end."""
    return jnp.concatenate([streams, jnp.zeros((1, *streams.shape[1:]), streams.dtype)])


def _step(
    spec: Spec, params: ModelParams, carry: Streams, obs: Array, action: Array, key: Key, batch_key: Key
) -> tuple[Streams, Prediction]:
    config = _config(spec)
    chex.assert_shape(obs, (None, spec.obs_dim))
    chex.assert_shape(action, (obs.shape[0], spec.action_dim))
    streams = _admit(spec, carry, _encode(spec, params, obs[None], fused=spec.fused), obs[None])
    if carry.num_steps is not None:
        phase = (carry.num_steps + config.streams - 1) % config.max_backtrack
        admitted = phase < config.streams

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(admitted.reshape(1, -1, *(1,) * (new.ndim - 2)), new, old)

        old, num_steps = carry._replace(num_steps=None), carry.num_steps + 1
        streams = jax.tree.map(choose, streams._replace(num_steps=None), old)._replace(num_steps=num_steps)
    streams, features = _advance(spec, params, streams, action)
    origin = obs[None]
    if config.displacement == "start":
        assert streams.start_obs is not None
        origin = streams.start_obs
    prediction = recurrent.predict_streams(
        spec, params.learned, features, origin, streams.valid, key, batch_key
    )
    if carry.num_steps is None:
        streams = jax.tree.map(lambda x: x[:-1], streams)
    return streams, prediction
