"""Termination functions: what ends an episode in the model, as pure functions of the predicted state.

Each takes ``next_obs [..., D]`` float32 and gives ``terminated [...]`` bool. The default ones are exactly
Gymnasium's v4 environments' ``not is_healthy`` as far as the observation tells: velocities in it are clipped
to +-10, so that Hopper's bound of 100 can be seen to be broken by angles only. A state that is not finite
counts as terminated: nothing may be rolled out from it.

``*_authors`` are what the ADM authors' code does instead, kept to compare with it.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from adm_jax.types import Array, InputError

TerminationFn = Callable[[Array], Array]  # next_obs [..., D] -> terminated [...]


def _above(x: Array, bound: float) -> Array:
    """``x > bound`` as if in float64, where Gymnasium compares.

    In float32 the bound itself would be rounded: 0.8 upwards, and the least healthy height would be lost.
    """
    least = np.float32(bound)
    if float(least) <= bound:
        least = np.nextafter(least, np.float32(np.inf))
    return x >= least


def _inside(x: Array, low: float, high: float) -> Array:
    """``low < x < high`` as if in float64; False for NaN."""
    return _above(x, low) & _above(-x, -high)


def _finite(next_obs: Array) -> Array:
    return jnp.isfinite(next_obs).all(axis=-1)


def hopper(next_obs: Array) -> Array:
    """Hopper-v4: height in (0.7, inf), angle in (-0.2, 0.2), everything behind the height in (-100, 100)."""
    healthy = _above(next_obs[..., 0], 0.7) & _inside(next_obs[..., 1], -0.2, 0.2)
    bounded = _inside(next_obs[..., 1:], -100.0, 100.0).all(axis=-1)
    return ~(healthy & bounded & _finite(next_obs))


def walker2d(next_obs: Array) -> Array:
    """Walker2d-v4: height in (0.8, 2), angle in (-1, 1)."""
    healthy = _inside(next_obs[..., 0], 0.8, 2.0) & _inside(next_obs[..., 1], -1.0, 1.0)
    return ~(healthy & _finite(next_obs))


def halfcheetah(next_obs: Array) -> Array:
    """HalfCheetah-v4 never terminates."""
    return ~_finite(next_obs)


def hopper_authors(next_obs: Array) -> Array:
    """As ``hopper``, but the bracket of ``abs(x) < 100`` misplaced as ``abs(x < 100)``: no lower bound."""
    healthy = _above(next_obs[..., 0], 0.7) & _inside(next_obs[..., 1], -0.2, 0.2)
    bounded = _above(-next_obs[..., 1:], -100.0).all(axis=-1)
    return ~(healthy & bounded & _finite(next_obs))


def walker2d_authors(next_obs: Array) -> Array:
    """As ``walker2d``, but a state that is not finite lives as long as its height and angle are healthy."""
    return ~(_inside(next_obs[..., 0], 0.8, 2.0) & _inside(next_obs[..., 1], -1.0, 1.0))


def halfcheetah_authors(next_obs: Array) -> Array:
    """Terminates where any dimension leaves (-100, 100), which the environment does not."""
    return ~_inside(next_obs, -100.0, 100.0).all(axis=-1)


TERMINATIONS: Mapping[str, TerminationFn] = {
    fn.__name__: fn
    for fn in (hopper, walker2d, halfcheetah, hopper_authors, walker2d_authors, halfcheetah_authors)
}


def get_termination(name: str) -> TerminationFn:
    """The termination function of that name.

    Raises:
      InputError: there is none; the message lists the known names.
    """
    if name not in TERMINATIONS:
        raise InputError(f"termination: {name!r} is unknown; one of {', '.join(TERMINATIONS)}")
    return TERMINATIONS[name]
