"""Diagonal Gaussians with learned bounds on the log-variance (PETS; Chua et al., 2018)."""

import jax
import jax.numpy as jnp

from adm_jax.types import Array, Key


def soft_clamp(logvar: Array, min_logvar: Array, max_logvar: Array) -> Array:
    """Keeps ``logvar`` [..., D] between learned bounds [D] by two softplus."""
    shape = (1,) * (logvar.ndim - 1) + (-1,)
    low, high = min_logvar.reshape(shape), max_logvar.reshape(shape)
    logvar = high - jax.nn.softplus(high - logvar)
    return low + jax.nn.softplus(logvar - low)


def nll(mean: Array, logvar: Array, target: Array) -> Array:
    """Mean over dimensions of ``(y - mu)^2 exp(-logvar) + logvar``: [..., D] thrice to [...].

    Twice the negative log-density per dimension without its constant log(2 pi): the form in
    which the authors' code and the ensembles of MBPO report their loss.
    """
    if not mean.shape == logvar.shape == target.shape:
        raise ValueError(f"shapes differ: mean {mean.shape}, logvar {logvar.shape}, target {target.shape}")
    return jnp.mean(jnp.square(target - mean) * jnp.exp(-logvar) + logvar, axis=-1)


def sample(mean: Array, logvar: Array, key: Key) -> Array:
    """A sample of the Gaussian, [..., D]."""
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)
