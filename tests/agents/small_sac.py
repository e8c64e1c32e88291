"""A small SAC agent's configuration, and rows for it."""

import jax.numpy as jnp
import numpy as np

from adm_jax.config import SACConfig
from adm_jax.types import Transition

OBS_DIM, ACTION_DIM = 3, 2
CONFIG = SACConfig(policy_hidden_dim=16, policy_hidden_layers=2, batch_size=32)


def make_batch(seed, size=32):
    rng = np.random.default_rng(seed)
    return Transition(
        obs=jnp.asarray(rng.normal(size=(size, OBS_DIM)), jnp.float32),
        action=jnp.asarray(rng.uniform(-1, 1, (size, ACTION_DIM)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=size), jnp.float32),
        next_obs=jnp.asarray(rng.normal(size=(size, OBS_DIM)), jnp.float32),
        terminated=jnp.asarray(rng.random(size) < 0.3),
    )
