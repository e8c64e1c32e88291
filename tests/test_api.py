"""The library's functions as a user calls them."""

import shutil
import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adm_jax
from adm_jax import InputError
from adm_jax.config.settings import leaves
from adm_jax.data.formats import minari_io
from adm_jax.tasks import registry
from adm_jax.training.data import put_on_device
from adm_jax.types import Segment
from tests.data.sample_data import d4rl_arrays
from tests.tiny import TINY

pytestmark = pytest.mark.usefixtures("small_curves")
SETTINGS = {name: value for name, value in TINY.items() if name not in ("task", "dataset")}


@pytest.fixture(scope="module")
def arrays(tiny_dataset: str):
    return d4rl_arrays(minari_io.load(tiny_dataset))


def linear_arrays(num_episodes, length):
    """Episodes of s' = 0.9 R s + 0.3 a, a rotation R, with random actions."""
    rng = np.random.default_rng(0)
    turn = 0.9 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    obs, action, next_obs = [], [], []
    for _ in range(num_episodes):
        state = rng.normal(size=2)
        for _ in range(length):
            obs.append(state)
            action.append(rng.uniform(-1, 1, 2))
            state = np.float32(turn @ state + 0.3 * action[-1])
            next_obs.append(state)
    rows = num_episodes * length
    arrays = {"observations": obs, "actions": action, "next_observations": next_obs}
    arrays = {name: np.float32(value) for name, value in arrays.items()}
    ends = np.arange(rows) % length == length - 1
    return {**arrays, "rewards": np.zeros(rows), "terminals": np.zeros(rows, bool), "timeouts": ends}


@pytest.fixture(scope="module")
def linear():
    return linear_arrays(40, 50)


@pytest.fixture(scope="module")
def fitted(linear):
    """A model of them, and the epochs of its fit."""
    epochs = []
    settings = {"max_backtrack": 3, "model_hidden_dim": 64, "num_gru_layers": 1, "num_residual_blocks": 1}
    settings |= {"fit_max_epochs": 4, "fit_steps_per_epoch": 400, "holdout_batch_size": 64}
    return adm_jax.fit(linear, seed=3, on_epoch=epochs.append, **settings), epochs


@pytest.fixture(scope="module")
def run(arrays, tmp_path_factory: pytest.TempPathFactory):
    """From arrays, with what steady makes of a task that nothing is published for."""
    data = adm_jax.load_dataset(arrays, env_id="Hopper-v4")
    workdir = str(tmp_path_factory.mktemp("runs"))
    return adm_jax.train_offline(data, pretrain_steps=5, workdir=workdir, **SETTINGS)


def test_importing_costs_nothing_and_names_everything():
    code = (
        "import sys, adm_jax; assert 'jax' not in sys.modules and 'adm_jax.api' not in sys.modules; "
        "assert all(hasattr(adm_jax, name) for name in adm_jax.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        adm_jax.fitt  # noqa: B018


def test_arrays_and_dataset_are_the_same(arrays, tiny_dataset):
    loaded, stored = adm_jax.load_dataset(arrays), adm_jax.load_dataset(tiny_dataset)
    assert loaded.digests() == stored.digests()
    without = {name: value for name, value in arrays.items() if name != "timeouts"}
    assert adm_jax.load_dataset(without).digests() == stored.digests()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": None}, "dataset: rewards is missing; give observations, actions, rewards"),
        ({"obs": np.zeros((1_000, 11))}, "dataset: observations is there twice, as obs too"),
        ({"rewards": [[1.0], [1.0, 2.0]]}, "dataset: reward is no array of numbers"),
        ({"returns": np.zeros(3)}, "dataset: returns is unknown; give observations"),
        ({"rewards": np.full(1_000, np.nan)}, "dataset: episode 0, step 0: reward is nan; must be finite"),
        ({"actions": np.zeros((7, 3))}, "dataset: action"),
        ({"terminals": np.full(1_000, 3)}, "terminated"),
    ],
)
def test_bad_arrays_are_one_line(arrays, change, message):
    changed = {name: value for name, value in {**arrays, **change}.items() if value is not None}
    with pytest.raises(InputError) as error:
        adm_jax.load_dataset(changed)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", [None, 3, [1.0]])
def test_what_is_no_dataset_is_one_line(source):
    with pytest.raises(InputError, match=r"dataset: .* is none; give a Minari id, a file, or"):
        adm_jax.load_dataset(source)


def test_a_dataset_s_environment_is_given_once(arrays):
    data = adm_jax.load_dataset(arrays, env_id="Hopper-v4")
    with pytest.raises(InputError, match="env_id: Hopper-v4 goes with arrays or a file"):
        adm_jax.load_dataset(data, env_id="Hopper-v4")
    with pytest.raises(InputError, match="env_id: 3 is no text"):
        adm_jax.load_dataset(arrays, env_id=3)


def actions_from(arrays, starts, number):
    return np.stack([arrays["actions"][i : i + number] for i in starts])


def test_predictions_are_the_model_s_own(fitted, linear):
    """The unit of k steps back is what validation predicts for k: the same network, asked another way."""
    model, starts = fitted[0], np.arange(0, 250, 50)
    obs, actions = linear["observations"][starts], actions_from(linear, starts, 4)
    found = model.predict(obs, actions)
    assert found.mean.shape == found.sample.shape == (5, 4, 2)
    assert found.reward.shape == found.uncertainty.shape == (5, 4)
    assert found.unit_means.shape == found.unit_stds.shape == (5, 4, 3, 3)
    np.testing.assert_array_equal(found.valid[0].sum(axis=-1), [1, 2, 3, 3])
    for k in range(1, 4):
        truth = linear["next_observations"][starts + k - 1]
        along = np.concatenate([np.repeat(obs[:, None], k, axis=1), truth[:, None]], axis=1)
        segment = Segment(
            jnp.asarray(along), jnp.asarray(actions[:, :k]), jnp.zeros((5, k)), jnp.ones((5, k), bool)
        )
        errors = jax.jit(model.dynamics.validate)(model.params, segment)
        target = np.concatenate([truth, np.zeros((5, 1))], axis=-1)
        expected = np.mean((found.unit_means[:, k - 1, k - 1] - target) ** 2)
        np.testing.assert_allclose(errors.mse[0, k - 1], expected, rtol=1e-3)
    deviation = np.asarray(found.unit_means[:, 3, :, :2]).std(axis=1)
    np.testing.assert_allclose(found.uncertainty[:, 3], np.sqrt((deviation**2).mean(-1)), rtol=1e-3)
    np.testing.assert_allclose(found.uncertainty[:, 0], 0.0, atol=1e-6)
    single = model.predict(obs[0], actions[0])
    assert single.mean.shape == (4, 2)
    np.testing.assert_allclose(single.unit_means[0], found.unit_means[0, 0], rtol=1e-4, atol=1e-5)


def test_a_fit_learns_known_dynamics(fitted, linear):
    """Every k steps ahead the error is a small part of how far the state has moved."""
    model, epochs = fitted
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert (repr(model), model.max_backtrack) == ("Model(name='adm')", 3)
    starts = np.arange(0, 2_000, 50)
    found = model.predict(linear["observations"][starts], actions_from(linear, starts, 3))
    for k in range(3):
        truth = linear["next_observations"][starts + k]
        moved = np.mean((truth - linear["observations"][starts]) ** 2)
        assert np.mean((found.unit_means[:, k, k, :-1] - truth) ** 2) < 0.05 * moved


def test_a_rollout_follows_the_policy(fitted, linear):
    model, start = fitted[0], linear["observations"][:6]

    def policy(obs):
        return jnp.tanh(obs)

    found = model.rollout(policy, start, 5, seed=1)
    assert found.obs.shape == (6, 6, 2)
    assert found.reward.shape == found.uncertainty.shape == (6, 5)
    np.testing.assert_array_equal(found.obs[:, 0], start)
    np.testing.assert_allclose(found.action, jnp.tanh(found.obs[:, :-1]), rtol=1e-5)
    assert not np.array_equal(found.obs, model.rollout(policy, start, 5, seed=2).obs)


def test_bad_questions_are_one_line(fitted):
    model = fitted[0]
    with pytest.raises(InputError, match=r"actions: has shape \(2, 3, 5\); must be \(2, any, 2\)"):
        model.predict(np.zeros((2, 2)), np.zeros((2, 3, 5)))
    with pytest.raises(InputError, match=r"obs: has shape \(1, 4\); must be \(any, 2\)"):
        model.predict(np.zeros(4), np.zeros((3, 2)))
    with pytest.raises(InputError, match="uncertainty: guess is unknown to adm; one of std_of_means"):
        model.predict(np.zeros(2), np.zeros((1, 2)), uncertainty="guess")
    with pytest.raises(InputError, match="obs: is no array of numbers"):
        model.predict("a", np.zeros((1, 2)))
    with pytest.raises(InputError, match=r"actions: has shape \(1, 0, 2\); must be of at least one step"):
        model.predict(np.zeros(2), np.zeros((0, 2)))
    for length in (-1, 2.5):
        with pytest.raises(InputError, match=r"length: .* must be a whole number of at least 1"):
            model.rollout(jnp.tanh, np.zeros((1, 2)), length)
    with pytest.raises(InputError, match=r"policy: gives \(1, 1\) for observations \(1, 2\); must be"):
        model.rollout(lambda obs: obs[:, :1], np.zeros((1, 2)), 3)
    with pytest.raises(InputError, match="policy: JAX cannot trace it"):
        model.rollout(lambda obs: np.tanh(np.asarray(obs)), np.zeros((1, 2)), 3)
    for seed in (-1, 1.5, "x"):
        with pytest.raises(InputError, match=r"seed: .* must be a whole number of at least 0"):
            adm_jax.fit(linear_arrays(2, 10), seed=seed)
    with pytest.raises(InputError, match="depth: is no setting of the fit or of adm; one of backtrack"):
        adm_jax.fit(linear_arrays(2, 10), depth=3)
    with pytest.raises(InputError, match="no_such_model"):
        adm_jax.fit(linear_arrays(2, 10), "no_such_model")


def test_a_run_gives_curves_policies_and_models(run, arrays):
    again = adm_jax.load_run(run.path)
    assert [member.seed for member in again.members] == [0, 1]
    assert again.result == run.result
    assert again.result["dataset_id"] == "dataset"
    returns = again.evaluations["train"]["eval/return"]
    assert returns.shape == (2, 2, 2)
    assert again.metrics["train"]["critic/q"].shape == (4, 2)
    # the policy is the one that was evaluated: an evaluation's starts are its own
    policy = again.policy(1)
    assert policy(np.zeros(11)).shape == (3,)
    np.testing.assert_allclose(jax.jit(policy)(jnp.zeros((4, 11)))[0], policy(np.zeros(11)), rtol=1e-5)
    outcome = adm_jax.evaluate(policy, "Hopper-v4", episodes=2, seed=1, evaluation=4)
    np.testing.assert_allclose(outcome.returns, returns[-1, 1], rtol=1e-4)
    # and the model the one whose held-out errors were measured
    model = again.model(1)
    holdout = put_on_device(again.config, adm_jax.load_dataset(arrays), model.max_backtrack).holdout
    known = np.asarray(holdout.valid.any(axis=0))
    mse = np.asarray(jax.jit(model.dynamics.validate)(model.params, holdout).mse).mean(axis=0)[known].mean()
    np.testing.assert_allclose(mse, again.metrics["model"]["model/holdout_mse"][0, 1], rtol=1e-3)


def test_a_fit_is_that_of_a_run(arrays, tmp_path):
    """The same parameters to the last bit, by the same programs."""
    data = adm_jax.load_dataset(arrays, env_id="Hopper-v4")
    short = {"num_epochs": 1, "hold_epochs": 0, "pretrain_steps": 5, "seeds": (1,), "workdir": str(tmp_path)}
    run = adm_jax.train_offline(data, **{**SETTINGS, **short})
    names = {leaf.name for part in (run.config.fit, run.config.model) for leaf in leaves(type(part))}
    own = {name: value for name, value in SETTINGS.items() if name in names}
    fitted = adm_jax.fit(data, seed=1, **own).params
    jax.tree.map(np.testing.assert_array_equal, fitted, run.model(1).params)


def stopped_before_its_end(run, folder):
    """A copy of a run's folder as it was at the checkpoint before its last."""
    shutil.copytree(run.path, folder)
    (folder / "result.json").unlink()
    shutil.rmtree(max((folder / "checkpoints").glob("train-*")))
    return folder


def test_a_run_on_arrays_goes_on_with_them(run, arrays, tmp_path):
    folder = stopped_before_its_end(run, tmp_path / "run")
    with pytest.raises(InputError, match=r"a run on arrays goes on with adm_jax.resume\(folder, adm_"):
        adm_jax.resume(folder)
    others = {**arrays, "rewards": arrays["rewards"] + 1}
    with pytest.raises(InputError, match=r"other conditions: dataset_sha256\.reward was \w{64}, is \w{64}; "):
        adm_jax.resume(folder, adm_jax.load_dataset(others, env_id="Hopper-v4"))
    again = adm_jax.resume(folder, adm_jax.load_dataset(arrays, env_id="Hopper-v4"))
    for phase, columns in run.evaluations.items():
        returns = again.evaluations[phase]["eval/return"]
        np.testing.assert_array_equal(returns, columns["eval/return"])


def test_what_a_run_lacks_is_one_line(run, tmp_path):
    with pytest.raises(InputError, match=r"seed: 0 members of .* are of seed=7; it has seed0, seed1"):
        run.policy(7)
    with pytest.raises(InputError, match=r"penalty_coef: 0 members of .* are of seed=0, penalty_coef=5"):
        run.policy(0, penalty_coef=5)
    with pytest.raises(InputError, match=r"seed: 2 members of .* are of any seed"):
        run.model()
    with pytest.raises(InputError, match="folder: None is no path"):
        adm_jax.load_run(None)
    with pytest.raises(InputError, match="env: 3 is no text"):
        adm_jax.train_online(3)
    with pytest.raises(InputError, match=r"policy: gives \(2, 11\) for observations \(2, 11\); must be"):
        adm_jax.evaluate(lambda obs: obs, "Hopper-v4")
    with pytest.raises(InputError, match="episodes: 0 must be a whole number of at least 1"):
        adm_jax.evaluate(lambda obs: obs[:, :3], "Hopper-v4", episodes=0)
    with pytest.raises(InputError, match="holds no run"):
        adm_jax.load_run(tmp_path)
    for function in (adm_jax.train_online, lambda env: adm_jax.evaluate(None, env)):
        with pytest.raises(InputError, match=r"no environment 'Hoper-v4'; import .*; task: .*one of hopper"):
            function("Hoper-v4")
    with pytest.raises(InputError, match=r"obs: has shape \(2, 4\); must be \(\.\.\., 11\)"):
        adm_jax.evaluate(run.policy(0), "InvertedPendulum-v4")
    assert repr(run) == f"Run('{run.path}')"


def test_an_environment_by_its_id_is_learned_in(tmp_path, monkeypatch):
    gymnasium.register(
        "test/Slide-v0", entry_point="gymnasium.envs.mujoco.inverted_pendulum_v4:InvertedPendulumEnv",
        max_episode_steps=20,
    )  # fmt: skip
    with pytest.raises(InputError, match="what terminates test/Slide-v0 is not known; give never, another"):
        adm_jax.train_online("test/Slide-v0")
    settings = {
        "num_steps": 60,
        "warmup_steps": 20,
        "log_every": 20,
        "eval_every": 20,
        "checkpoint_every": 20,
    }
    settings |= {"eval_episodes": 1, "policy_hidden_dim": 16, "batch_size": 16, "seeds": (0,)}
    run = adm_jax.train_online("test/Slide-v0", dynamics="none", workdir=str(tmp_path), **settings)
    assert run.evaluations["train"]["eval/return"].shape[1:] == (1, 1)
    assert run.policy()(np.zeros(4)).shape == (1,)
    with monkeypatch.context() as elsewhere:
        elsewhere.delitem(gymnasium.registry, "test/Slide-v0")
        with pytest.raises(InputError, match=r"environment test/Slide-v0: .*; import the package that reg"):
            run.policy()
    # in another process, which has registered the environment, nothing knows of the task
    folder = stopped_before_its_end(run, tmp_path / "run")
    monkeypatch.delitem(registry._TASKS, "test-Slide-v0")
    assert adm_jax.load_run(folder).policy()(np.zeros(4)).shape == (1,)
    again = adm_jax.resume(folder)
    returns = [x.evaluations["train"]["eval/return"] for x in (run, again)]
    np.testing.assert_array_equal(*returns)
    with pytest.raises(InputError, match=r"dataset: .* is an online run, which learns from none"):
        adm_jax.resume(folder, linear_arrays(2, 10))
