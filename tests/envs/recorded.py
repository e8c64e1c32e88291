"""Datasets recorded by Minari's own collector, as its published ones were."""

import warnings
from typing import Any

import gymnasium
import numpy as np
from minari import DataCollector

GOAL_ID = "TestGoalHopper-v0"


class GoalHopper(gymnasium.Env):
    """Hopper-v5 that observes a dictionary of float64, as the mazes do; keys in no alphabetical order."""

    def __init__(self, goal: float = 3.0):
        self._env, self._goal = gymnasium.make("Hopper-v5"), goal
        sizes = {"observation": 11, "desired_goal": 1, "achieved_goal": 1}
        self.observation_space = gymnasium.spaces.Dict(
            {key: gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64) for key, size in sizes.items()}
        )
        self.action_space = self._env.action_space

    def _observe(self, obs: np.ndarray) -> dict[str, np.ndarray]:
        return {"observation": obs, "desired_goal": np.array([self._goal]), "achieved_goal": obs[5:6]}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        obs, info = self._env.reset(seed=seed, options=options)
        return self._observe(obs), info

    def step(self, action):
        obs, *rest = self._env.step(action)
        return self._observe(obs), *rest


def register() -> None:
    if GOAL_ID not in gymnasium.registry:
        gymnasium.register(GOAL_ID, f"{GoalHopper.__module__}:GoalHopper", max_episode_steps=1000)


def record(
    dataset_id: str,
    env_id: str,
    *,
    num_episodes: int = 3,
    eval_steps: int | None = None,
    max_steps: int = 50,
    **kwargs,
) -> None:
    """Random actions of seeds 0, 1, ...; an evaluation environment too where ``eval_steps`` is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ids out of date, fields left empty
        env = DataCollector(gymnasium.make(env_id, max_episode_steps=max_steps, **kwargs))
        env.action_space.seed(0)
        for episode in range(num_episodes):
            env.reset(seed=episode)
            done = False
            while not done:
                *_, terminated, truncated, _ = env.step(env.action_space.sample())
                done = terminated or truncated
        evaluation = eval_steps and gymnasium.make(env_id, max_episode_steps=eval_steps, **kwargs).spec
        env.create_dataset(
            dataset_id, eval_env=evaluation or None, ref_min_score=-1.5, ref_max_score=250.0, author={"me"}
        )
        folder = env._tmp_dir  # made anew for the next dataset; close() removes it behind its owner's back
        folder.cleanup()
        env.env.close()


def assert_environment_repeats(env: gymnasium.Env, data) -> None:
    """The environment, seeded as the recording was, gives the data's rows bit for bit."""
    for episode, end in enumerate(data.episode_ends):
        start = end + 1 - data.episode_lengths[episode]
        obs, _ = env.reset(seed=episode)
        for t in range(start, end + 1):
            assert obs.astype(np.float32).tobytes() == data.obs[t].tobytes(), (episode, t)
            obs, reward, terminated, _, _ = env.step(data.action[t])
            assert np.float32(reward) == data.reward[t]
            assert terminated == data.terminated[t]
        assert obs.astype(np.float32).tobytes() == data.next_obs[end].tobytes()
