"""The network that ADM and its relatives share: a GRU, a residual head, bounds of the log-variance.

They differ in what the GRU reads and begins with, and in the state that the predicted displacement starts
from.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adm_jax.config.models import RecurrentConfig
from adm_jax.dynamics.interface import Carry, Dynamics, HoldoutErrors, ModelParams
from adm_jax.dynamics.prediction import holdout_errors, masked_mean, predict
from adm_jax.nn import gaussian, gru
from adm_jax.nn.layers import ResidualHead, apply
from adm_jax.nn.precision import product_dtype
from adm_jax.types import Array, Key, Normalizer, Params, Prediction, Segment, Window

MAX_LOGVAR_INIT, MIN_LOGVAR_INIT = 0.5, -10.0


class RecurrentParams(NamedTuple):
    """Learned parameters of the network."""

    gru: gru.GRUParams
    head: Params
    min_logvar: Array  # [D + 1]
    max_logvar: Array  # [D + 1]
    encoder: Params | None = None  # of a model whose hidden states begin at an encoding of the state


class Spec(NamedTuple):
    """What is static about a model."""

    obs_dim: int
    action_dim: int
    config: RecurrentConfig
    head: ResidualHead

    @property
    def fused(self) -> bool:
        """Whether roll-outs have kernels of their own."""
        return self.config.fused_kernels == "on"


PredictSegment = Callable[[Spec, ModelParams, Segment, Key | None, bool], tuple[Array, Array, Array, Array]]


def make_spec(obs_dim: int, action_dim: int, config: RecurrentConfig) -> Spec:
    """The network for observations [B, D] and actions [B, A]."""
    head = ResidualHead(2 * (obs_dim + 1), config.num_residual_blocks, config.dropout_rate)
    return Spec(obs_dim, action_dim, config, head)


def init_params(spec: Spec, key: Key, gru_inputs: int, head_inputs: int) -> RecurrentParams:
    """Parameters that have not seen data, of networks with inputs of these sizes; no encoder."""
    width, num_outputs = spec.config.model_hidden_dim, spec.obs_dim + 1
    gru_key, head_key = jax.random.split(key)
    return RecurrentParams(
        gru=gru.init(gru_key, gru_inputs, width, spec.config.num_gru_layers),
        head=spec.head.init(head_key, jnp.zeros((1, head_inputs))),
        min_logvar=jnp.full((num_outputs,), MIN_LOGVAR_INIT, jnp.float32),
        max_logvar=jnp.full((num_outputs,), MAX_LOGVAR_INIT, jnp.float32),
    )


def _init(spec: Spec, key: Key, normalizer: Normalizer) -> ModelParams:
    """The GRU reads an observation and an action, the head its last hidden state."""
    width = spec.config.model_hidden_dim
    return ModelParams(init_params(spec, key, spec.obs_dim + spec.action_dim, width), normalizer)


def decode(
    spec: Spec, learned: RecurrentParams, hidden: Array, dropout_key: Key | None, fused: bool = False
) -> tuple[Array, Array]:
    """What the head reads, [..., W], to mean and log-variance [..., D + 1] of displacement and reward.

    Without dropout it can have ``fused`` kernels, and no gradient then.
    """
    out = apply(spec.head, learned.head, hidden, dropout_key, deterministic=dropout_key is None, fused=fused)
    mean, logvar = jnp.split(out, 2, axis=-1)
    return mean, gaussian.soft_clamp(logvar, learned.min_logvar, learned.max_logvar)


def no_states(spec: Spec, num_rows: int) -> tuple[Array, ...]:
    """Each layer's hidden states [0, B, W] of no streams, of the type that those of roll-outs have.

    With kernels of their own that is what products round them to; others would have to convert them.
    """
    shape = (0, num_rows, spec.config.model_hidden_dim)
    dtype = product_dtype() if spec.fused else jnp.float32
    return (jnp.zeros(shape, dtype),) * spec.config.num_gru_layers


def assemble(
    spec: Spec,
    predict_segment: PredictSegment,
    begin: Callable[[Spec, ModelParams, Window], Carry],
    step: Callable[[Spec, ModelParams, Carry, Array, Array, Key, Key], tuple[Carry, Prediction]],
    init: Callable[[Spec, Key, Normalizer], ModelParams] = _init,
) -> Dynamics:
    """The model of a network: what it predicts on segments, and its streams.

    Args:
      spec: the network.
      predict_segment: ``(spec, params, segment, dropout_key, all_lengths)`` to means, log-variances, targets
        [K', B, D + 1] and valid [K', B]; K' is the segment's length K, or 1 for its last step alone.
      begin: see Dynamics.
      step: see Dynamics.
      init: see Dynamics.
    """
    all_lengths = spec.config.backtrack_sampling == "all"

    def loss(params: ModelParams, segment: Segment, key: Key) -> tuple[Array, dict[str, Array]]:
        dropout_key = key if spec.config.dropout_rate > 0 else None
        mean, logvar, target, valid = predict_segment(spec, params, segment, dropout_key, all_lengths)
        nll = masked_mean(gaussian.nll(mean, logvar, target), valid).mean()  # each k weighs the same (Eq. 2)
        bounds = params.learned.max_logvar.sum() - params.learned.min_logvar.sum()
        return nll + spec.config.logvar_bound_coef * bounds, {"model/train_nll": nll}

    def validate(params: ModelParams, segment: Segment) -> HoldoutErrors:
        errors = holdout_errors(*predict_segment(spec, params, segment, None, True))
        return HoldoutErrors(errors.mse[None], errors.nll[None])

    # one prediction has no spread
    spread = ("std_of_means", "sample_std_of_means", "max_deviation") if spec.config.streams > 1 else ()
    return Dynamics(
        init=partial(init, spec),
        loss=loss,
        validate=validate,
        finalise=lambda best, holdout: best,
        begin=partial(begin, spec),
        step=partial(step, spec),
        max_backtrack=spec.config.max_backtrack,
        loss_all_backtracks=all_lengths,
        uncertainties=(*spread, "total_variance", "max_aleatoric"),
    )


def predict_streams(
    spec: Spec, learned: RecurrentParams, top: Array, origin: Array, valid: Array, key: Key, batch_key: Key
) -> Prediction:
    """The prediction of streams.

    Args:
      spec: the network.
      learned: its parameters.
      top: what the head reads of each, [m, B, W].
      origin: what each stream's displacement is added to, [m or 1, B, D].
      valid: [m, B].
      key: of these rows.
      batch_key: of the whole batch.
    """
    config = spec.config
    unit_key, sample_key, dropout_key = jax.random.split(key, 3)
    use_dropout = config.rollout_dropout and config.dropout_rate > 0
    mean, logvar = decode(spec, learned, top, dropout_key if use_dropout else None, spec.fused)
    mean = mean.at[..., :-1].add(origin)
    unit_key = batch_key if config.shared_unit else unit_key
    return predict(mean, logvar, valid, unit_key, sample_key, config.shared_unit)
