"""The tanh-squashed Gaussian policy head; the one place that touches distrax.

``log_prob`` of a given action is not offered: inverting tanh is NaN near its ends. Sample and
log-density are always taken together.
"""

import distrax
import jax
import jax.numpy as jnp

from adm_jax.types import Array, Key

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


def _split(head: Array) -> tuple[Array, Array]:
    mean, log_std = jnp.split(head, 2, axis=-1)
    return mean, jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)


def mode(head: Array, action_scale: float) -> Array:
    """``tanh(mean)`` scaled: head [..., 2 A] to action [..., A]."""
    return jnp.tanh(_split(head)[0]) * action_scale


def sample_and_log_prob(head: Array, key: Key, action_scale: float) -> tuple[Array, Array]:
    """A reparametrised action [..., A], scaled likewise, and its log-density [...]."""
    mean, log_std = _split(head)
    normal = distrax.MultivariateNormalDiag(mean, jnp.exp(log_std))
    squashed = distrax.Transformed(normal, distrax.Block(distrax.Tanh(), 1))
    with jax.numpy_rank_promotion("allow"):  # distrax adds a sample axis and leans on promotion
        action, log_prob = squashed.sample_and_log_prob(seed=key)
    return action * action_scale, jnp.asarray(log_prob) - mean.shape[-1] * jnp.log(action_scale)
