"""The network that ADM and its relatives share: a GRU, a residual head, bounds of the log-variance.

They differ in what the GRU reads and in the state that the predicted displacement starts from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adm_jax.config import RecurrentConfig
from adm_jax.dynamics.interface import ModelParams
from adm_jax.dynamics.prediction import masked_mean
from adm_jax.nn import gaussian, gru
from adm_jax.nn.layers import ResidualHead, apply
from adm_jax.types import Array, Key, Normalizer, Params

MAX_LOGVAR_INIT, MIN_LOGVAR_INIT = 0.5, -10.0


class RecurrentParams(NamedTuple):
    """Learned parameters of the network."""

    gru: gru.GRUParams
    head: Params
    min_logvar: Array  # [D + 1]
    max_logvar: Array  # [D + 1]


class Spec(NamedTuple):
    """What is static about a model."""

    obs_dim: int
    action_dim: int
    config: RecurrentConfig
    head: ResidualHead

    @property
    def uncertainties(self) -> tuple[str, ...]:
        """With one backtracking length there is no spread."""
        spread = ("std_of_means", "max_deviation") if self.config.max_backtrack > 1 else ()
        return (*spread, "total_variance", "max_aleatoric")


def make_spec(obs_dim: int, action_dim: int, config: RecurrentConfig) -> Spec:
    """The network for observations [B, D] and actions [B, A]."""
    head = ResidualHead(2 * (obs_dim + 1), config.num_residual_blocks, config.dropout_rate)
    return Spec(obs_dim, action_dim, config, head)


def init(spec: Spec, key: Key, normalizer: Normalizer) -> ModelParams:
    """Parameters that have not seen data; the GRU reads an observation and an action."""
    width, num_outputs = spec.config.model_hidden_dim, spec.obs_dim + 1
    gru_key, head_key = jax.random.split(key)
    learned = RecurrentParams(
        gru=gru.init(gru_key, spec.obs_dim + spec.action_dim, width, spec.config.num_gru_layers),
        head=spec.head.init(head_key, jnp.zeros((1, width))),
        min_logvar=jnp.full((num_outputs,), MIN_LOGVAR_INIT, jnp.float32),
        max_logvar=jnp.full((num_outputs,), MAX_LOGVAR_INIT, jnp.float32),
    )
    return ModelParams(learned, normalizer)


def decode(
    spec: Spec, learned: RecurrentParams, hidden: Array, dropout_key: Key | None
) -> tuple[Array, Array]:
    """Top hidden states [..., W] to mean and log-variance [..., D + 1] of displacement and reward."""
    out = apply(spec.head, learned.head, hidden, dropout_key, deterministic=dropout_key is None)
    mean, logvar = jnp.split(out, 2, axis=-1)
    return mean, gaussian.soft_clamp(logvar, learned.min_logvar, learned.max_logvar)


def loss(
    spec: Spec, learned: RecurrentParams, mean: Array, logvar: Array, target: Array, valid: Array
) -> tuple[Array, dict[str, Array]]:
    """The loss of predictions [K, B, D + 1], each of the K lengths weighing the same (ADM paper, Eq. 2)."""
    nll = masked_mean(gaussian.nll(mean, logvar, target), valid).mean()
    bounds = learned.max_logvar.sum() - learned.min_logvar.sum()
    return nll + spec.config.logvar_bound_coef * bounds, {"model/train_nll": nll}
