"""Stepping one real environment and recording every transition completely."""

import jax.numpy as jnp
import numpy as np

from adm_jax.data.episodes import EpisodeData
from adm_jax.envs import environment
from adm_jax.types import EnvSpec, Transition


class Collector:
    """One environment, its current observation and everything it has done.

    Episode ``e`` is reset with ``reset_seed(seed, e)``, so that every episode can be replayed alone
    from its recorded actions. Arrays are allocated once for ``num_steps`` transitions.
    """

    def __init__(self, env: EnvSpec | str, seed: int, num_steps: int):
        """Makes the environment and begins its first episode.

        Raises:
          InputError: the environment doesn't exist or cannot be used (see environment.make_env).
        """
        self.env_id = environment.as_spec(env).env_id
        self._seed = seed
        self._env = environment.make_env(env)
        self._low, self._high = environment.action_bounds(self._env)
        obs_dim, action_dim = environment.obs_dim(self._env), self._low.size
        self._obs = np.zeros((num_steps, obs_dim), np.float32)
        self._action = np.zeros((num_steps, action_dim), np.float32)
        self._reward = np.zeros((num_steps,), np.float32)
        self._next_obs = np.zeros((num_steps, obs_dim), np.float32)
        self._terminated = np.zeros((num_steps,), bool)
        self._truncated = np.zeros((num_steps,), bool)
        self._return = 0.0
        self.returns: list[float] = []  # of the finished episodes
        self.num_steps = 0  # transitions recorded so far
        self.obs = self._reset()  # current observation [D] float32

    def _reset(self) -> np.ndarray:
        obs, _ = self._env.reset(seed=environment.reset_seed(self._seed, len(self.returns)))
        return obs.astype(np.float32)

    def random_action(self, rng: np.random.Generator) -> np.ndarray:
        """An action [A] drawn uniformly within the bounds."""
        return rng.uniform(self._low, self._high).astype(np.float32)

    def step(self, action: np.ndarray) -> None:
        """Takes one step with an action [A] float32, records it, and resets where the episode ended.

        Raises:
          ValueError: the action is not finite or outside the environment's bounds.
          IndexError: all ``num_steps`` transitions have been recorded.
        """
        if not np.all((action >= self._low) & (action <= self._high)):
            raise ValueError(
                f"step {self.num_steps}: action {action} is not within {self._low} to {self._high}"
            )
        next_obs, reward, terminated, truncated, _ = self._env.step(action)
        i = self.num_steps
        self._obs[i], self._action[i], self._reward[i] = self.obs, action, reward
        self._next_obs[i], self._terminated[i], self._truncated[i] = next_obs, terminated, truncated
        self.num_steps += 1
        self._return += float(reward)
        self.obs = self._next_obs[i].copy()
        if terminated or truncated:
            self.returns.append(self._return)
            self._return = 0.0
            self.obs = self._reset()

    def latest(self, count: int) -> Transition:
        """The last ``count`` transitions in order of time, on the device; leaves [count, ...]."""
        rows = slice(self.num_steps - count, self.num_steps)
        fields = (self._obs, self._action, self._reward, self._next_obs, self._terminated)
        return Transition(*(jnp.array(leaf[rows]) for leaf in fields))

    def episodes(self) -> EpisodeData:
        """Everything recorded. An episode still under way counts as truncated where recording stopped."""
        rows = slice(0, self.num_steps)
        truncated = self._truncated[rows].copy()
        if self.num_steps and not self._terminated[self.num_steps - 1]:
            truncated[-1] = True
        return EpisodeData(
            obs=self._obs[rows],
            action=self._action[rows],
            reward=self._reward[rows],
            next_obs=self._next_obs[rows],
            terminated=self._terminated[rows],
            truncated=truncated,
            source=self.env_id,
        )

    def close(self) -> None:
        """Frees the environment."""
        self._env.close()
