"""Stepping real environments, one or several in lock step, and recording every transition completely."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from adm_jax.data.episodes import FIELDS, EpisodeData
from adm_jax.envs import environment
from adm_jax.types import EnvSpec, Transition


class Collector:
    """One environment, its current observation and everything it has done.

    Episode ``e`` is reset with ``reset_seed(seed, e)``, so that every episode can be replayed alone
    from its recorded actions. Arrays are allocated once for ``num_steps`` transitions.
    """

    def __init__(self, env: EnvSpec | str, seed: int, num_steps: int, numbers: Iterator[int] | None = None):
        """Makes the environment and begins its first episode.

        ``numbers`` gives each episode its number e; collectors that share it never share an episode. Counted
        from 0 when None.

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
        self._numbers = itertools.count() if numbers is None else numbers
        self.numbers: list[int] = []  # of the episodes begun
        self.returns: list[float] = []  # of the finished episodes
        self.num_steps = 0  # transitions recorded so far
        self.obs = self._reset()  # current observation [D] float32

    def _reset(self) -> np.ndarray:
        self.numbers.append(next(self._numbers))
        obs, _ = self._env.reset(seed=environment.reset_seed(self._seed, self.numbers[-1]))
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
        return Transition(*map(jnp.array, self.latest_rows(count)))

    def latest_rows(self, count: int) -> tuple[np.ndarray, ...]:
        """What ``latest`` puts on the device, on the host and not copied."""
        rows = slice(self.num_steps - count, self.num_steps)
        fields = (self._obs, self._action, self._reward, self._next_obs, self._terminated)
        return tuple(leaf[rows] for leaf in fields)

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


def concatenate(parts: Sequence[EpisodeData]) -> EpisodeData:
    """Datasets of one environment, one behind the other, copied; without their metadata."""
    fields: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS
    }
    return EpisodeData(**fields, source=parts[0].source)


class LockStep:
    """E environments stepped side by side, with one batched call of the policy for all of them.

    Episodes are numbered in the order in which they begin, over all environments, and episode ``e`` is
    reset with ``reset_seed(seed, e)``: the same actions give the same data, bit for bit, for the same E.
    """

    def __init__(self, env: EnvSpec | str, seed: int, num_steps: int, num_envs: int = 1):
        """Makes the environments, with room for ``num_steps`` transitions of all of them together.

        Raises:
          InputError: the environment doesn't exist or cannot be used (see environment.make_env).
        """
        numbers = itertools.count()
        rows = -(-num_steps // num_envs)
        self._collectors = [Collector(env, seed, rows, numbers) for _ in range(num_envs)]
        self.returns: list[float] = []  # of the finished episodes, in the order in which they finished

    @property
    def num_steps(self) -> int:
        """Transitions recorded so far, by all environments together."""
        return len(self._collectors) * self._collectors[0].num_steps

    @property
    def obs(self) -> np.ndarray:
        """Current observations [E, D] float32."""
        return np.stack([collector.obs for collector in self._collectors])

    def random_action(self, rng: np.random.Generator) -> np.ndarray:
        """Actions [E, A] drawn uniformly within the bounds."""
        return np.stack([collector.random_action(rng) for collector in self._collectors])

    def step(self, action: np.ndarray) -> None:
        """Takes one step in every environment with actions [E, A] float32; raises as Collector.step."""
        for collector, own_action in zip(self._collectors, action, strict=True):
            finished = len(collector.returns)
            collector.step(own_action)
            self.returns += collector.returns[finished:]

    def latest(self, count: int) -> Transition:
        """The last ``count`` transitions, a multiple of E, step by step, on the device; [count, ...]."""
        each = count // len(self._collectors)
        rows = [collector.latest_rows(each) for collector in self._collectors]
        fields = (np.stack(field, axis=1) for field in zip(*rows, strict=True))
        return Transition(*(jnp.array(field.reshape(count, *field.shape[2:])) for field in fields))

    def episodes(self) -> EpisodeData:
        """Everything recorded, in the order in which the episodes began.

        Those still under way count as truncated where recording stopped.
        """
        recorded: list[tuple[int, EpisodeData]] = []
        for collector in self._collectors:
            data = collector.episodes()
            ends = data.episode_ends + 1
            starts = ends - data.episode_lengths
            # an episode that has just begun has a number and no transition yet
            for number, start, end in zip(collector.numbers, starts, ends, strict=False):
                rows = {name: getattr(data, name)[start:end] for name in FIELDS}
                recorded.append((number, EpisodeData(**rows, source=data.source)))
        recorded.sort(key=lambda episode: episode[0])
        return concatenate([data for _, data in recorded])

    def close(self) -> None:
        """Frees the environments."""
        for collector in self._collectors:
            collector.close()
