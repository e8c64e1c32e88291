"""Environments stepped as a batch against Gymnasium's own, bit by bit."""

import threading

import gymnasium
import numpy as np
import pytest

from adm_jax.envs import batched_mujoco, environment
from adm_jax.envs.batch import GymnasiumBatch, make_batch
from adm_jax.envs.batched_mujoco import BatchedMujoco, is_supported
from adm_jax.envs.evaluator import Evaluator
from adm_jax.types import EnvSpec

WITH_POSITION = {"exclude_current_positions_from_observation": False}
SPECS = {
    **{name: EnvSpec(f"{name}-v4") for name in ("Hopper", "Walker2d", "HalfCheetah", "Ant", "Humanoid")},
    **{
        f"{name} with x": EnvSpec(f"{name}-v4", WITH_POSITION)
        for name in ("Hopper", "Walker2d", "HalfCheetah", "Ant", "Humanoid")
    },
    "Hopper that only lies": EnvSpec("Hopper-v4", {"terminate_when_unhealthy": False, "healthy_reward": 0.3}),
    "Walker2d, first 9": EnvSpec("Walker2d-v4", obs_limit=9),
    "HalfCheetah of 77 steps": EnvSpec("HalfCheetah-v4", {"max_episode_steps": 77, "ctrl_cost_weight": 0.7}),
    "Ant with forces": EnvSpec("Ant-v4", {"use_contact_forces": True, "terminate_when_unhealthy": False}),
    "Ant with forces, first 27": EnvSpec("Ant-v4", {"use_contact_forces": True}, obs_limit=27),
    "Humanoid, first 45": EnvSpec("Humanoid-v4", obs_limit=45),
    "Humanoid, first 100": EnvSpec("Humanoid-v4", obs_limit=100),
    "Humanoid on the floor": EnvSpec("Humanoid-v4", {"terminate_when_unhealthy": False}, obs_limit=45),
}


def actions_of(row: int, step: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Row 0: at random; row 1: nothing; row 2: swings; row 3: jerks from bound to bound; row 4: pushes on."""
    rng = np.random.default_rng([row, step])
    swing = np.sin(0.13 * step + np.arange(low.size))
    choices = (
        rng.uniform(low, high),
        0.0 * high,
        swing * high,
        np.where(rng.random(low.size) < 0.5, low, high),
        0.6 * high,
    )
    return choices[row].astype(np.float32)


def gymnasium_episode(spec: EnvSpec, seed: int, row: int) -> list[tuple]:
    """One episode in an environment of its own: (obs, reward, terminated, truncated) of every step."""
    env = environment.make_env(spec)
    low, high = environment.action_bounds(env).arrays()
    obs, _ = env.reset(seed=seed)
    trace: list[tuple] = [(obs, 0.0, False, False)]
    while not (trace[-1][2] or trace[-1][3]):
        trace.append(env.step(actions_of(row, len(trace) - 1, low, high))[:4])
    env.close()
    return trace


@pytest.mark.parametrize("name", SPECS)
def test_whole_episodes_equal_gymnasium_s_bitwise(name: str) -> None:
    spec, seeds = SPECS[name], [11, 12, 13, 14, 15]
    expected = [gymnasium_episode(spec, seed, row) for row, seed in enumerate(seeds)]
    batch = make_batch(spec, len(seeds))
    assert isinstance(batch, BatchedMujoco)
    obs = batch.reset(seeds)
    for row, trace in enumerate(expected):
        np.testing.assert_array_equal(obs[row], trace[0][0])
    running = np.arange(len(seeds))
    for step in range(1, max(map(len, expected))):
        action = np.stack([actions_of(row, step - 1, batch.action_low, batch.action_high) for row in running])
        result = batch.step(action, running)
        assert result.obs.dtype == result.reward.dtype == np.float64
        for index, row in enumerate(running):
            obs, reward, terminated, truncated = expected[row][step]
            np.testing.assert_array_equal(result.obs[index], obs, err_msg=f"row {row}, step {step}")
            assert result.reward[index] == reward
            assert (result.terminated[index], result.truncated[index]) == (terminated, truncated)
        running = running[~(result.terminated | result.truncated)]
        assert [len(expected[row]) > step + 1 for row in running] == [True] * len(running)
    assert not running.size
    batch.close()


def test_the_episodes_compared_are_of_both_kinds() -> None:
    """Episodes that terminate after different times, and ones of the full length."""
    lengths = {
        name: [len(gymnasium_episode(SPECS[name], seed, row)) - 1 for row, seed in enumerate(range(11, 16))]
        for name in ("Hopper", "Walker2d", "Ant", "Humanoid")
    }
    assert all(len(set(of_rows)) > 2 for of_rows in lengths.values()), lengths
    assert 1000 in lengths["Ant"]


def test_rows_are_reset_by_themselves_and_do_not_touch_each_other() -> None:
    spec = SPECS["Hopper"]
    expected = gymnasium_episode(spec, 21, 0)
    batch = make_batch(spec, 3)
    batch.reset([1, 2, 3])
    idle = np.zeros((2, 3), np.float32)
    for _ in range(5):
        batch.step(idle, np.array([0, 2]))
    obs = batch.reset([21], np.array([1]))
    np.testing.assert_array_equal(obs[0], expected[0][0])
    for step in range(1, len(expected)):
        if step == 7:  # another row begins anew in between, and is stepped in another order
            batch.reset([5], np.array([2]))
            batch.step(idle, np.array([2, 0]))
        action = actions_of(0, step - 1, batch.action_low, batch.action_high)
        result = batch.step(action[None], np.array([1]))
        np.testing.assert_array_equal(result.obs[0], expected[step][0])
        assert result.reward[0] == expected[step][1]
    with pytest.raises(ValueError, match="row 1: its episode has ended"):
        batch.step(idle[:1], np.array([1]))
    batch.close()


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(num_threads: int) -> None:
    batch = BatchedMujoco(environment.make_env("Walker2d-v4"), 4, num_threads)
    other = BatchedMujoco(environment.make_env("Walker2d-v4"), 4, 3)
    np.testing.assert_array_equal(batch.reset([3, 4, 5, 6]), other.reset([3, 4, 5, 6]))
    for step in range(12):
        action = np.random.default_rng(step).uniform(-1, 1, (4, 6)).astype(np.float32)
        for ours, theirs in zip(batch.step(action), other.step(action), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    batch.close()
    other.close()


@pytest.mark.parametrize(
    ("cores", "spare_cores", "num_envs", "threads"),
    [(4, 0, 8, 4), (4, 1, 8, 3), (1, 1, 8, 1), (8, 1, 2, 2)],
)
def test_cores_are_spared(monkeypatch, cores: int, spare_cores: int, num_envs: int, threads: int) -> None:
    """Of those that the process may use; one thread steps rows in any case."""
    monkeypatch.setattr(batched_mujoco, "_usable_cores", lambda: cores)
    evaluator = Evaluator("Hopper-v4", [0], num_envs, spare_cores=spare_cores)
    names: set[str] = set()
    simulate = BatchedMujoco._simulate

    def named(batch, pending):
        names.add(threading.current_thread().name)
        together.wait(timeout=30)  # a thread that had nothing to do would be used twice
        simulate(batch, pending)

    together = threading.Barrier(threads)
    monkeypatch.setattr(BatchedMujoco, "_simulate", named)
    evaluator.evaluate(lambda obs: np.zeros((1, num_envs, 3), np.float32), max_steps=1)
    assert len(names) == threads
    evaluator.close()


def test_a_simulation_that_breaks_breaks_as_gymnasium_s(caplog: pytest.LogCaptureFixture) -> None:
    """MuJoCo resets a simulation whose numbers became too large, controls included."""
    env = environment.make_env(SPECS["Humanoid on the floor"])
    batch = make_batch(SPECS["Humanoid on the floor"], 2)
    env.reset(seed=1)
    batch.reset([1, 2])
    assert isinstance(batch, BatchedMujoco)
    row = batch._rows[0]
    env.unwrapped.data.qvel[:] = row.data.qvel[:] = 1e12
    action = np.full((2, 17), 0.3, np.float32)
    obs, reward, terminated, truncated, _ = env.step(action[0])
    result = batch.step(action)
    np.testing.assert_array_equal(result.obs[0], obs)
    assert (result.reward[0], result.terminated[0], result.truncated[0]) == (reward, terminated, truncated)
    assert caplog.text.count("The simulation is unstable") == 2
    env.close()
    batch.close()


def test_an_error_in_a_thread_surfaces() -> None:
    batch = make_batch("Hopper-v4", 4)
    batch.reset([0, 1, 2, 3])
    assert isinstance(batch, BatchedMujoco)
    broken = batch._rows[3]
    batch._rows[3] = broken._replace(control=np.zeros(2))
    with pytest.raises(ValueError, match="could not broadcast"):
        batch.step(np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match=r"actions of shape \(3, 3\) for 4 rows"):
        batch.step(np.zeros((3, 3), np.float32))
    batch.close()


def test_wrapped_or_other_environments_are_gymnasium_s() -> None:
    env = environment.make_env("Hopper-v4")
    assert is_supported(env)
    assert not is_supported(gymnasium.wrappers.ClipReward(env, -1.0, 1.0))
    with pytest.raises(ValueError, match="none of the environments"):
        BatchedMujoco(gymnasium.wrappers.ClipReward(env, -1.0, 1.0), 2)
    env.close()
    for env_id in ("Hopper-v5", "Pendulum-v1"):
        batch = make_batch(env_id, 2)
        assert isinstance(batch, GymnasiumBatch)
        batch.close()


@pytest.mark.parametrize("spec", [
    EnvSpec("Hopper-v5"), EnvSpec("InvertedPendulum-v4"), EnvSpec("Pendulum-v1", {"max_episode_steps": 30}),
    EnvSpec("Walker2d-v5", obs_limit=5),
])  # fmt: skip
def test_gymnasium_s_vector_environment_equals_environments_alone(spec: EnvSpec) -> None:
    seeds = [11, 12, 13, 14, 15]
    expected = [gymnasium_episode(spec, seed, row) for row, seed in enumerate(seeds)]
    batch = make_batch(spec, 5)
    assert isinstance(batch, GymnasiumBatch)
    for _ in range(2):  # again from its seeds, after episodes that ended at different times
        batch.reset(seeds)
        running = np.arange(5)
        for step in range(1, max(map(len, expected))):
            low, high = batch.action_low, batch.action_high
            result = batch.step(np.stack([actions_of(r, step - 1, low, high) for r in running]), running)
            for index, row in enumerate(running):
                obs, reward, terminated, truncated = expected[row][step]
                np.testing.assert_array_equal(result.obs[index], obs.astype(result.obs.dtype))
                assert result.reward[index] == reward
                assert (result.terminated[index], result.truncated[index]) == (terminated, truncated)
            running = running[~(result.terminated | result.truncated)]
        assert not running.size
    with pytest.raises(ValueError, match="row 0: its episode has ended"):
        batch.step(np.zeros((5, *batch.action_low.shape), np.float32))
    batch.reset([7, 8], np.array([3, 1]))
    batch.step(np.zeros((2, *batch.action_low.shape), np.float32), np.array([1, 3]))
    batch.close()
