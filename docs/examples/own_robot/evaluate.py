"""Runs a trained policy in the environment: ``python evaluate.py RUN``."""

import sys

import adm_jax

policy = adm_jax.load_run(sys.argv[-1]).policy(seed=0)
returns = adm_jax.evaluate(policy, "my_envs:mylab/Cart-v0", episodes=20).returns
recorded = adm_jax.load_dataset("mylab/cart/shaky-v0").return_statistics()["episode_return_mean"]
print(f"return {returns.mean():.1f} of at most 100; {recorded:.1f} in the data")
