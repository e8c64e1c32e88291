"""Gymnasium's MuJoCo locomotion environments (``*-v4``), many at once and bit-equal to stepping them alone.

The physics of all rows runs on a pool of threads; rewards, terminations and observations of all rows are
then computed together (adm_jax.envs.locomotion_rules).

``mujoco.rollout`` does not give back the solver's warm start (``qacc_warmstart``): begun without it, states
differ from Gymnasium's in their last bits after a few steps, and the differences grow. So each row keeps an
``MjData`` of its own and is stepped by ``mujoco.mj_step``, which releases Python's interpreter lock.
"""

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from adm_jax.envs import environment
from adm_jax.envs.locomotion_rules import RULES


class BatchStep(NamedTuple):
    """One step of n rows."""

    obs: np.ndarray  # [n, D] float64, after the step, also where the episode ended with it
    reward: np.ndarray  # [n] float64
    terminated: np.ndarray  # [n] bool
    truncated: np.ndarray  # [n] bool; the time limit


class EnvBatch:
    """N rows, each an environment of one specification; a finished one stands still until it is reset."""

    def __init__(self, env: gymnasium.Env, num_envs: int):
        self.num_envs = num_envs
        self.obs_dim = environment.obs_dim(env)
        self.action_low, self.action_high = environment.action_bounds(env).arrays()  # [A] float32
        step_limit = environment.step_limit(env)
        assert step_limit is not None  # make_env refuses those without
        self.step_limit = step_limit
        self._running = np.zeros(num_envs, bool)

    def reset(self, seeds: Sequence[int], rows: np.ndarray | None = None) -> np.ndarray:
        """Begins an episode in the given rows [n], or in all; ``seeds`` [n]. Returns obs [n, D] float64."""
        raise NotImplementedError

    def step(self, action: np.ndarray, rows: np.ndarray | None = None) -> BatchStep:
        """Takes an action [n, A] in each of the rows [n], or in all.

        Raises ValueError: a row has not been reset since its episode ended.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Frees the environments."""
        raise NotImplementedError

    def _which(self, rows: np.ndarray | None) -> np.ndarray:
        return np.arange(self.num_envs) if rows is None else np.asarray(rows)

    def _require_running(self, rows: np.ndarray) -> None:
        if not self._running[rows].all():
            raise ValueError(f"row {rows[~self._running[rows]][0]}: its episode has ended; reset it first")


class _Row(NamedTuple):
    """One simulation, and views of what is read from it after every step."""

    data: Any  # mujoco.MjData
    control: np.ndarray  # [A]
    fields: tuple[np.ndarray, ...]


class BatchedMujoco(EnvBatch):
    """N rows, each an environment of one specification, stepped together; nothing resets by itself.

    A row that is reset with a seed equals, to the last bit of its observations, rewards and flags,
    ``environment.make_env(spec)`` reset with that seed and given the same actions, whatever the others do.
    """

    def __init__(
        self, env: gymnasium.Env, num_envs: int, num_threads: int | None = None, spare_cores: int = 0
    ):
        """Takes over an environment made by ``make_env``: it is every row's model; ``close`` closes it.

        ``num_threads`` step rows, the calling one among them; by default one per usable core, but for
        ``spare_cores``. Raises ValueError: the environment is none of those that are restated in
        locomotion_rules.
        """
        if not is_supported(env):
            raise ValueError(f"{env} is none of the environments that can be stepped as a batch")
        super().__init__(env, num_envs)
        self._env, self._core = env, env.unwrapped
        self._rules = RULES[type(self._core)](self._core, self.obs_dim)
        self._rows = [self._make_row() for _ in range(num_envs)]
        self._position = np.zeros(num_envs)
        self._num_steps = np.zeros(num_envs, np.int64)
        self._num_threads = min(num_threads or max(_usable_cores() - spare_cores, 1), num_envs)
        self._helpers = ThreadPoolExecutor(max(self._num_threads - 1, 1), thread_name_prefix="mujoco")

    def reset(self, seeds: Sequence[int], rows: np.ndarray | None = None) -> np.ndarray:
        """See EnvBatch."""
        rows = self._which(rows)
        obs = np.zeros((len(rows), self.obs_dim))
        for index, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
            # the environment resets the row's simulation in place of its own
            self._core.data = self._rows[row].data  # pyright: ignore[reportAttributeAccessIssue]
            obs[index], _ = self._env.reset(seed=int(seed))
        self._position[rows] = self._rules.position(self._read(rows))
        self._num_steps[rows] = 0
        self._running[rows] = True
        return obs

    def step(self, action: np.ndarray, rows: np.ndarray | None = None) -> BatchStep:
        """See EnvBatch. Actions are taken as they are: in float32 a control cost is float32, as in Gymnasium.

        Raises ValueError: a row has not been reset since its episode ended, or the shape is wrong.
        """
        rows = self._which(rows)
        if action.shape != (len(rows), *self.action_low.shape):
            raise ValueError(
                f"actions of shape {action.shape} for {len(rows)} rows of {self.action_low.shape}"
            )
        self._require_running(rows)
        self._advance(rows, action)
        fields = self._read(rows)
        position = self._rules.position(fields)
        velocity = (position - self._position[rows]) / self._core.dt  # pyright: ignore
        self._position[rows] = position
        self._num_steps[rows] += 1
        reward, terminated = self._rules.judge(fields, action, velocity)
        truncated = self._num_steps[rows] >= self.step_limit
        self._running[rows] = ~(terminated | truncated)
        return BatchStep(self._rules.observe(fields), reward, terminated, truncated)

    def close(self) -> None:
        """See EnvBatch; the threads end too."""
        self._helpers.shutdown()
        self._env.close()

    def _make_row(self) -> _Row:
        data: Any = mujoco.MjData(self._core.model)  # pyright: ignore
        fields = [data.body("torso").xpos if f == "torso" else getattr(data, f) for f in self._rules.fields]
        return _Row(data, data.ctrl, tuple(field.reshape(-1) for field in fields))

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> None:
        """The physics of a step. Each thread takes the next row as soon as it is done with one."""
        pending: deque[Any] = deque()
        for row, control in zip(rows.tolist(), action.astype(np.float64), strict=True):
            self._rows[row].control[:] = control
            pending.append(self._rows[row].data)
        num_threads = min(self._num_threads, len(rows))
        pending.extend([None] * num_threads)  # one for each, at which it stops
        helpers = [self._helpers.submit(self._simulate, pending) for _ in range(num_threads - 1)]
        try:
            self._simulate(pending)
        finally:
            for helper in helpers:
                helper.result()

    def _simulate(self, pending: deque[Any]) -> None:
        # as little as possible between two steps: it is done under the interpreter's lock
        model, frame_skip = self._core.model, self._core.frame_skip  # pyright: ignore
        with_forces = "cfrc_ext" in self._rules.fields
        mj_step: Any = mujoco.mj_step  # pyright: ignore[reportAttributeAccessIssue]
        for data in iter(pending.popleft, None):
            mj_step(model, data, frame_skip)
            if with_forces:
                mujoco.mj_rnePostConstraint(model, data)  # pyright: ignore[reportAttributeAccessIssue]

    def _read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Every field [n, size] that the rules need."""
        per_row = [self._rows[row].fields for row in rows]
        stacked = (np.array(values) for values in zip(*per_row, strict=True))
        return dict(zip(self._rules.fields, stacked, strict=True))


def is_supported(env: gymnasium.Env) -> bool:
    """Whether an environment is one of ``RULES`` under nothing but what ``make_env`` puts around it."""
    while isinstance(env, gymnasium.Wrapper):
        if type(env) not in (TimeLimit, OrderEnforcing, environment.FirstEntries):
            return False
        env = env.env
    return type(env) in RULES


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
