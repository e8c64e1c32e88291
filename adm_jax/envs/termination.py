"""Termination functions: what ends an episode in the model, as pure functions of the predicted state.

Each takes ``next_obs [..., D]`` float32 and gives ``terminated [...]`` bool. The default ones are exactly
Gymnasium's v4 environments' ``not is_healthy`` as far as the observation tells: velocities in it are clipped
to +-10, so that Hopper's bound of 100 can be seen to be broken by angles only. A state that is not finite
counts as terminated: nothing may be rolled out from it.

``*_authors`` are what the ADM authors' code does instead, kept to compare with it. Users add their own as
``module:function``.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from adm_jax.config.references import is_reference
from adm_jax.envs.user_functions import load_user_function
from adm_jax.types import Array, InputError

TerminationFn = Callable[[Array], Array]  # next_obs [..., D] -> terminated [...]


def _above(x: Array, bound: float, *, or_equal: bool = False) -> Array:
    """``x > bound`` as if in float64, where Gymnasium compares; False for NaN.

    In float32 the bound itself would be rounded: 0.8 upwards, and the least healthy height would be lost.
    """
    least = np.float32(bound)
    if float(least) < bound or (float(least) == bound and not or_equal):
        least = np.nextafter(least, np.float32(np.inf))
    return x >= least


def _at_least(x: Array, bound: float) -> Array:
    return _above(x, bound, or_equal=True)


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


def never(next_obs: Array) -> Array:
    """No state ends an episode."""
    return ~_finite(next_obs)


def halfcheetah(next_obs: Array) -> Array:
    """HalfCheetah-v4 never terminates."""
    return never(next_obs)


def neorl_hopper(next_obs: Array) -> Array:
    """As ``hopper``, behind an x position that only has to be finite."""
    return hopper(next_obs[..., 1:]) | ~_finite(next_obs)


def neorl_walker2d(next_obs: Array) -> Array:
    """As ``walker2d``, behind an x position that only has to be finite."""
    return walker2d(next_obs[..., 1:]) | ~_finite(next_obs)


def ant(next_obs: Array) -> Array:
    """Ant-v4 without x and y: height in [0.2, 1], its bounds included."""
    healthy = _at_least(next_obs[..., 0], 0.2) & _at_least(-next_obs[..., 0], -1.0)
    return ~(healthy & _finite(next_obs))


def humanoid(next_obs: Array) -> Array:
    """Humanoid-v4 without x and y: height in (1, 2)."""
    return ~(_inside(next_obs[..., 0], 1.0, 2.0) & _finite(next_obs))


def inverted_pendulum(next_obs: Array) -> Array:
    """InvertedPendulum-v4: angle in [-0.2, 0.2], its bounds included."""
    healthy = _at_least(next_obs[..., 1], -0.2) & _at_least(-next_obs[..., 1], -0.2)
    return ~(healthy & _finite(next_obs))


def pen(next_obs: Array) -> Array:
    """The pen has been dropped: its height lies below 0.075 m, as D4RL's pen ends (index 26).

    Gymnasium-Robotics' AdroitHandPen-v1 goes on until its time limit, at a reward lower by 5 a step.
    """
    return ~(_at_least(next_obs[..., 26], 0.075) & _finite(next_obs))


def antmaze(next_obs: Array) -> Array:
    """The ant is at its goal, within 0.45 m: Gymnasium-Robotics' AntMaze as an episodic task.

    The observation is flattened: achieved goal (x, y), then desired goal (x, y), then the ant. (The authors'
    code, for D4RL's own mazes, compares x and y with a goal written down for each maze, within 0.25.)
    """
    offset = next_obs[..., 0:2] - next_obs[..., 2:4]
    return (jnp.square(offset).sum(axis=-1) <= 0.45**2) | ~_finite(next_obs)


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


def neorl_walker2d_authors(next_obs: Array) -> Array:
    """As ``neorl_walker2d``, but everything behind the angle must lie in (-100, 100) as well."""
    bounded = _inside(next_obs[..., 3:], -100.0, 100.0).all(axis=-1)
    return ~bounded | walker2d_authors(next_obs[..., 1:])


_BUILTIN = (
    hopper, walker2d, halfcheetah, neorl_hopper, neorl_walker2d, ant, humanoid, inverted_pendulum, pen,
    antmaze, never, hopper_authors, walker2d_authors, halfcheetah_authors, neorl_walker2d_authors,
)  # fmt: skip
TERMINATIONS: Mapping[str, TerminationFn] = {fn.__name__: fn for fn in _BUILTIN}


def get_termination(name: str, obs_dim: int | None = None) -> TerminationFn:
    """The termination function of that name, or the user's that ``module:function`` names.

    It is tried on zeros [2, D] where ``obs_dim`` is given. Raises InputError: there is none (the message
    lists the known names), it reads entries that such an observation lacks, or the user's does not serve.
    """
    if is_reference(name):
        return load_user_function(name, "termination", () if obs_dim is None else (obs_dim,), bool)
    if name not in TERMINATIONS:
        raise InputError(
            f"termination: {name!r} is unknown; one of {', '.join(TERMINATIONS)}; or module:function"
        )
    if obs_dim is not None:
        try:  # on an array of NumPy's: JAX reads the last entry for one that is not there
            TERMINATIONS[name](np.zeros((2, obs_dim), np.float32))  # pyright: ignore[reportArgumentType]
        except (IndexError, TypeError, ValueError) as error:
            raise InputError(
                f"termination: {name} reads entries that observations of {obs_dim} dimensions lack"
            ) from error
    return TERMINATIONS[name]
