"""A run of the online loop: what it leaves behind, and that stopping it changes nothing."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from adm_jax.config import OnlineConfig, online_config_for_task
from adm_jax.envs.experience import Experience
from adm_jax.evaluation.policies import read_policies
from adm_jax.population.compiling import MemberProgram
from adm_jax.runs import config_file
from adm_jax.runs.signals import Interrupted
from adm_jax.training import online
from adm_jax.types import ActionBounds, InputError
from benchmarks.runs import draw_runs, summarize_run
from tests.cli import scripts
from tests.runs.event_records import points
from tests.stopping import Stop, signal_in, stop_behind
from tests.training.run_files import computed, kill, lines
from tests.training.tiny_online import tiny

pytestmark = pytest.mark.usefixtures("small_curves")


def run_folder(config: OnlineConfig) -> Path:
    (folder,) = (Path(config.workdir) / online.algorithm(config) / config.task).iterdir()
    return folder


def assert_same_run(one: Path, other: Path) -> None:
    assert lines(one / "metrics.jsonl") == lines(other / "metrics.jsonl")
    assert lines(one / "eval.jsonl") == lines(other / "eval.jsonl")
    assert points(one / "tensorboard") == points(other / "tensorboard")
    newest = [max((folder / "checkpoints").glob("train-*")) for folder in (one, other)]
    ours, theirs = (ocp.load(folder / "arrays") for folder in newest)
    assert ours.keys() == theirs.keys()
    assert {"state/agent/log_alpha", "recorded/truncated"} <= ours.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(np.asarray(array), np.asarray(theirs[name]), err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnlineConfig, Path, dict]:
    config = tiny(workdir=str(tmp_path_factory.mktemp("online")))
    result = online.run(config)
    return config, run_folder(config), result


def test_folder_and_result_hold_what_is_promised(uninterrupted) -> None:
    config, folder, result = uninterrupted
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "eval.jsonl", "result.json"),
        *("curves.png", "checkpoints", "tensorboard", ".lock"),
    }
    assert json.loads((folder / "result.json").read_text()) == result
    assert folder.parent.parent.name == result["algorithm"] == "admpo_on"
    assert (result["steps"], result["warmup_steps"]) == (140, 60)
    assert result["updates"] == (140 - 60 + 1) * config.updates_per_step
    assert [member["seed"] for member in result["members"]] == [0, 1]
    assert all(member["num_episodes"] == 2 for member in result["members"])
    seconds = result["wall_clock"]
    assert all(seconds[kind] > 0 for kind in ("compile", "environment", "fit", "rollout", "update"))


def test_lines_are_told_by_environment_steps(uninterrupted) -> None:
    _, folder, _ = uninterrupted
    metrics, evals = (lines(folder / name) for name in ("metrics.jsonl", "eval.jsonl"))
    assert [row["steps"] for row in metrics] == [20, 40, 60, 80, 100, 120, 140]
    assert [row["steps"] for row in evals] == [80, 120, 140]  # none of the warm-up
    assert "critic/loss" not in metrics[1]
    assert np.isfinite(metrics[-1]["critic/loss"]).all()
    assert [row["rollout/length"][0] for row in metrics if "rollout/length" in row] == [1, 2, 3, 4, 4]
    # the pendulum's reward is 1 a step
    assert all(row["eval/return"] == row["eval/length"] for row in evals)


def test_its_policies_are_read_from_the_newest_checkpoint(uninterrupted) -> None:
    config, folder, _ = uninterrupted
    policies = read_policies(str(folder), 4, ActionBounds.symmetric(3.0, 1))
    assert [policy.name for policy in policies] == [f"{folder.name}/seed0", f"{folder.name}/seed1"]
    newest = ocp.load(max((folder / "checkpoints").glob("train-*")) / "arrays")
    saved = np.asarray(newest["state/agent/actor_params/params/Dense_0/kernel"])
    assert saved.shape == (2, 4, config.sac.policy_hidden_dim)
    for policy, kernel in zip(policies, saved, strict=True):
        np.testing.assert_array_equal(policy.params["params"]["Dense_0"]["kernel"], kernel)


@pytest.mark.parametrize("steps", [40, 100])  # before any checkpoint, and behind one
def test_stopped_and_resumed_equals_never_stopped(
    uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    config = dataclasses.replace(uninterrupted[0], workdir=str(tmp_path))
    closed: list[Experience] = []
    with monkeypatch.context() as patch:
        patch.setattr(Experience, "close", lambda experience: closed.append(experience))
        stop_behind(patch, "train", steps)
        with pytest.raises(Stop):
            online.run(config)
    assert len(closed) == 1
    folder = run_folder(config)
    online.resume(str(folder))
    assert_same_run(folder, uninterrupted[1])


@pytest.mark.parametrize("steps", [50, 93])  # of the warm-up, and between two lines of metrics
def test_a_signal_saves_the_step_it_comes_in(
    uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    config = dataclasses.replace(uninterrupted[0], workdir=str(tmp_path))
    with monkeypatch.context() as patch:
        signal_in(patch, "train", steps, signal.SIGINT)
        with pytest.raises(Interrupted, match="stopped by SIGINT; adm-jax online --resume="):
            online.run(config)
    folder = run_folder(config)
    assert f"train-{steps:06}" in os.listdir(folder / "checkpoints")
    online.resume(str(folder))
    assert_same_run(folder, uninterrupted[1])


def test_killed_and_resumed_equals_never_stopped(uninterrupted, tmp_path: Path) -> None:
    """SIGKILL once a checkpoint with a model stands, whatever is being written then."""
    config = dataclasses.replace(uninterrupted[0], workdir=str(tmp_path))
    kill("admpo_on", config, "train-000080")
    folder = run_folder(config)
    online.resume(str(folder))
    assert_same_run(folder, uninterrupted[1])


def test_a_finished_run_is_not_run_again(uninterrupted, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder, result = uninterrupted
    assert online.resume(str(folder)) == result
    assert "this run is finished" in capsys.readouterr().out


def test_extended_twice_it_is_the_run_that_was_begun_so_long(uninterrupted, tmp_path: Path) -> None:
    """What was recorded gets more room; behind an end that was due an evaluation, and one that was not."""
    config = dataclasses.replace(uninterrupted[0], workdir=str(tmp_path), num_steps=80)
    online.run(config)
    folder = run_folder(config)
    online.resume(str(folder), num_steps=100)
    with pytest.raises(InputError, match=r"^num_steps: 80 is less than the 100 that .* has done; give more"):
        online.resume(str(folder), num_steps=80)
    result = online.resume(str(folder), num_steps=140)
    assert_same_run(folder, uninterrupted[1])
    recorded = json.loads((folder / "config.json").read_text())["extensions"]
    assert [(x["before"], x["num_steps"], x["from"]) for x in recorded] == [(80, 100, 80), (100, 140, 80)]
    del result["extensions"]
    assert computed(result) == computed(uninterrupted[2])


def test_a_run_is_summarized_and_drawn_beside_others(uninterrupted, tmp_path: Path) -> None:
    _, folder, result = uninterrupted
    summary = json.loads(json.dumps(summarize_run.summarize(folder)))
    assert summary["command"].startswith("python ")
    means = [member["return_mean"] for member in result["members"]]
    assert summary["returns"]["members"]["mean"] == pytest.approx(np.mean(means))
    assert [row["steps"] for row in summary["metrics"]] == list(range(20, 141, 20))
    assert {len(row["model/best_error"]) for row in summary["metrics"][2:]} == {2}
    curve = draw_runs.curve(summary)
    assert curve["at"].tolist() == [80, 120, 140]
    assert curve["mean"][-1] == pytest.approx(np.mean(means))
    assert (curve["low"] <= curve["mean"]).all()
    draw_runs.draw({"ADMPO-ON": summary, "again": summary}, str(tmp_path / "runs.png"))
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("dynamics", "name"), [("ensemble", "mbpo"), ("none", "sac")])
def test_the_baselines_run_in_the_same_loop(dynamics: str, name: str, tmp_path: Path) -> None:
    config = tiny(dynamics, workdir=str(tmp_path), num_steps=100)
    result = online.run(config)
    assert result["algorithm"] == name
    metrics = lines(run_folder(config) / "metrics.jsonl")
    assert ("model/holdout_nll" in metrics[-1]) == (dynamics != "none")


def test_a_member_that_breaks_is_frozen_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("none", workdir=str(tmp_path), seeds=(0,), critic_lr=(1e-3, 1e30), num_steps=100)
    result = online.run(config)
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: actor/entropy of seed0,critic_lr=1e+30 is not finite in step 60",
        "warning: the policy of seed0,critic_lr=1e+30 is frozen in step 60, as it was before",
    ]
    frozen = {"seed": 0, "critic_lr": 1e30, "epoch": 60, "quantity": "actor/entropy"}
    assert result["frozen"] == [frozen]
    assert np.isfinite([member["return_mean"] for member in result["members"]]).all()
    whole, broken = result["settings"]
    assert (whole["left_out"], broken["left_out"]) == ([], ["seed0,critic_lr=1e+30"])
    assert (whole["return_mean"], broken["return_mean"]) == (result["members"][0]["return_mean"], None)
    assert scripts.run("admpo_on", f"--resume={run_folder(config)}").returncode == 3


def test_nothing_is_left_of_a_run_that_could_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(workdir=str(tmp_path / "runs"), memory_limit_gib=1e-6)
    with pytest.raises(InputError, match=r"memory: about .* memory_limit_gib is 1e-06"):
        online.run(config)
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(MemberProgram, "compile", None)  # the disk is asked before anything is compiled
    with pytest.raises(InputError, match=r"workdir: 3 checkpoints of .* do not fit into the 0.0 MiB"):
        online.run(tiny("none", workdir=str(tmp_path / "runs")))
    assert not (tmp_path / "runs").exists()


def test_the_offline_loop_s_folder_is_not_resumed(tmp_path: Path) -> None:
    config_file.write(
        tmp_path,
        {"algorithm": "mopo", "task": "hopper", "members": [{"seed": 0}], "config": {"dynamics": "adm"}},
    )
    with pytest.raises(InputError, match=r"holds no run: config.json lacks config\.actor_every"):
        online.resume(str(tmp_path))


def test_a_fit_that_diverges_ends_the_run_in_one_line(tmp_path: Path) -> None:
    message = r"^fit_learning_rate: 1e\+30 is too high for adm: seed 0 has no finite held-out error after"
    with pytest.raises(InputError, match=message):
        online.run(tiny(workdir=str(tmp_path), fit_learning_rate=1e30))


@pytest.mark.slow
@pytest.mark.parametrize("refit", ["warm", "scratch"])
def test_the_inverted_pendulum_is_solved(tmp_path: Path, refit: str) -> None:
    """Return 1000, the whole episode, within 5,000 steps at 5 updates a step, for three seeds at once."""
    config = online_config_for_task("inverted_pendulum", workdir=str(tmp_path), refit=refit)
    assert config.num_steps <= 5_000
    assert config.updates_per_step <= 5
    result = online.run(config)
    assert [member["return_mean"] for member in result["members"]] == [1000.0] * 3
    if refit == "warm":
        assert result["wall_clock"]["total"] < 600
