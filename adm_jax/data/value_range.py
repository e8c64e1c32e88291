"""How far the data reach, and what of a model's predictions lies far outside."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from adm_jax.types import Array, Prediction


class ValueRange(NamedTuple):
    """The data's range of observations and rewards, widened; a constant."""

    obs_low: Array | np.ndarray  # [D]
    obs_high: Array | np.ndarray  # [D]
    reward_low: Array | np.ndarray  # []
    reward_high: Array | np.ndarray  # []


def value_range_of(obs: np.ndarray, next_obs: np.ndarray, reward: np.ndarray) -> ValueRange:
    """That of observations [..., D], twice, and rewards [...], on the host.

    Least and largest value, and half of what lies between them beyond each. What does not vary is widened as
    if its width were 1, as its deviation is 1 where observations are standardised: data say nothing of its
    scale, and every model is off by some rounding.
    """
    observed = [x.reshape(-1, x.shape[-1]) for x in (obs, next_obs)]
    lowest = np.minimum(*(x.min(axis=0) for x in observed))
    highest = np.maximum(*(x.max(axis=0) for x in observed))
    return ValueRange(*_widen(lowest, highest), *_widen(reward.min(), reward.max()))


def _widen(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    width = np.where(high > low, high - low, 1.0)
    largest = np.finfo(np.float32).max
    low, high = np.maximum(low - 0.5 * width, -largest), np.minimum(high + 0.5 * width, largest)
    return low.astype(np.float32), high.astype(np.float32)


def is_within(values: ValueRange | None, obs: Array) -> Array:
    """Whether every dimension of observations [B, D] lies within the range, [B] bool; without one it does."""
    if values is None:
        return jnp.ones(obs.shape[:-1], bool)
    return ((obs >= values.obs_low[None]) & (obs <= values.obs_high[None])).all(axis=-1)


def clip(values: ValueRange, prediction: Prediction) -> Prediction:
    """The prediction with its samples moved into the range; those that are not finite stay as they are."""

    def moved(sample: Array, low: Array | np.ndarray, high: Array | np.ndarray) -> Array:
        return jnp.where(jnp.isfinite(sample), jnp.clip(sample, low, high), sample)

    next_obs = moved(prediction.next_obs, values.obs_low[None], values.obs_high[None])
    reward = moved(prediction.reward, values.reward_low, values.reward_high)
    return prediction._replace(next_obs=next_obs, reward=reward)
