"""The probabilistic ensemble: networks of one step, fitted side by side (PETS; MBPO; MOPO).

Each network maps a state and an action to a Gaussian over displacement and reward. They are fitted on
bootstrap samples of the data and each keeps its own best epoch. At each step of a roll-out one of the
elites, the networks with the lowest held-out errors, is drawn and gives the sample; the uncertainty is of all
networks.

As in OfflineRL-Kit but for two things: every network has its own bounds of the log-variance (there they are
shared), with the bounds' weight divided among the networks, which keeps its balance with the data; and the
held-out data are whole episodes, as for every model here.
"""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from adm_jax.config.models import EnsembleConfig
from adm_jax.dynamics.interface import Dynamics, HoldoutErrors, ModelParams
from adm_jax.dynamics.prediction import (
    holdout_errors,
    masked_mean,
    normalize_action,
    normalize_obs,
    predict,
)
from adm_jax.nn import gaussian
from adm_jax.nn.layers import truncated_normal_init
from adm_jax.nn.precision import matmul
from adm_jax.types import Array, Key, Normalizer, Prediction, Segment, Window

MAX_LOGVAR_INIT, MIN_LOGVAR_INIT = 0.5, -10.0


class EnsembleParams(NamedTuple):
    """Learned parameters; every leaf begins with the networks' axis U."""

    weights: tuple[Array, ...]  # [U, in, out] of each layer
    biases: tuple[Array, ...]  # [U, out]
    min_logvar: Array  # [U, D + 1]
    max_logvar: Array  # [U, D + 1]


class _Spec(NamedTuple):
    """What is static about a model."""

    obs_dim: int
    action_dim: int
    config: EnsembleConfig


def make_ensemble(obs_dim: int, action_dim: int, config: EnsembleConfig) -> Dynamics:
    """The probabilistic ensemble for observations [B, D] and actions [B, A]."""
    spec = _Spec(obs_dim, action_dim, config)
    return Dynamics(
        init=partial(_init, spec),
        loss=partial(_loss, spec),
        validate=partial(_validate, spec),
        finalise=partial(_elites_first, spec),
        begin=_begin,
        step=partial(_step, spec),
        max_backtrack=1,
        loss_all_backtracks=False,
        num_networks=config.num_networks,
        num_drawn=config.num_elites,
        uncertainties=(
            *("max_aleatoric", "max_deviation", "std_of_means", "sample_std_of_means", "total_variance"),
        ),
    )


def _init(spec: _Spec, key: Key, normalizer: Normalizer) -> ModelParams:
    config, num_outputs = spec.config, spec.obs_dim + 1
    hidden = [config.model_hidden_dim] * config.num_hidden_layers
    widths = [spec.obs_dim + spec.action_dim, *hidden, 2 * num_outputs]
    keys = jax.random.split(key, len(widths) - 1)
    weights = [
        truncated_normal_init(fan_in)(layer_key, (config.num_networks, fan_in, fan_out), jnp.float32)
        for layer_key, fan_in, fan_out in zip(keys, widths[:-1], widths[1:], strict=True)
    ]
    learned = EnsembleParams(
        weights=tuple(weights),
        biases=tuple(jnp.zeros((config.num_networks, fan_out), jnp.float32) for fan_out in widths[1:]),
        min_logvar=jnp.full((config.num_networks, num_outputs), MIN_LOGVAR_INIT, jnp.float32),
        max_logvar=jnp.full((config.num_networks, num_outputs), MAX_LOGVAR_INIT, jnp.float32),
    )
    return ModelParams(learned, normalizer)


def _forward(params: ModelParams, obs: Array, action: Array) -> tuple[Array, Array]:
    """Mean and log-variance [U, B, D + 1] of displacement and reward, from [U or 1, B, D] and [.., A]."""
    learned, normalizer = params
    x = jnp.concatenate([normalize_obs(normalizer, obs), normalize_action(normalizer, action)], axis=-1)
    x = jnp.broadcast_to(x, (learned.min_logvar.shape[0], *x.shape[1:]))
    for weight, bias in zip(learned.weights[:-1], learned.biases[:-1], strict=True):
        x = jax.nn.swish(matmul(x, weight) + bias[:, None])
    mean, logvar = jnp.split(matmul(x, learned.weights[-1]) + learned.biases[-1][:, None], 2, axis=-1)
    return mean, jax.vmap(gaussian.soft_clamp)(logvar, learned.min_logvar, learned.max_logvar)


def _predict_segment(params: ModelParams, segment: Segment) -> tuple[Array, Array, Array, Array]:
    """Means, log-variances, targets [U, B, D + 1] and valid [U, B] of segments [U or 1, B, ...]."""
    mean, logvar = _forward(params, segment.obs[:, :, 0], segment.action[:, :, 0])
    displacement = segment.obs[:, :, 1] - segment.obs[:, :, 0]
    target = jnp.concatenate([displacement, segment.reward[:, :, :1]], axis=-1)
    valid = jnp.broadcast_to(segment.valid[:, :, 0], mean.shape[:2])
    return mean, logvar, jnp.broadcast_to(target, mean.shape), valid


def _loss(spec: _Spec, params: ModelParams, segment: Segment, key: Key) -> tuple[Array, dict[str, Array]]:
    """Summed over the networks, as each has parameters of its own; segments [U, B, ...]."""
    del key  # nothing is drawn
    config, learned = spec.config, params.learned
    chex.assert_shape(segment.obs, (config.num_networks, None, 2, spec.obs_dim))
    mean, logvar, target, valid = _predict_segment(params, segment)
    nll = masked_mean(gaussian.nll(mean, logvar, target), valid)  # [U]
    bounds = (learned.max_logvar.sum() - learned.min_logvar.sum()) / config.num_networks
    decay = sum(
        0.5 * rate * jnp.square(weight).sum()
        for rate, weight in zip(config.weight_decays, learned.weights, strict=True)
    )
    return nll.sum() + config.logvar_bound_coef * bounds + decay, {"model/train_nll": nll.mean()}


def _validate(spec: _Spec, params: ModelParams, segment: Segment) -> HoldoutErrors:
    chex.assert_shape(segment.obs, (None, 2, spec.obs_dim))
    errors = holdout_errors(*_predict_segment(params, jax.tree.map(lambda x: x[None], segment)))
    return HoldoutErrors(errors.mse[:, None], errors.nll[:, None])


def _elites_first(spec: _Spec, best: ModelParams, holdout: Segment) -> ModelParams:
    """The networks in the order of their held-out squared errors."""
    order = jnp.argsort(_validate(spec, best, holdout).mse[:, 0])  # NaN comes last
    return best._replace(learned=jax.tree.map(lambda x: x[order], best.learned))


def _begin(params: ModelParams, window: Window) -> tuple[()]:
    del params, window  # one step looks no further back
    return ()


def _step(
    spec: _Spec, params: ModelParams, carry: tuple[()], obs: Array, action: Array, key: Key, batch_key: Key
) -> tuple[tuple[()], Prediction]:
    chex.assert_shape(obs, (None, spec.obs_dim))
    chex.assert_shape(action, (obs.shape[0], spec.action_dim))
    unit_key, sample_key = jax.random.split(key)
    mean, logvar = _forward(params, obs[None], action[None])
    mean = mean.at[..., :-1].add(obs[None])
    config, valid = spec.config, jnp.ones(mean.shape[:2], bool)
    unit_key = batch_key if config.shared_unit else unit_key
    return carry, predict(mean, logvar, valid, unit_key, sample_key, config.shared_unit, config.num_elites)
