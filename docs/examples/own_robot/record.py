"""Records a shaky controller in the environment, as a dataset of the local Minari store."""

import gymnasium
import my_envs  # noqa: F401  # registers the environment
import numpy as np
from minari import DataCollector

env, rng = DataCollector(gymnasium.make("mylab/Cart-v0")), np.random.default_rng(0)
for episode in range(100):
    obs, _ = env.reset(seed=episode)
    over = False
    while not over:
        push = -0.3 * obs[0] - 0.1 * obs[1] + rng.normal(scale=0.5)
        obs, _, terminated, truncated, _ = env.step(np.clip([push], -1, 1).astype(np.float32))
        over = terminated or truncated
env.create_dataset("mylab/cart/shaky-v0")
