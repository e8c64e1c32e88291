"""Uncertainties of a prediction: functions of the spread of its units, [U, B, D + 1] to [B].

The reward's dimension takes no part unless stated. Units that are not valid are left out.
"""

from collections.abc import Callable

import jax.numpy as jnp

from adm_jax.types import Array, Prediction


def _mean_and_variance(prediction: Prediction) -> tuple[Array, Array, Array]:
    """Mean [B, D] and population variance [B, D] of the valid units' means; their weights [U, B, 1]."""
    means = prediction.means[..., :-1]
    weight = prediction.valid.astype(means.dtype)
    weight = (weight / jnp.maximum(weight.sum(axis=0, keepdims=True), 1.0))[..., None]
    center = jnp.sum(weight * means, axis=0)
    return center, jnp.sum(weight * jnp.square(means - center[None]), axis=0), weight


def std_of_means(prediction: Prediction) -> Array:
    """``sqrt(mean over dims of Var_k(mean_k))`` [B]: the penalty of the authors' code.

    The published penalty coefficients belong to this form. One valid unit gives zero.
    """
    _, variance, _ = _mean_and_variance(prediction)
    return jnp.sqrt(variance.mean(axis=-1))


def sample_std_of_means(prediction: Prediction) -> Array:
    """``std_of_means`` with the unbiased variance, over M - 1 instead of M: the penalty of ADM-v2's code."""
    count = prediction.valid.sum(axis=0).astype(prediction.means.dtype)
    return std_of_means(prediction) * jnp.sqrt(count / jnp.maximum(count - 1.0, 1.0))


def total_variance(prediction: Prediction) -> Array:
    """L1 norm over dims of ``E_k[sigma_k^2] + Var_k[mu_k]`` [B]: Eq. 4 of the ADM paper."""
    _, variance, weight = _mean_and_variance(prediction)
    aleatoric = jnp.sum(weight * jnp.exp(prediction.logvars[..., :-1]), axis=0)
    return jnp.sum(aleatoric + variance, axis=-1)


def max_aleatoric(prediction: Prediction) -> Array:
    """Largest over units of the L2 norm of the predicted standard deviations [B]: MOPO's penalty.

    The reward's deviation takes part here (MOPO, Yu et al., 2020; OfflineRL-Kit's ``aleatoric``).
    """
    norm = jnp.linalg.norm(jnp.exp(0.5 * prediction.logvars), axis=-1)  # [U, B]
    return jnp.max(jnp.where(prediction.valid, norm, 0.0), axis=0)


def max_deviation(prediction: Prediction) -> Array:
    """Largest over units of the L2 distance of a unit's mean from the mean of all units [B].

    OfflineRL-Kit's ``pairwise-diff``. One valid unit gives zero.
    """
    center, _, _ = _mean_and_variance(prediction)
    distance = jnp.linalg.norm(prediction.means[..., :-1] - center[None], axis=-1)  # [U, B]
    return jnp.max(jnp.where(prediction.valid, distance, 0.0), axis=0)


UNCERTAINTIES: dict[str, Callable[[Prediction], Array]] = {
    "std_of_means": std_of_means,
    "sample_std_of_means": sample_std_of_means,
    "total_variance": total_variance,
    "max_aleatoric": max_aleatoric,
    "max_deviation": max_deviation,
}
