"""Files of NeoRL2's tasks, as its own script writes them.

Every array is float32, done and truncated too; rewards and flags are [N]; there is no index. What is rolled
out is MuJoCo where the task is, the pipeline, which is a delay line, and else a plant of the task's
dimensions, ranges and ends.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from adm_jax.envs import environment
from adm_jax.envs.termination import get_termination
from adm_jax.types import EnvSpec

Steps = Generator[np.ndarray, np.ndarray, None]  # observations [D], one first and one for each action [A]


@dataclass(frozen=True)
class Neorl2Task:
    """One of NeoRL2's: observation and action dimensions, step limit, and how it is rolled out."""

    obs_dim: int
    action_dim: int
    max_episode_steps: int
    roll_out: Callable[[np.random.Generator], Steps]
    termination: str = "never"  # as --termination takes it
    action_range: tuple[float, float] = (-1.0, 1.0)  # of what its data hold; all may be within +-1


def landed(next_obs: Any) -> Any:
    """RocketRecovery's end."""
    return jnp.abs(next_obs[..., 1]) <= 0.05


def out_of_range(next_obs: Any) -> Any:
    """Simglucose's end."""
    return (next_obs[..., 0] < 40) | (next_obs[..., 0] > 600)


def _pipeline(rng: np.random.Generator) -> Steps:
    """What a gate lets into a pipe comes out 20 steps later; observed with 25 past flows and actions."""
    gate, target = rng.uniform(80, 120), rng.choice([50, 80, 110, 140])
    pipe, flows, actions = [gate] * 20, [gate] * 25, [0.0] * 25
    while True:
        action = yield np.array([pipe[-1], target, *flows, *actions])
        flows = [pipe[-1], *flows[:-1]]
        gate = np.clip(gate + action[0], 0, 200)
        pipe, actions = [gate, *pipe[:-1]], [action[0], *actions[:-1]]


def _plant(low: np.ndarray, high: np.ndarray, drift: dict[int, float] | None = None) -> Callable[..., Steps]:
    """Observations within a range, moved by the actions; parameters with low = high stay as they are."""

    def roll_out(rng: np.random.Generator) -> Steps:
        obs = rng.uniform(0.4 * high + 0.6 * low, 0.6 * high + 0.4 * low)
        while True:
            action = yield obs
            reach = np.resize(action, low.shape) + 0.3 * rng.standard_normal(low.shape)
            obs = obs + 0.05 * (high - low) * np.where(np.arange(len(low)) < 8, reach, 0.0)
            for i, rate in (drift or {}).items():
                obs[i] += rate
            obs = np.clip(obs, low, high)

    return roll_out


def _mujoco(name: str, friction: tuple[float, float] | None = None) -> Callable[..., Steps]:
    """With the x position, velocities within +-10 and, where one is drawn, the friction behind all."""

    def roll_out(rng: np.random.Generator) -> Steps:
        env = environment.make_env(EnvSpec(name, {"exclude_current_positions_from_observation": False}))
        drawn = () if friction is None else (rng.uniform(*friction),)
        model: Any = env.unwrapped
        if drawn:
            model.model.geom_friction[-1, 0] = drawn[0]  # of the foot
        obs, _ = env.reset(seed=int(rng.integers(1 << 30)))
        while True:
            position, velocity = np.split(obs, [model.model.nq])
            action = yield np.concatenate(
                [position, np.clip(velocity, -10, 10) if drawn else velocity, drawn]
            )
            obs, *_ = env.step(action)

    return roll_out


_GLUCOSE = np.concatenate([np.linspace(1, 300, 20), np.linspace(5e-4, 1, 10)])  # a patient's parameters
_FUSION = (
    np.array([0.3, 1.6, 0.1, 0.5, 1.265, 2.18, 1.1, 3.8, 0.84, 1.1, 3.8, 0.84, 0, 0, 0]),
    np.array([0.8, 2.0, 0.5, 0.9, 1.36, 2.29, 2.1, 6.2, 1.06, 2.1, 6.2, 1.06, 1.75, 1.75, 1.5]),
)
_SALES = (np.zeros(8), np.array([400, 10, 100, 6, 90, 300, 100, 6]))
_ROCKET = (np.array([-1.5, -0.1, -5, -9, -3, -5, -10]), np.array([1.5, 1.6, 5, 9, 3, 5, 10]))
_HERE = "tests.data.neorl2_files"

TASKS = {
    # the published data use no more of the range
    "Pipeline": Neorl2Task(52, 1, 1000, _pipeline, action_range=(-0.0277, 0.0217)),
    "Simglucose": Neorl2Task(
        31,
        1,
        480,
        _plant(np.append(30, _GLUCOSE), np.append(250, _GLUCOSE), {0: -2.0}),
        f"{_HERE}:out_of_range",
    ),
    "RocketRecovery": Neorl2Task(7, 2, 500, _plant(*_ROCKET, {1: -0.02}), f"{_HERE}:landed"),
    "RandomFrictionHopper": Neorl2Task(13, 3, 1000, _mujoco("Hopper-v4", (1.5, 2.5)), "neorl_hopper"),
    "DMSD": Neorl2Task(6, 2, 100, _plant(np.full(6, -2.6), np.full(6, 2.6))),
    "Fusion": Neorl2Task(15, 6, 100, _plant(*_FUSION)),
    "Salespromotion": Neorl2Task(8, 2, 50, _plant(*_SALES)),
    "SafetyHalfCheetah": Neorl2Task(18, 6, 1000, _mujoco("HalfCheetah-v4")),
}


def arrays_of(name: str, num_episodes: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Episodes of random actions, ended by the task's termination or its step limit."""
    task, rng = TASKS[name], np.random.default_rng(seed)
    low, high = task.action_range
    is_terminal = get_termination(task.termination) if task.termination != "never" else lambda _: False
    rows: dict[str, list] = {key: [] for key in ("obs", "action", "next_obs", "reward", "done", "truncated")}
    for _ in range(num_episodes):
        steps = task.roll_out(rng)
        obs, done, truncated, step = next(steps), False, False, 0
        while not (done or truncated):
            action = np.clip(rng.normal(0, (high - low) / 3, task.action_dim), low, high)
            next_obs = steps.send(action.astype(np.float32))
            step += 1
            done = bool(is_terminal(jnp.float32(next_obs)))
            truncated = step == task.max_episode_steps
            reward = float(np.tanh(next_obs[0] - obs[0]))
            for key, value in zip(rows, (obs, action, next_obs, reward, done, truncated), strict=True):
                rows[key].append(value)
            obs = next_obs
    return {key: np.asarray(values, np.float32) for key, values in rows.items()}


def write(folder: Path, name: str, split: str = "train", **kwargs: Any) -> Path:
    """``<name>-train.npz``, as NeoRL2's get_dataset keeps it."""
    path = folder / f"{name}-{split}.npz"
    np.savez_compressed(path, **arrays_of(name, **kwargs))  # pyright: ignore[reportArgumentType]
    return path
