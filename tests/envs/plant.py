"""A plant whose actions are a Box of one's choice, and whose best policy is known."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from adm_jax.tasks import register_task

BOUNDS = {"unit": ([-1, -1], [1, 1]), "mixed": ([0, -1], [100, 3]), "tank": ([0], [100])}
STEPS = 10


class Plant(gymnasium.Env):
    """``x' = 0.9 x + u`` with a reward of ``-|x'|^2``: ``u = -0.9 x`` is best, and returns 0.

    ``u`` [A] within +-1 is the action [A] rescaled. An action outside its Box, or no float32, is an error.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float]):
        self.action_space = gymnasium.spaces.Box(np.float32(low), np.float32(high))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (len(low),), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._x = self.np_random.uniform(-1, 1, self.observation_space.shape).astype(np.float32)
        return self._x, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        low, high = self.action_space.low, self.action_space.high
        self._x = np.float32(0.9 * self._x + 2 * (action - low) / (high - low) - 1)
        return self._x, -float(np.square(self._x).sum()), False, False, {}


for _name, (_low, _high) in BOUNDS.items():
    gymnasium.register(
        f"plant/{_name}-v0", Plant, max_episode_steps=STEPS, kwargs={"low": _low, "high": _high}
    )


def register_tasks() -> None:
    """``plant-<name>`` for every Box."""
    for name, (low, _) in BOUNDS.items():
        register_task(
            name=f"plant-{name}", env_id=f"plant/{name}-v0", obs_dim=len(low), action_dim=len(low),
            termination="never",
        )  # fmt: skip


def best_action(name: str, obs: np.ndarray) -> np.ndarray:
    """The best action [..., A] at observations [..., D], in the environment's units."""
    low, high = map(np.array, BOUNDS[name])
    return (low + high) / 2 - 0.9 * obs * (high - low) / 2


def record(name: str, num_episodes: int) -> dict[str, np.ndarray]:
    """Episodes of random actions, as arrays by name; the same ``u`` whatever the Box."""
    env, rng = gymnasium.make(f"plant/{name}-v0"), np.random.default_rng(0)
    low, high = map(np.array, BOUNDS[name])
    rows: list[tuple[Any, ...]] = []
    for seed in range(num_episodes):
        obs, _ = env.reset(seed=seed)
        for _ in range(STEPS):
            action = np.float32(low + (high - low) * rng.uniform(size=len(low)))
            next_obs, reward, terminated, truncated, _ = env.step(action)
            rows.append((obs, action, reward, next_obs, terminated, truncated))
            obs = next_obs
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    return {name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
