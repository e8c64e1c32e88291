"""Actions in any finite box, from data to a policy in NumPy, in a plant whose best policy is known."""

import json

import gymnasium
import numpy as np
import pytest

import adm_jax
from adm_jax.config import config_for_task
from adm_jax.config.evaluation import OPEConfig
from adm_jax.data.formats import minari_files
from adm_jax.envs import environment
from adm_jax.evaluation import ope
from adm_jax.evaluation.policies import policies_of_run
from adm_jax.runs.policy_file import save_policy
from adm_jax.types import InputError
from tests.cli import scripts
from tests.envs.plant import BOUNDS, STEPS, best_action, record, register_tasks
from tests.tiny import OPTIONS, TINY

pytestmark = pytest.mark.usefixtures("small_curves")
SMALL = {name: value for name, value in TINY.items() if name not in ("task", "dataset")}
SMALL |= {"seeds": (0,), "num_epochs": 2, "fit_max_epochs": 2, "checkpoint_every": 1, "max_backtrack": 2}
LEARNING = {
    "fit_steps_per_epoch": 200, "fit_max_epochs": 3, "dropout_rate": 0.0, "num_epochs": 4, "eval_every": 4,
    "updates_per_epoch": 250, "actor_lr": 3e-3, "critic_lr": 3e-3, "entropy_weight": 0.01, "gamma": 0.9,
    "penalty_coef": 0.0, "policy_hidden_dim": 32, "batch_size": 64, "persistent": True, "horizon": STEPS,
    "checkpoint_every": 4, "eval_episodes": 10, "pretrain_steps": 5, "bc_steps": 5, "hold_epochs": 0,
    "cloning_weight": 0.0, "actor_average": 0.05,
}  # fmt: skip
REWARD = """
import jax.numpy as jnp

def reward(obs, action, next_obs):
    return -jnp.square(0.9 * obs + (action - 50) / 50).sum(axis=-1)
"""


@pytest.fixture(autouse=True, scope="module")
def _tasks():
    register_tasks()


def numpy_policy(path):
    """What the page of the policy file says, and nothing of this library."""
    arrays = dict(np.load(path))
    low, high = arrays["action_low"], arrays["action_high"]

    def act(obs):
        x, num_layers = obs, sum(name.startswith("kernel_") for name in arrays)
        for i in range(num_layers):
            x = x @ arrays[f"kernel_{i}"] + arrays[f"bias_{i}"]
            x = np.maximum(x, 0.0) if i < num_layers - 1 else x
        t = np.tanh(np.split(x, 2)[0])
        return np.clip((low + high) / 2 + (high - low) / 2 * t, low, high)

    return act


def real_return(name, act, seed):
    env = gymnasium.make(f"plant/{name}-v0")
    obs, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(act(obs))
        total, ended = total + reward, terminated or truncated
    return total


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """Learned from random actions within [0, 100], with the plant's reward in its own units."""
    folder = tmp_path_factory.mktemp("tank")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        (folder / "reward_of_the_tank.py").write_text(REWARD)
        data = adm_jax.load_dataset(record("tank", 60), env_id="plant/tank-v0")
        settings = {**SMALL, **LEARNING, "reward": "reward_of_the_tank:reward"}
        return adm_jax.train_offline(data, workdir=str(folder), **settings)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory: pytest.TempPathFactory):
    """The run's policy as a file."""
    bounds = environment.action_bounds("plant/tank-v0")
    path = tmp_path_factory.mktemp("exported") / "learned.npz"
    save_policy(path, policies_of_run(run.path, bounds)[0].params, bounds, {"env_id": "plant/tank-v0"})
    return path


def test_the_best_policy_is_learned(run):
    """Rewards are the user's function, which sees the environment's units; episodes are real ones."""
    returns = run.evaluations["train"]["eval/return"][-1, 0]
    assert returns.mean() > 0.01 * record("tank", 60)["rewards"].sum() / 60
    obs = np.linspace(-0.8, 0.8, 9, dtype=np.float32)[:, None]
    np.testing.assert_allclose(run.policy()(obs), best_action("tank", obs), atol=10.0)
    sampled = run.policy(deterministic=False)(obs)
    assert not np.array_equal(sampled, run.policy()(obs))
    assert ((sampled >= 0) & (sampled <= 100)).all()


def test_an_exported_policy_returns_the_same_in_numpy_alone(run, exported):
    returns = run.evaluations["train"]["eval/return"][-1, 0]
    seeds = [environment.reset_seed(0, LEARNING["num_epochs"], 0, episode) for episode in range(len(returns))]
    act = numpy_policy(exported)
    np.testing.assert_allclose([real_return("tank", act, seed) for seed in seeds], returns, atol=1e-5)
    found = adm_jax.evaluate(run.policy(), "plant/tank-v0", episodes=3, evaluation=LEARNING["num_epochs"])
    np.testing.assert_allclose(found.returns, returns[:3], atol=1e-5)


def test_the_models_actions_are_the_environments(run):
    obs, actions = np.float32([[0.5], [-0.5], [0.0]]), np.float32([[[20.0]], [[90.0]], [[50.0]]])
    expected = 0.9 * obs + actions[:, 0] / 50 - 1
    np.testing.assert_allclose(run.model().predict(obs, actions).mean[:, 0], expected, atol=0.1)
    found = run.model().rollout(run.policy(), obs, 3)
    np.testing.assert_allclose(found.action[:, 0], best_action("tank", obs), atol=10.0)
    np.testing.assert_allclose(found.obs[:, 1], 0.0, atol=0.2)


def test_collected_data_and_policies_are_evaluated(run, exported, tmp_path):
    """``collect``, then ``ope`` of a run, of a file, and of what ``collect`` kept."""
    flags = [
        "--task=tests.envs.plant_tasks:plant-tank",
        "--kinds=random,expert",
        "--num_steps=60",
        "--warmup_steps=40",
    ]
    flags += ["--num_transitions=600", "--dataset=tests/tank", "--policy_dir=kept", "--batch_size=16"]
    done = scripts.run(
        "collect",
        *flags,
        "--policy_hidden_dim=8",
        "--eval_episodes=1",
        "--num_envs=10",
        "--steps_per_iteration=20",
    )
    assert done.returncode == 0, done.stderr
    metadata = json.loads(
        (minari_files.dataset_dir("tests/tank/random-v0") / "data/metadata.json").read_text()
    )
    space = json.loads(metadata["action_space"])
    assert (space["low"], space["high"]) == ([0.0], [100.0])
    action = minari_files.read("tests/tank/random-v0").action
    assert action.min() < 5
    assert action.max() > 95
    fit = {
        "dataset": "tests/tank/random-v0", "workdir": str(tmp_path), "seeds": (0,), "max_backtrack": 2,
        "model_hidden_dim": 32, "num_gru_layers": 1, "num_residual_blocks": 1, "dropout_rate": 0.0,
        "fit_learning_rate": 3e-3, "fit_steps_per_epoch": 400, "fit_max_epochs": 5,
    }  # fmt: skip
    config = OPEConfig(
        dynamics=("adm",), policies=f"{run.path},{exported},kept/expert.npz", deterministic=True,
        real_episodes=20, num_episodes=20, gammas=(1.0,), fqe_steps=0,
    )  # fmt: skip
    result = ope.run(config, [config_for_task("plant-tank", **fit)])
    assert result["policies"] == [f"{run.path.name}/seed0", "learned.npz", "expert.npz"]
    of_run, of_file, of_collect = result["truth"][0]
    np.testing.assert_allclose(
        [of_run, of_file], run.evaluations["train"]["eval/return"][-1].mean(), atol=0.02
    )
    assert of_collect < -0.5
    estimates = [row["mean"] for row in result["estimates"]["1"]["adm"]]
    np.testing.assert_allclose(estimates[:2], 0.0, atol=0.3)
    assert estimates[2] < 0.5 * of_collect


def assert_same_learning(one, other):
    """Metrics, evaluations and, in their own units, policies: as close as rounding lets them be."""
    for phase, columns in one.metrics.items():
        for name, values in columns.items():
            if not name.startswith("time"):
                expected = other.metrics[phase][name]
                np.testing.assert_allclose(values, expected, rtol=2e-3, atol=1e-4, err_msg=f"{phase} {name}")
    for phase, columns in one.evaluations.items():
        returns = other.evaluations[phase]["eval/return"]
        np.testing.assert_allclose(columns["eval/return"], returns, rtol=1e-3, err_msg=phase)
    obs = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    low, high = map(np.array, BOUNDS["mixed"])
    expected = low + (high - low) * (np.asarray(other.policy()(obs)) + 1) / 2
    np.testing.assert_allclose(one.policy()(obs), expected, rtol=1e-3, atol=1e-2)


def test_a_rescaled_copy_of_a_plant_is_learned_the_same_offline(tmp_path):
    """[0, 100] x [-1, 3] as +-1, with everything an offline run can do to actions."""

    def learned(name):
        data = adm_jax.load_dataset(record(name, 30), env_id=f"plant/{name}-v0")
        return adm_jax.train_offline(data, workdir=str(tmp_path), **{**SMALL, **OPTIONS, "eval_every": 1})

    assert_same_learning(learned("mixed"), learned("unit"))


def test_a_rescaled_copy_of_a_plant_is_learned_the_same_online(tmp_path):
    settings = {
        "num_steps": 80,
        "warmup_steps": 40,
        "log_every": 20,
        "eval_every": 20,
        "checkpoint_every": 80,
    }
    settings |= {"eval_episodes": 2, "policy_hidden_dim": 16, "batch_size": 16, "seeds": (0,)}

    def learned(name):
        return adm_jax.train_online(f"plant-{name}", dynamics="none", workdir=str(tmp_path), **settings)

    assert_same_learning(learned("mixed"), learned("unit"))


def test_actions_outside_the_box_are_refused():
    arrays = record("mixed", 3)
    arrays["actions"][7, 1] = 3.5
    message = r"^dataset: episode 0, step 7: action\[1\] is 3.5; must lie in the action bounds \[-1, 3\]"
    with pytest.raises(InputError, match=message):
        adm_jax.load_dataset(arrays, env_id="plant/mixed-v0")
    data = adm_jax.load_dataset(arrays)
    with pytest.raises(
        InputError, match=r"actions of task plant-mixed lie within \[0, 100\] x \[-1, 3\]: data"
    ):
        adm_jax.train_offline(data, task="plant-mixed")
