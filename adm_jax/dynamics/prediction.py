"""What dynamics models have in common: normalised inputs, masked errors, the draw among units."""

import chex
import jax
import jax.numpy as jnp

from adm_jax.dynamics.interface import HoldoutErrors
from adm_jax.nn import gaussian
from adm_jax.types import Array, Key, Normalizer, Prediction


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


def holdout_errors(mean: Array, logvar: Array, target: Array, valid: Array) -> HoldoutErrors:
    """Errors [...] of predictions [..., B, D + 1] whose rows are ``valid`` [..., B]."""
    squared_error = jnp.mean(jnp.square(mean - target), axis=-1)
    nll = gaussian.nll(mean, logvar, target)
    return HoldoutErrors(masked_mean(squared_error, valid), masked_mean(nll, valid))


def predict(
    means: Array,
    logvars: Array,
    valid: Array,
    unit_key: Key,
    sample_key: Key,
    shared: bool,
    num_drawn: int | None = None,
) -> Prediction:
    """The prediction of all units, with a sample of one of them.

    Args:
      means: [U, B, D + 1] of next observation and reward.
      logvars: [U, B, D + 1].
      valid: [U, B]; of each row a prefix of the units, which holds the first.
      unit_key: draws the unit.
      sample_key: draws from its Gaussian.
      shared: one unit for the whole batch, not one per row.
      num_drawn: the sample comes from one of the first ``num_drawn`` units; any when None.
    """
    chosen = draw_unit(valid[:num_drawn], unit_key, shared)
    sample = gaussian.sample(take_unit(means, chosen), take_unit(logvars, chosen), sample_key)
    return Prediction(sample[:, :-1], sample[:, -1], means, logvars, valid)


def draw_unit(valid: Array, key: Key, shared: bool) -> Array:
    """A uniform draw [B] among each row's valid units; ``valid`` [U, B] is True for a prefix of the units."""
    num_valid = valid.sum(axis=0)
    uniform = jax.random.uniform(key, () if shared else num_valid.shape)
    return jnp.minimum((uniform * num_valid.astype(uniform.dtype)).astype(jnp.int32), num_valid - 1)


def take_unit(values: Array, chosen: Array) -> Array:
    """Each row's chosen unit: values [U, B, E], chosen [B] to [B, E]."""
    return jnp.take_along_axis(values, chosen[None, :, None], axis=0)[0]
