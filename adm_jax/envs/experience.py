"""Stepping real environments side by side, and recording every transition completely."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from adm_jax.data.episodes import FIELDS, EpisodeData
from adm_jax.envs import environment
from adm_jax.envs.batch import make_batch
from adm_jax.types import EnvSpec, InputError, Transition


class Recorded(NamedTuple):
    """Every step of P members' E environments; the first so many of T are in use."""

    obs: np.ndarray  # [P, E, T, D] float32
    action: np.ndarray  # [P, E, T, A] float32
    reward: np.ndarray  # [P, E, T] float32
    next_obs: np.ndarray  # [P, E, T, D] float32
    terminated: np.ndarray  # [P, E, T] bool
    truncated: np.ndarray  # [P, E, T] bool

    def as_transition(self) -> Transition:
        """Without the time limits; leaves [P, E, T, ...]."""
        fields: Any = self[:5]
        return Transition(*fields)


class Experience:
    """P members with E environments each, all in lock step, and everything they go through.

    Episodes of a member are numbered in the order in which they begin, over its environments in turn, and
    episode ``e`` of the member with seed ``s`` is reset with ``reset_seed(s, e)``: it can be replayed alone
    from its recorded actions, and a member's data do not depend on the other members.
    """

    def __init__(self, env: EnvSpec | str, seeds: Sequence[int], num_steps: int, num_envs: int = 1):
        """Makes ``num_envs`` environments for each seed, with room for ``num_steps``, and resets them.

        Raises InputError: the environment doesn't exist or cannot be used (see environment.make_env).
        """
        self.env_id = environment.as_spec(env).env_id
        self._seeds, self._num_envs = tuple(seeds), num_envs
        self._batch = make_batch(env, len(seeds) * num_envs)
        self._low, self._high = self._batch.action_low, self._batch.action_high
        shape = (len(seeds), num_envs, -(-num_steps // num_envs))
        obs_dim, action_dim = self._batch.obs_dim, self._low.size
        self.recorded = Recorded(
            obs=np.zeros((*shape, obs_dim), np.float32),
            action=np.zeros((*shape, action_dim), np.float32),
            reward=np.zeros(shape, np.float32),
            next_obs=np.zeros((*shape, obs_dim), np.float32),
            terminated=np.zeros(shape, bool),
            truncated=np.zeros(shape, bool),
        )
        self._rows = 0  # steps of every environment so far
        self._return = np.zeros(shape[:2])
        self.returns: list[list[float]] = [[] for _ in seeds]  # of the episodes finished, in that order
        self._num_begun = np.zeros(len(seeds), np.int64)
        self._obs = np.zeros((*shape[:2], obs_dim), np.float32)
        self._begin(np.ones(shape[:2], bool))

    @property
    def num_steps(self) -> int:
        """Transitions of a member so far, by all its environments together."""
        return self._num_envs * self._rows

    @property
    def obs(self) -> np.ndarray:
        """Current observations [P, E, D] float32; a copy."""
        return self._obs.copy()

    @property
    def resting_action(self) -> np.ndarray:
        """The middle [A] of the bounds."""
        return 0.5 * (self._low + self._high)

    def random_action(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Actions [P, E, A] drawn uniformly within the bounds, each member's with its own generator."""
        size = (self._num_envs, self._low.size)
        return np.stack([rng.uniform(self._low, self._high, size) for rng in rngs]).astype(np.float32)

    def step(self, action: np.ndarray) -> None:
        """Takes a step of actions [P, E, A] float32, records it, and resets where an episode ended.

        Raises:
          ValueError: an action is not finite or outside the environment's bounds.
          InputError: the environment gave a number that is not finite.
          IndexError: all transitions that there is room for have been recorded.
        """
        within = ((action >= self._low) & (action <= self._high)).all(axis=-1)
        if not within.all():
            wrong = action[tuple(np.argwhere(~within)[0])]
            raise ValueError(
                f"step {self.num_steps}: action {wrong} is not within {self._low} to {self._high}"
            )
        shape = self._return.shape
        step = self._batch.step(action.reshape(-1, self._low.size))
        next_obs = step.obs.reshape(*shape, -1).astype(np.float32)
        reward = step.reward.reshape(shape).astype(np.float32)
        terminated, truncated = step.terminated.reshape(shape), step.truncated.reshape(shape)
        self._check(next_obs, reward)
        values = (self._obs, action, reward, next_obs, terminated, truncated)
        for field, value in zip(self.recorded, values, strict=True):
            field[:, :, self._rows] = value
        self._rows += 1
        self._return += reward
        self._obs = next_obs
        ended = terminated | truncated
        for member, env in np.argwhere(ended):
            self.returns[member].append(float(self._return[member, env]))
            self._return[member, env] = 0.0
        self._begin(ended)

    def latest(self, count: int) -> Transition:
        """The last ``count`` transitions of every member, a multiple of E; leaves [P, E, count / E, ...]."""
        rows = slice(self._rows - count // self._num_envs, self._rows)
        return jax.tree.map(lambda field: field[:, :, rows], self.recorded.as_transition())

    def first(self, num_steps: int) -> Recorded:
        """The first transitions of every member, a multiple of E; leaves [P, E, num_steps / E, ...]."""
        return Recorded(*(field[:, :, : num_steps // self._num_envs] for field in self.recorded))

    def ended(self) -> np.ndarray:
        """Whether an episode ended with a step, [P, E, steps so far]."""
        return (self.recorded.terminated | self.recorded.truncated)[:, :, : self._rows]

    def episodes(self, member: int = 0) -> EpisodeData:
        """Everything a member went through, in the order in which its episodes began.

        Those still under way count as truncated where recording stopped.
        """
        fields = {name: field[member, :, : self._rows] for name, field in self.recorded._asdict().items()}
        if self._rows:
            fields["truncated"] = fields["truncated"].copy()
            fields["truncated"][:, -1] |= ~fields["terminated"][:, -1]
        begun = _beginnings(self.ended()[member])
        ends = fields["terminated"] | fields["truncated"]
        parts = []
        for env, start in begun:
            if start < self._rows:  # else it has just begun and has no transition yet
                end = start + 1 + int(np.argmax(ends[env, start:]))
                parts.append((env, slice(start, end)))
        joined: dict[str, Any] = {
            name: np.concatenate([field[env, rows] for env, rows in parts] or [field[0, :0]])
            for name, field in fields.items()
        }
        return EpisodeData(**joined, source=self.env_id)

    def restore(self, recorded: Recorded, num_steps: int) -> None:
        """Goes on where another one, with room for fewer or more, was after ``num_steps`` of a member.

        The episodes under way are replayed from their beginnings with their recorded actions, which brings
        back all that an environment holds: its simulation, its random state, its elapsed steps. Raises
        InputError: a replay leads elsewhere: the environment is not the one that was recorded.
        """
        self._rows = num_steps // self._num_envs
        for field, saved in zip(self.recorded, recorded, strict=True):
            field[:, :, : self._rows] = saved[:, :, : self._rows]
        ended = self.ended()
        rewards = recorded.reward[:, :, : self._rows]
        starts = np.zeros(self._return.shape, np.int64)
        numbers = np.zeros(self._return.shape, np.int64)
        for member, of_member in enumerate(ended):
            begun = _beginnings(of_member)
            self._num_begun[member] = len(begun)
            finished: list[tuple[int, int, float]] = []
            for number, (env, start) in enumerate(begun):
                starts[member, env], numbers[member, env] = start, number
                ends = np.flatnonzero(of_member[env, start:])
                if ends.size:
                    end = start + int(ends[0])
                    finished.append((end, env, _sum(rewards[member, env, start : end + 1])))
            self.returns[member] = [value for _, _, value in sorted(finished)]
        self._replay(starts, numbers)
        for member, env in np.ndindex(starts.shape):
            self._return[member, env] = _sum(rewards[member, env, starts[member, env] :])

    def close(self) -> None:
        """Frees the environments."""
        self._batch.close()

    def _begin(self, where: np.ndarray) -> None:
        """Begins episodes in the environments marked [P, E]."""
        seeds = []
        for member, _ in np.argwhere(where):
            seeds.append(environment.reset_seed(self._seeds[member], int(self._num_begun[member])))
            self._num_begun[member] += 1
        if seeds:
            self._obs[where] = self._batch.reset(seeds, np.flatnonzero(where))
        broken = ~np.isfinite(self._obs).all(axis=-1)
        if broken.any():
            member, env = np.argwhere(broken)[0]
            raise InputError(
                f"environment {self.env_id}: an episode of seed {self._seeds[member]} begins with the "
                f"observation {self._obs[member, env]}; must be finite"
            )

    def _replay(self, starts: np.ndarray, numbers: np.ndarray) -> None:
        """Brings every environment to the end of what is recorded of its episode under way."""
        seeds = [
            environment.reset_seed(self._seeds[member], int(number))
            for (member, _), number in np.ndenumerate(numbers)
        ]
        obs = self._batch.reset(seeds).astype(np.float32)
        lengths = (self._rows - starts).ravel()
        flat = Recorded(*(field.reshape(-1, *field.shape[2:]) for field in self.recorded))
        for step in range(int(lengths.max(initial=0))):
            rows = np.flatnonzero(lengths > step)
            at = starts.ravel()[rows] + step
            result = self._batch.step(flat.action[rows, at], rows)
            obs[rows] = result.obs
            if not np.array_equal(obs[rows], flat.next_obs[rows, at]):
                raise InputError(
                    f"environment {self.env_id}: the recorded actions do not lead where they led; "
                    "resume with the versions in config.json, and environments that their seed determines"
                )
        self._obs = obs.reshape(self._obs.shape)

    def _check(self, next_obs: np.ndarray, reward: np.ndarray) -> None:
        broken = ~(np.isfinite(next_obs).all(axis=-1) & np.isfinite(reward))
        if broken.any():
            member, env = np.argwhere(broken)[0]
            raise InputError(
                f"environment {self.env_id}: step {self.num_steps} of seed {self._seeds[member]} gave the "
                f"reward {reward[member, env]} and the observation {next_obs[member, env]}; must be finite"
            )


def concatenate(parts: Sequence[EpisodeData]) -> EpisodeData:
    """Datasets of one environment, one behind the other, copied; without their metadata."""
    fields: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS
    }
    return EpisodeData(**fields, source=parts[0].source)


def _beginnings(ended: np.ndarray) -> list[tuple[int, int]]:
    """``(environment, first step)`` of every episode in the order of their numbers; ``ended`` [E, steps]."""
    first = [(env, 0) for env in range(len(ended))]
    return first + [(int(env), int(step) + 1) for step, env in np.argwhere(ended.T)]


def _sum(values: np.ndarray) -> float:
    """One after the other, as a return grows while it is recorded."""
    return float(np.cumsum(values, dtype=np.float64)[-1]) if values.size else 0.0
