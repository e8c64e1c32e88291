"""Datasets recorded by Minari's own collector, as its published ones were."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from minari import DataCollector

GOAL_ID, SWING_ID = "TestGoalHopper-v0", "TestSwing-v0"


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


class Swing(gymnasium.Env):
    """Two pendulums that start anywhere; ``order`` is that of their keys, "" makes a vector of them."""

    def __init__(self, order: str = "velocity angle", unit: float = 1.0, nested: bool = False):
        self._unit, self._nested = unit, nested
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        keys = OrderedDict((key, box) for key in order.split())
        self.observation_space = spaces.Dict(keys) if keys else spaces.Box(-np.inf, np.inf, (4,), np.float32)
        if nested:  # one level down, in a tuple
            self.observation_space = spaces.Dict([("state", spaces.Tuple([box, spaces.Dict(keys)]))])
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def _observe(self) -> Any:
        angle, velocity = np.split(self._state.astype(np.float32) * np.float32(self._unit), 2)
        named = {"angle": angle, "velocity": velocity}
        if self._nested:
            return {"state": (-angle, named)}
        return named if isinstance(self.observation_space, spaces.Dict) else np.concatenate([angle, velocity])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._state = np.append(self.np_random.uniform(1.0, 2.0, 2), [0.0, 0.0])
        if options and "angle" in options:
            self._state[:2] = options["angle"]
        return self._observe(), {}

    def step(self, action):
        self._state[2:] += 0.1 * (action[0] - self._state[:2])
        self._state[:2] += 0.1 * self._state[2:]
        return self._observe(), float(self._state[0]), False, False, {}


def register() -> None:
    for env_id, maker in ((GOAL_ID, GoalHopper), (SWING_ID, Swing)):
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, f"{maker.__module__}:{maker.__name__}", max_episode_steps=1000)


def record(
    dataset_id: str,
    env_id: str,
    *,
    num_episodes: int = 3,
    eval_steps: int | None = None,
    max_steps: int = 50,
    eval_kwargs: Mapping[str, Any] | None = None,
    wrap: Callable[[gymnasium.Env], gymnasium.Env] = lambda env: env,
    options: dict[str, Any] | None = None,
    **kwargs,
) -> None:
    """Random actions of seeds 0, 1, ...; an evaluation environment too where ``eval_steps`` is given.

    That one has ``kwargs`` too where ``eval_kwargs`` is None. Scores are left out where Minari could
    not make the environment again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ids out of date, fields left empty
        env = DataCollector(wrap(gymnasium.make(env_id, max_episode_steps=max_steps, **kwargs)))
        env.action_space.seed(0)
        for episode in range(num_episodes):
            env.reset(seed=episode, options=options)
            done = False
            while not done:
                *_, terminated, truncated, _ = env.step(env.action_space.sample())
                done = terminated or truncated
        others = kwargs if eval_kwargs is None else eval_kwargs
        evaluation = eval_steps and gymnasium.make(env_id, max_episode_steps=eval_steps, **others).spec
        spec = env.env.spec
        remakable = spec is not None and all(w.kwargs is not None for w in spec.additional_wrappers)
        scores = {"ref_min_score": -1.5, "ref_max_score": 250.0} if remakable else {}
        env.create_dataset(dataset_id, eval_env=evaluation or None, author={"me"}, **scores)
        folder = env._tmp_dir  # made anew for the next dataset; close() removes it behind its owner's back
        folder.cleanup()
        env.env.close()


def assert_environment_repeats(env: gymnasium.Env, data, max_steps: int | None = None) -> None:
    """The environment, seeded as the recording was, gives the data's rows bit for bit."""
    for episode, end in enumerate(data.episode_ends):
        start = end + 1 - data.episode_lengths[episode]
        obs, _ = env.reset(seed=episode)
        last = end if max_steps is None else min(end, start + max_steps - 1)
        for t in range(start, last + 1):
            assert obs.astype(np.float32).tobytes() == data.obs[t].tobytes(), (episode, t)
            obs, reward, terminated, _, _ = env.step(data.action[t])
            assert np.float32(reward) == data.reward[t]
            assert terminated == data.terminated[t]
        assert obs.astype(np.float32).tobytes() == data.next_obs[last].tobytes()
