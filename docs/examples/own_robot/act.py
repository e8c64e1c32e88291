"""Uses a trained policy in a loop of one's own: ``python act.py RUN``."""

import sys

import jax.numpy as jnp
import my_envs
import numpy as np

import adm_jax

policy = adm_jax.load_run(sys.argv[-1]).policy(seed=0)  # observations [..., 2] to actions [..., 1]
cart = my_envs.Cart()
obs, _ = cart.reset(seed=0)
print(f"begins at {obs[0]:+.2f}")
for _ in range(100):
    obs, *_ = cart.step(np.asarray(policy(jnp.asarray(obs))))
print(f"is at {obs[0]:+.2f} after 100 steps")
