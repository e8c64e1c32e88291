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
import jax.numpy as jnp
import numpy as np

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


_UNBOUNDED = 1e30  # a bound as large is none: the largest float32 often stands for infinity
_NO_CHOICE = 1e-30  # bounds that are closer leave one action


class ActionBounds(NamedTuple):
    """The lowest and the highest action of an environment: A finite float32 numbers each, ``low < high``.

    Data, dynamics models and whatever a user sees have actions in the environment's units. Agents alone
    normalise them, for their networks: to within +-1 in every dimension, unless the bounds are one +-b, where
    actions stay as they are.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, low: np.ndarray, high: np.ndarray, whose: str) -> "ActionBounds":
        """Those of a Box [A], in float32: one +-b rounded to the nearest number, others inwards.

        ``whose`` they are is for messages, as "environment Hopper-v4". Raises InputError: a dimension is
        unbounded, or has but one action.
        """
        for i in np.flatnonzero(~is_bounded(low, high)):
            raise InputError(
                f"{whose}: its actions are unbounded (action[{i}] lies within [{low[i]}, {high[i]}]); a "
                "policy needs a Box with a finite low and high"
            )
        bottom, top = np.asarray(low, np.float32), np.asarray(high, np.float32)
        if not (np.all(top == top[0]) and np.all(bottom == -top[0])):
            bottom = np.where(bottom < low, np.nextafter(bottom, np.float32(np.inf)), bottom)
            top = np.where(top > high, np.nextafter(top, np.float32(-np.inf)), top)
        for i in np.flatnonzero(top.astype(np.float64) - bottom < _NO_CHOICE):
            raise InputError(
                f"{whose}: its action[{i}] lies within [{low[i]}, {high[i]}], which leaves no choice in "
                "float32; a policy needs a Box with low below high in every dimension"
            )
        return cls(tuple(bottom.tolist()), tuple(top.tolist()))

    @classmethod
    def symmetric(cls, bound: float, action_dim: int) -> "ActionBounds":
        """One +-bound in all dimensions."""
        return cls((-bound,) * action_dim, (bound,) * action_dim)

    @property
    def action_dim(self) -> int:
        """A."""
        return len(self.low)

    @property
    def is_symmetric(self) -> bool:
        """Whether the bounds are one +-b in all dimensions."""
        return self == self.symmetric(self.high[0], self.action_dim)

    @property
    def scale(self) -> float:
        """Normalised actions lie within +-scale."""
        return self.high[0] if self.is_symmetric else 1.0

    def is_close(self, other: "ActionBounds") -> bool:
        """Whether bounds of the same dimension A are these but for rounding."""
        tolerance = 1e-5 * np.subtract(self.high, self.low)
        return bool((np.abs(np.subtract(self, other)) <= tolerance).all())

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """``low`` and ``high``, [A] float32 each."""
        return np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)

    def normalize(self, action: Array) -> Array:
        """Actions [..., A] of the environment as networks see them."""
        if self.is_symmetric:
            return action
        middle, half = self._middle_and_half(action.ndim)
        return (action - middle) / half

    def denormalize(self, action: Array) -> Array:
        """Normalised actions [..., A] as the environment takes them; rounding leaves none outside."""
        if self.is_symmetric:
            return action
        middle, half = self._middle_and_half(action.ndim)
        low, high = (x.reshape(middle.shape) for x in self.arrays())
        return jnp.clip(middle + half * action, low, high)

    def _middle_and_half(self, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        low, high = (np.reshape(x, (1,) * (ndim - 1) + (-1,)) for x in self)
        middle, half = 0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low
        return middle.astype(np.float32), half.astype(np.float32)

    def __str__(self) -> str:
        """``+-1``, or ``[0, 100]``; where dimensions differ ``[0, 1] x [-1, 1]``."""
        if self.is_symmetric:
            return f"+-{self.scale:g}"
        ranges = [f"[{_shown(low)}, {_shown(high)}]" for low, high in zip(*self, strict=True)]
        return ranges[0] if len(set(ranges)) == 1 else " x ".join(ranges)


def is_bounded(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which dimensions of a Box are bounded, [A] bool."""
    return np.maximum(np.abs(low), np.abs(high)) < _UNBOUNDED


def _shown(bound: float) -> str:
    """A float32 number in six digits, or as many as it takes."""
    short = f"{bound:g}"
    return short if np.float32(short) == np.float32(bound) else str(np.float32(bound))


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
