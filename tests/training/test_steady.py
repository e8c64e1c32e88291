"""The offline loop with the options that preset steady takes, all of them on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from adm_jax.config import OfflineConfig, config_for_task
from adm_jax.config.presets.offline import STEADY
from adm_jax.config.settings import replace_flat, to_flat
from adm_jax.envs import environment
from adm_jax.envs.evaluator import Evaluator
from adm_jax.evaluation.policies import action_fn, policies_of_run
from adm_jax.runs.folder import RunFolder
from adm_jax.tasks import get_task
from adm_jax.training import offline
from adm_jax.training.driver import Run
from tests.stopping import Stop, stop_behind
from tests.tiny import OPTIONS, TINY
from tests.training.run_files import lines, run_folder

pytestmark = pytest.mark.usefixtures("small_curves")


@pytest.fixture(scope="module")
def finished(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory):
    """A run from beginning to end: ``(config, folder)``."""
    workdir = str(tmp_path_factory.mktemp("steady"))
    config = replace_flat(OfflineConfig(), {**TINY, **OPTIONS, "workdir": workdir})
    offline.run(config)
    return config, run_folder(config)


def test_what_is_evaluated_and_estimated_is_written_down(finished):
    _, folder = finished
    evals = [row for row in lines(folder / "eval.jsonl") if row["phase"] == "train"]
    assert all(np.shape(row["eval/unaveraged_return"]) == np.shape(row["eval/return"]) for row in evals)
    assert evals[-1]["eval/unaveraged_return"] != evals[-1]["eval/return"]
    rows = lines(folder / "metrics.jsonl")
    assert [row["phase"] for row in rows if row["epoch"] == 0] == ["model", "pretrain", "bc"]
    estimated = [row for row in rows if "critic/q_initial" in row]
    assert [row["epoch"] for row in estimated] == [2, 4]
    for row in estimated:
        gap = np.subtract(row["critic/q_initial"], row["model/discounted_return"])
        np.testing.assert_allclose(row["critic/q_excess"], gap, rtol=1e-4, atol=1e-4)
    trained = [row for row in rows if row["phase"] == "train"]
    assert all(np.shape(row["actor/cloning"]) == (2,) for row in trained)
    # a tenth of the steps along the data would be left out, more along the policy's
    assert max(np.mean(row["rollout/valid_fraction"]) for row in trained) < 1.0


def test_the_averaged_actor_is_the_policy(finished):
    """A run's policies, read from its checkpoint, return episode by episode what was evaluated last."""
    config, folder = finished
    evaluated = lines(folder / "eval.jsonl")[-1]
    opened = RunFolder.open(folder)
    task = get_task(config.task)
    policies = policies_of_run(folder, environment.action_bounds(task.env))
    evaluator = Evaluator(task.env, [member.seed for member in opened.members], config.eval_episodes)

    low, high = evaluator.action_low, evaluator.action_high
    act_one = action_fn(policies[0].kind, low, high, deterministic=True)
    key = jax.random.key(0)

    def act(obs):
        return np.stack([act_one(policy.params, o, key) for policy, o in zip(policies, obs, strict=True)])

    outcome = evaluator.evaluate(act, evaluation=evaluated["epoch"])
    evaluator.close()
    np.testing.assert_allclose(outcome.returns, evaluated["eval/return"], rtol=1e-4)


def test_results_summarise_the_curve(finished):
    _, folder = finished
    evals = [row for row in lines(folder / "eval.jsonl") if row["phase"] == "train"]
    written = json.loads((folder / "result.json").read_text())["members"]
    for index, member in enumerate(written):
        means = [np.mean(row["eval/return"][index]) for row in evals]
        assert member["return_mean"] == pytest.approx(means[-1])
        assert member["last_10_return_mean"] == pytest.approx(np.mean(means))
        assert member["best_return_mean"] == pytest.approx(max(means))
        assert member["curve_mean"] == pytest.approx((means[0] + means[1]) / 2)  # two evaluations
        unaveraged = np.mean(evals[-1]["eval/unaveraged_return"][index])
        assert member["unaveraged_return_mean"] == pytest.approx(unaveraged)


def test_the_actor_starts_as_the_clone_and_is_held(finished, tmp_path, monkeypatch):
    """Behind the first epoch its parameters are still the clone's; behind the second they are not."""
    config = dataclasses.replace(finished[0], workdir=str(tmp_path))
    seen = {}
    clone, epoch = offline.OfflineLoop._clone, offline.OfflineLoop._train_epoch

    def cloned(loop):
        step = clone(loop)
        seen["clone"] = jax.device_get(loop._of_members(loop._cloned))
        return step

    def trained(loop):
        step = epoch(loop)
        seen[step.epoch] = jax.device_get(loop._train.agent.actor_params)
        if step.epoch == 2:
            raise Stop
        return step

    monkeypatch.setattr(offline.OfflineLoop, "_clone", cloned)
    monkeypatch.setattr(offline.OfflineLoop, "_train_epoch", trained)
    with pytest.raises(Stop):
        offline.run(config)
    jax.tree.map(np.testing.assert_array_equal, seen[1], seen["clone"])
    kernels = [seen[i]["params"]["Dense_0"]["kernel"] for i in (1, 2)]
    assert not np.array_equal(*kernels)


@pytest.mark.parametrize(("phase", "epoch"), [("pretrain", 0), ("train", 3)])
def test_stopped_and_resumed_equals_never_stopped(
    finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, epoch: int
):
    config = dataclasses.replace(finished[0], workdir=str(tmp_path))
    with monkeypatch.context() as patch:
        stop_behind(patch, phase, epoch)
        with pytest.raises(Stop):
            offline.run(config)
    offline.resume(str(run_folder(config)))
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert lines(run_folder(config) / name) == lines(finished[1] / name)


def test_critics_start_as_pretrained(finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And their targets with them, before anything is learned."""
    config = dataclasses.replace(finished[0], workdir=str(tmp_path))
    seen: dict[str, Any] = {}
    pretrain, begin = offline.OfflineLoop._pretrain, offline.OfflineLoop._begin_training

    def pretrained(loop: Any) -> Any:
        step = pretrain(loop)
        seen["pretrained"] = jax.device_get(loop._of_members(loop._pretrained))
        return step

    def begun(loop: Any) -> Any:
        seen["agent"] = begin(loop).agent
        raise Stop

    monkeypatch.setattr(offline.OfflineLoop, "_pretrain", pretrained)
    monkeypatch.setattr(offline.OfflineLoop, "_begin_training", begun)
    with pytest.raises(Stop):
        offline.run(config)
    for params in (seen["agent"].critic_params, seen["agent"].target_critic_params):
        jax.tree.map(np.testing.assert_array_equal, params, seen["pretrained"])


def test_with_persistent_environments(tiny_dataset: str, tmp_path: Path):
    """Full-horizon roll-outs take the same options."""
    full_horizon = {"dynamics": "adm_v2", "persistent": True, "horizon": 4, "num_epochs": 2}
    fields = {**TINY, **OPTIONS, **full_horizon, "workdir": str(tmp_path), "rollout_batch_size": 60}
    config = config_for_task(**fields)
    result = offline.run(config)
    assert all(np.isfinite(member["return_mean"]) for member in result["members"])


def test_estimates_are_of_the_checkpointed_policy(finished):
    """The critics' minimum at the data's initial states, at the mode's actions."""
    config, folder = finished
    opened = RunFolder.open(folder)
    run = Run(offline.plan(config), opened, opened.members)
    restored = run.checkpointer.restore_latest(run.loop.abstract_states())
    agent, loop = restored.state.agent, run.loop
    obs = loop._data.dataset.transitions.obs[loop._starts]
    written = [row for row in lines(folder / "metrics.jsonl") if "critic/q_initial" in row][-1]
    for member in range(2):
        actor, critics = (
            jax.tree.map(lambda x, i=member: x[i], params)
            for params in (agent.average_actor_params, agent.critic_params)
        )
        action = loop.components.agent.mode_action(actor, obs)
        q = loop.components.agent.q_values(critics, obs, action).min(axis=0).mean()
        np.testing.assert_allclose(written["critic/q_initial"][member], q, rtol=1e-4)
    run.close()


def test_preset_steady_is_one_for_all_tasks():
    for task in ("hopper-builtin", "halfcheetah-medium-expert", "pen-human", "auto"):
        flat = to_flat(config_for_task(task, preset="steady"))
        assert {name: flat[name] for name in STEADY} == STEADY
        ensemble = to_flat(config_for_task(task, preset="steady", dynamics="ensemble"))
        assert {name: ensemble[name] for name in STEADY} == STEADY
