"""Many real environments stepped together, whichever way is the fastest for their kind."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import gymnasium
import numpy as np

from adm_jax.envs import environment
from adm_jax.envs.batched_mujoco import BatchedMujoco, BatchStep, is_supported
from adm_jax.types import EnvSpec


class EnvBatch(Protocol):
    """N rows, each an environment of one specification; a finished one stands still until it is reset."""

    num_envs: int
    obs_dim: int
    action_low: np.ndarray  # [A] float32
    action_high: np.ndarray  # [A] float32
    step_limit: int

    def reset(self, seeds: Sequence[int], rows: np.ndarray | None = None) -> np.ndarray:
        """Begins an episode in the given rows [n], or in all; ``seeds`` [n]. Returns obs [n, D]."""
        ...

    def step(self, action: np.ndarray, rows: np.ndarray | None = None) -> BatchStep:
        """Takes an action [n, A] in each of the rows [n], or in all."""
        ...

    def close(self) -> None:
        """Frees the environments."""
        ...


def make_batch(env: EnvSpec | str, num_envs: int) -> EnvBatch:
    """N environments: simulated as a batch where that is exact, else Gymnasium's vector environment.

    Raises InputError: the environment cannot be used (see environment.make_env).
    """
    first = environment.make_env(env)
    return BatchedMujoco(first, num_envs) if is_supported(first) else GymnasiumBatch(env, first, num_envs)


class GymnasiumBatch:
    """Any environment: Gymnasium's ``SyncVectorEnv`` (the asynchronous one is slower), without its autoreset.

    A vector environment can only step all of its environments, and refuses to while one is finished; once
    the rows to be stepped are not all, its environments are stepped one by one.
    """

    def __init__(self, env: EnvSpec | str, first: gymnasium.Env, num_envs: int):
        """``first`` is an environment of that specification; it becomes row 0 and belongs to this object."""
        makers = [lambda: first, *[partial(environment.make_env, env)] * (num_envs - 1)]
        disabled = gymnasium.vector.AutoresetMode.DISABLED
        self._vector = gymnasium.vector.SyncVectorEnv(makers, copy=False, autoreset_mode=disabled)
        self.num_envs = num_envs
        self.obs_dim = environment.obs_dim(first)
        self.action_low, self.action_high = environment.action_bounds(first)
        step_limit = environment.step_limit(first)
        assert step_limit is not None  # make_env refuses those without
        self.step_limit = step_limit
        self._running = np.zeros(num_envs, bool)
        self._vector.reset()  # it cannot reset some of its environments before all have been

    def reset(self, seeds: Sequence[int], rows: np.ndarray | None = None) -> np.ndarray:
        """See EnvBatch."""
        rows = np.arange(self.num_envs) if rows is None else np.asarray(rows)
        mask = np.zeros(self.num_envs, bool)
        mask[rows] = True
        all_seeds: list[int | None] = [None] * self.num_envs
        for row, seed in zip(rows, seeds, strict=True):
            all_seeds[row] = int(seed)
        obs, _ = self._vector.reset(seed=all_seeds, options=None if mask.all() else {"reset_mask": mask})
        self._running[rows] = True
        return obs[rows]

    def step(self, action: np.ndarray, rows: np.ndarray | None = None) -> BatchStep:
        """See EnvBatch.

        Raises ValueError: a row has not been reset since its episode ended.
        """
        rows = np.arange(self.num_envs) if rows is None else np.asarray(rows)
        if not self._running[rows].all():
            raise ValueError(f"row {rows[~self._running[rows]][0]}: its episode has ended; reset it first")
        if np.array_equal(rows, np.arange(self.num_envs)):
            obs, reward, terminated, truncated, _ = self._vector.step(action)
            step = BatchStep(obs.copy(), reward, terminated, truncated)
        else:
            step = self._step_some(action, rows)
        self._running[rows] = ~(step.terminated | step.truncated)
        return step

    def _step_some(self, action: np.ndarray, rows: np.ndarray) -> BatchStep:
        stepped = [self._vector.envs[row].step(one) for row, one in zip(rows, action, strict=True)]
        obs, reward, terminated, truncated, _ = zip(*stepped, strict=True)
        return BatchStep(
            np.array(obs), np.array(reward, np.float64), np.array(terminated, bool), np.array(truncated, bool)
        )

    def close(self) -> None:
        """See EnvBatch."""
        self._vector.close()
