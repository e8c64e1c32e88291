"""Arrays' names and the shapes they travel in.

Axes, in the order they are written everywhere: ``P`` population, ``m`` maximum
backtracking length, ``B`` batch, ``H`` roll-out length, ``D`` observation
dimension, ``A`` action dimension, ``W`` hidden width, ``L`` GRU layers, ``U``
units of a dynamics model (backtracking lengths, or networks of an ensemble).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax

Array = jax.Array
Key = jax.Array  # a typed key made by jax.random.key
Params = Any  # a pytree of learned arrays
MatmulPrecision = Literal["default", "float32", "tensorfloat32", "bfloat16"]


class InputError(ValueError):
    """Something a user gave is wrong; the message is one line that says what would be right."""


class EnvSpec(NamedTuple):
    """Which real environment: how it is made, and what of its observation is kept."""

    env_id: str  # Gymnasium's
    kwargs: Mapping[str, Any] = MappingProxyType({})  # of gymnasium.make
    # a whole gymnasium EnvSpec, as Minari stores it, less its maker, which is the registered one; env_id and
    # kwargs say the same
    spec_json: str | None = None
    obs_limit: int | None = None  # the first entries of the observation that are kept; all when None
    # of a dictionary observation (nested ones as "a/b"), in the order they are joined; () all, as it has them
    obs_keys: tuple[str, ...] = ()


class Transition(NamedTuple):
    """A batch of transitions ``(s, a, r, s', terminated)``."""

    obs: Array  # [..., D] float32
    action: Array  # [..., A] float32
    reward: Array  # [...] float32
    next_obs: Array  # [..., D] float32
    terminated: Array  # [...] bool; a time limit is not a termination
    discount: Array | None = None  # [...] float32, of the next observation's value; None: gamma, one step


class Segment(NamedTuple):
    """Training slices of K consecutive transitions inside one episode."""

    obs: Array  # [B, K + 1, D]
    action: Array  # [B, K, A]
    reward: Array  # [B, K]
    valid: Array  # [B, K] bool; False past the episode's end


class Window(NamedTuple):
    """Histories of up to m - 1 real transitions that lead to the state a roll-out begins at.

    The entry at index ``i`` lies ``m - 1 - i`` steps before the current state, so a short
    history is padded in front.
    """

    obs: Array  # [B, m - 1, D]
    action: Array  # [B, m - 1, A]
    valid: Array  # [B, m - 1] bool; False before the episode's start


class Normalizer(NamedTuple):
    """Per-dimension mean and standard deviation of observations and actions; a constant."""

    obs_mean: Array  # [D]
    obs_std: Array  # [D]
    action_mean: Array  # [A]
    action_std: Array  # [A]


class Prediction(NamedTuple):
    """What a dynamics model says about one step of B rows.

    ``means`` and ``logvars`` are Gaussians over (next observation, reward) in the
    environment's units, one per unit; units that are not ``valid`` (a backtracking length
    longer than the history) take no part in the sample nor in the uncertainty.
    """

    next_obs: Array  # [B, D] sampled
    reward: Array  # [B] sampled
    means: Array  # [U, B, D + 1]
    logvars: Array  # [U, B, D + 1]
    valid: Array  # [U, B] bool
