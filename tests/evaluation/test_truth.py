"""True returns: read from a file, and measured in the real environment."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.envs.environment import make_env, reset_seed
from adm_jax.evaluation import policies, truth
from adm_jax.types import EnvSpec, InputError
from tests.evaluation.policy_files import write

GAMMAS = (0.995, 1.0)
MEASURED = truth.Conditions("Hopper-v4", 1000, False)


def test_reads_every_discount(tmp_path):
    path = tmp_path / "truth.json"
    content = {"a": {"return_mean": 5, "discounted_0.995_mean": 4.5}, "b": {"return_mean": 7.0}}
    path.write_text(json.dumps({"policies": content}))
    np.testing.assert_array_equal(truth.read_truth(str(path), MEASURED, ["a"], GAMMAS), [[4.5, 5.0]])
    np.testing.assert_array_equal(truth.read_truth(str(path), MEASURED, ["b", "a"], (1.0,)), [[7.0], [5.0]])
    with pytest.raises(InputError, match=r"b: discounted_0\.995_mean is None; must be a number"):
        truth.read_truth(str(path), MEASURED, ["a", "b"], GAMMAS)
    with pytest.raises(InputError, match=r"has no return of c and 1 others"):
        truth.read_truth(str(path), MEASURED, ["a", "c", "d"], GAMMAS)


@pytest.mark.parametrize(
    "entry", [27.5, None, {"return_mean": True}, {"return_mean": "1"}, {"return_mean": 10**400}]
)
def test_an_entry_that_holds_no_numbers_is_told(tmp_path, entry):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"env_id": "Hopper-v4", "policies": {"a": entry}}))
    with pytest.raises(InputError, match=r"a: return_mean is .*must be a number"):
        truth.read_truth(str(path), MEASURED, ["a"], (1.0,))


@pytest.mark.parametrize(
    ("name", "value"), [("env_id", "Ant-v4"), ("max_steps", 20), ("deterministic", True)]
)
def test_returns_of_something_else_are_refused(tmp_path, name, value):
    path = tmp_path / "truth.json"
    content = {"policies": {"a": {"return_mean": 5}}}
    path.write_text(json.dumps({**content, name: value}))
    with pytest.raises(InputError, match=rf"is of {name} {value}, this evaluation of"):
        truth.read_truth(str(path), MEASURED, ["a"], (1.0,))
    path.write_text(json.dumps({**content, name: getattr(MEASURED, name)}))
    truth.read_truth(str(path), MEASURED, ["a"], (1.0,))


def test_what_is_measured_can_be_read(tmp_path):
    returns = np.arange(12.0).reshape(2, 3, 2)
    content = truth.to_truth(MEASURED, ["a", "b"], GAMMAS, returns)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    read = truth.read_truth(str(tmp_path / "truth.json"), MEASURED, ["a", "b"], GAMMAS)
    np.testing.assert_allclose(read, returns.mean(axis=1))
    assert content["policies"]["a"]["return_std"] == pytest.approx(returns[0, :, 1].std())


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', '{"policies": 3}'])
def test_what_is_no_truth_is_told(tmp_path, content):
    path = tmp_path / "truth.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"truth\.json"):
        truth.read_truth(str(path), MEASURED, ["a"], GAMMAS)
    with pytest.raises(InputError, match=r"nothing\.json: No such file"):
        truth.read_truth(str(tmp_path / "nothing.json"), MEASURED, ["a"], GAMMAS)


def test_real_returns_equal_single_environments(tmp_path):
    """Two kinds of policies, a discount and none, against Gymnasium stepped alone."""
    rng = np.random.default_rng(0)
    plain = {"w0": 0.3 * rng.normal(size=(11, 3)), "b0": np.zeros(3), "log_std": np.zeros(3)}
    other = {"w0": rng.normal(size=(11, 4)), "b0": np.zeros(4), "w1": rng.normal(size=(4, 3))}
    other |= {"b1": np.zeros(3), "log_std": np.zeros(3)}
    paths = [write(tmp_path / f"{i}.npz", content) for i, content in enumerate((plain, other, plain))]
    read = [policies.read_policy(path) for path in paths]
    env_spec = EnvSpec("Hopper-v4", {})
    done = truth.real_episodes(env_spec, read, GAMMAS, 2, deterministic=True, marks=(1, 5, 1000))
    short = truth.real_episodes(env_spec, read, GAMMAS, 2, deterministic=True, max_steps=5)
    assert done.returns.shape == (3, 2, 2)
    for leaf in done:
        np.testing.assert_array_equal(leaf[0], leaf[2])
    env = make_env(env_spec)
    for index, policy in enumerate(read[:2]):
        act = policies.action_fn(policy.kind, -np.ones(3), np.ones(3), deterministic=True)
        for episode in range(2):
            obs, _ = env.reset(seed=reset_seed(0, 0, 0, episode))
            rewards, ended = [], False
            while not ended:
                action = act(policy.params, jnp.asarray(obs[None], jnp.float32), jax.random.key(0))
                obs, reward, terminated, truncated, _ = env.step(np.asarray(action[0]))
                rewards.append(reward)
                ended = terminated or truncated
            expected = [sum(r * gamma**t for t, r in enumerate(rewards)) for gamma in GAMMAS]
            np.testing.assert_allclose(done.returns[index, episode], expected, rtol=1e-4)
            assert done.lengths[index, episode] == len(rewards)
            sums = [sum(rewards[:mark]) for mark in (1, 5, 1000)]
            np.testing.assert_allclose(done.after[index, episode], sums, rtol=1e-4)
            expected = [sum(r * gamma**t for t, r in enumerate(rewards[:5])) for gamma in GAMMAS]
            np.testing.assert_allclose(short.returns[index, episode], expected, rtol=1e-4)
            assert short.lengths[index, episode] == min(len(rewards), 5)
    env.close()


def test_many_policies_are_stepped_a_part_at_a_time(tmp_path, monkeypatch):
    content = {"w0": np.zeros((11, 3)), "b0": np.zeros(3), "log_std": np.zeros(3)}
    read = [policies.read_policy(write(tmp_path / f"{i}.npz", content)) for i in range(3)]
    env_spec = EnvSpec("Hopper-v4", {})
    together = truth.real_episodes(env_spec, read, GAMMAS, 2, deterministic=True)
    monkeypatch.setattr(truth, "_MAX_ROWS", 4)
    parted = truth.real_episodes(env_spec, read, GAMMAS, 2, deterministic=True)
    jax.tree.map(np.testing.assert_array_equal, parted, together)


def test_sampled_actions_differ_and_follow_the_seed(tmp_path):
    content = {"w0": np.zeros((11, 3)), "b0": np.zeros(3), "log_std": np.zeros(3)}
    read = [policies.read_policy(write(tmp_path / "a.npz", content))]
    env_spec = EnvSpec("Hopper-v4", {})
    one, again, other = (
        truth.real_episodes(env_spec, read, (1.0,), 3, deterministic=False, seed=seed).returns
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()
