"""Many real environments stepped together, whichever way is the fastest for their kind."""

from collections.abc import Sequence
from functools import partial

import gymnasium
import numpy as np

from adm_jax.envs import environment
from adm_jax.envs.batched_mujoco import BatchedMujoco, BatchStep, EnvBatch, is_supported
from adm_jax.types import EnvSpec


def make_batch(env: EnvSpec | str, num_envs: int, spare_cores: int = 0) -> EnvBatch:
    """N environments: simulated as a batch where that is exact, else Gymnasium's vector environment.

    The first has a thread on each usable core but ``spare_cores``, the second one thread. Raises InputError:
    the environment cannot be used (see environment.make_env).
    """
    first = environment.make_env(env)
    if is_supported(first):
        return BatchedMujoco(first, num_envs, spare_cores=spare_cores)
    return GymnasiumBatch(env, first, num_envs)


class GymnasiumBatch(EnvBatch):
    """Any environment: Gymnasium's ``SyncVectorEnv`` (the asynchronous one is slower), without its autoreset.

    A vector environment can only step all of its environments, and refuses to while one is finished; once
    the rows to be stepped are not all, its environments are stepped one by one.
    """

    def __init__(self, env: EnvSpec | str, first: gymnasium.Env, num_envs: int):
        """``first`` is an environment of that specification; it becomes row 0 and belongs to this object."""
        makers = [lambda: first, *[partial(environment.make_env, env)] * (num_envs - 1)]
        disabled = gymnasium.vector.AutoresetMode.DISABLED
        self._vector = gymnasium.vector.SyncVectorEnv(makers, copy=False, autoreset_mode=disabled)
        super().__init__(first, num_envs)
        self._vector.reset()  # it cannot reset some of its environments before all have been

    def reset(self, seeds: Sequence[int], rows: np.ndarray | None = None) -> np.ndarray:
        """See EnvBatch."""
        rows = self._which(rows)
        mask = np.zeros(self.num_envs, bool)
        mask[rows] = True
        all_seeds: list[int | None] = [None] * self.num_envs
        for row, seed in zip(rows, seeds, strict=True):
            all_seeds[row] = int(seed)
        obs, _ = self._vector.reset(seed=all_seeds, options=None if mask.all() else {"reset_mask": mask})
        self._running[rows] = True
        return obs[rows]

    def step(self, action: np.ndarray, rows: np.ndarray | None = None) -> BatchStep:
        """See EnvBatch."""
        rows = self._which(rows)
        self._require_running(rows)
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
