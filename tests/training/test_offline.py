"""The offline loop as a whole: what it leaves behind, and that stopping it changes nothing."""

import dataclasses
import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from adm_jax.config import OfflineConfig
from adm_jax.config.settings import replace_flat
from adm_jax.data.formats import minari_io
from adm_jax.envs.evaluator import Evaluator
from adm_jax.runs import config_file
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.runs.folder import RunFolder
from adm_jax.runs.signals import Interrupted
from adm_jax.training import offline
from adm_jax.training.driver import Run
from adm_jax.training.loop import Step
from adm_jax.types import InputError
from tests.runs.event_records import points
from tests.stopping import Stop, signal_in, stop_behind
from tests.tiny import TINY
from tests.training.offline_runs import assert_same_run, stop_and_resume
from tests.training.run_files import arrays_of, computed, kill, lines, newest_arrays, run_folder

pytestmark = pytest.mark.usefixtures("small_curves")


@pytest.fixture(scope="module")
def uninterrupted(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory):
    """A run from beginning to end: ``(config, folder, result)``."""
    workdir = str(tmp_path_factory.mktemp("whole"))
    config = replace_flat(OfflineConfig(), {**TINY, "workdir": workdir})
    result = offline.run(config)
    return config, run_folder(config), result


def test_folder_and_result_hold_what_is_promised(uninterrupted) -> None:
    config, folder, result = uninterrupted
    assert {"config.json", "metrics.jsonl", "eval.jsonl", "checkpoints", "curves.png", "result.json"} <= {
        path.name for path in folder.iterdir()
    }
    written = json.loads((folder / "result.json").read_text())
    statistics = minari_io.load(config.dataset).return_statistics()
    assert {name: written["dataset"][name] for name in statistics} == pytest.approx(statistics)
    seconds = written["wall_clock"]
    total, background = seconds.pop("total"), seconds.pop("evaluate_background")
    assert set(seconds) == {"compile", "environment", "fit", "rollout", "update", "evaluate"}
    assert sum(seconds.values()) <= total
    assert background > 0
    evals = lines(folder / "eval.jsonl")
    assert [(row["phase"], row["epoch"]) for row in evals] == [("bc", 0), ("train", 2), ("train", 4)]
    for kind, row in (("members", evals[-1]), ("bc", evals[0])):
        assert [member["seed"] for member in written[kind]] == [0, 1]
        for member, returns in zip(written[kind], row["eval/return"], strict=True):
            assert member["return_mean"] == pytest.approx(np.mean(returns))
            assert member["return_std"] == pytest.approx(np.std(returns))
            assert member["num_episodes"] == 2
    assert written["evaluation"]["env_id"] == "Hopper-v4"
    assert "mujoco" in written["evaluation"]
    assert len(written["model"][0]["holdout_mse_per_k"]) == 3
    assert result["members"] == written["members"]


def test_metrics_are_kept_per_member_and_epoch(uninterrupted) -> None:
    _, folder, _ = uninterrupted
    rows = lines(folder / "metrics.jsonl")
    losses = points(folder / "tensorboard")["critic/loss/seed1"]
    assert losses == [
        (row["updates"], np.float32(row["critic/loss"][1])) for row in rows if row["phase"] == "train"
    ]
    assert [row["epoch"] for row in rows if row["phase"] == "train"] == [1, 2, 3, 4]
    assert [row["epoch"] for row in rows if row["phase"] == "fit"] == [1, 2, 3, 4]
    last = rows[-1]
    assert len(last["critic/loss"]) == 2
    assert last["critic/loss"][0] != last["critic/loss"][1]
    # two epochs of 600 starts and 3 steps are retained: the buffer is full or short of terminated rows only
    assert all(0 < size <= 600 * 3 * 2 for size in last["rollout/buffer_size"])


def test_evaluation_is_of_the_member_s_own_policy(uninterrupted) -> None:
    """A member's logged returns are those of its checkpointed actor, in fresh environments."""
    config, folder, result = uninterrupted
    opened = RunFolder.open(folder)
    run = Run(offline.plan(config), opened, opened.members)
    restored = run.checkpointer.restore_latest(run.loop.abstract_states())
    second = jax.tree.map(lambda x: x[1:], restored.state.agent.actor_params)
    evaluator = Evaluator("Hopper-v4", [1], 2)
    act = jax.jit(jax.vmap(run.loop.components.agent.mode_action))
    returns = evaluator.evaluate(lambda obs: act(second, obs), evaluation=4).returns[0]
    assert result["members"][1]["return_mean"] == pytest.approx(returns.mean(), rel=1e-6)


@pytest.mark.parametrize(("phase", "epoch"), [("fit", 3), ("train", 3)])
def test_stopped_and_resumed_equals_never_stopped(
    uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, epoch: int
) -> None:
    config = dataclasses.replace(uninterrupted[0], workdir=str(tmp_path))
    stop_and_resume(config, (phase, epoch), monkeypatch)
    assert_same_run(run_folder(config), uninterrupted[1])


@pytest.mark.parametrize(("phase", "epoch"), [("fit", 1), ("bc", 0), ("train", 3)])
def test_a_signal_saves_the_step_it_comes_in(
    uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, epoch: int
) -> None:
    """What cannot be saved, as cloning, is done again; the checkpoint is whole when the run has left."""
    config = dataclasses.replace(uninterrupted[0], workdir=str(tmp_path))
    write = Checkpointer.write

    def slowly(*args, **kwargs) -> None:
        time.sleep(0.3)
        write(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "write", slowly)
        signal_in(patch, phase, epoch)
        with pytest.raises(Interrupted) as stop:
            offline.run(config)
    folder = run_folder(config)
    assert str(stop.value) == f"stopped by SIGTERM; adm-jax offline --resume={folder} goes on"
    newest = "fit-000004" if phase == "bc" else f"{phase}-{epoch:06}"
    assert newest in os.listdir(folder / "checkpoints")
    offline.resume(str(folder))
    assert_same_run(folder, uninterrupted[1])


def test_a_checkpoint_that_fails_beside_later_steps_ends_the_run_and_changes_nothing(
    uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on from the checkpoint before, though later steps were recorded."""
    config = dataclasses.replace(uninterrupted[0], workdir=str(tmp_path))
    write = Checkpointer.write

    def fail_late(self: Checkpointer, phase: str, epoch: int, *args, **kwargs) -> None:
        if (phase, epoch) != ("train", 2):
            return write(self, phase, epoch, *args, **kwargs)
        began = time.monotonic()
        while lines(run_folder(config) / "metrics.jsonl")[-1]["epoch"] != 3:
            assert time.monotonic() - began < 60
            time.sleep(0.01)
        raise OSError(errno.ENOSPC, "no room for it", str(tmp_path))

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "write", fail_late)
        with pytest.raises(OSError, match="no room for it"):
            offline.run(config)
    folder = run_folder(config)
    assert lines(folder / "metrics.jsonl")[-1]["epoch"] in (3, 4)
    assert Checkpointer(folder / "checkpoints").latest() == ("fit", 4)
    offline.resume(str(folder))
    assert_same_run(folder, uninterrupted[1])


def test_killed_and_resumed_equals_never_stopped(uninterrupted, tmp_path: Path) -> None:
    """SIGKILL once the first checkpoint of the updates stands, whatever is being written then."""
    config = dataclasses.replace(uninterrupted[0], workdir=str(tmp_path))
    kill("admpo_off", config, "train-000002")
    folder = run_folder(config)
    offline.resume(str(folder))
    assert_same_run(folder, uninterrupted[1])


def test_finished_run_is_not_run_again(uninterrupted, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder, result = uninterrupted
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert offline.resume(str(folder))["members"] == result["members"]
    assert "finished" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_resume_on_other_data_is_refused(uninterrupted, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(uninterrupted[1], folder)
    config = config_file.read(folder)
    config["dataset_sha256"]["reward"] = "0" * 64
    config_file.write(folder, config)
    (folder / "result.json").unlink()
    with pytest.raises(
        InputError, match=r"other conditions: dataset_sha256\.reward was 0{64}, is [0-9a-f]{64};"
    ):
        offline.resume(str(folder))


def test_real_transitions_stand_in_for_a_model_that_predicts_nothing(
    tiny_config: OfflineConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = offline.OfflineLoop._begin_training

    def with_broken_models(loop: offline.OfflineLoop) -> offline.TrainState:
        state = begin(loop)
        learned = jax.tree.map(lambda x: jax.numpy.full_like(x, np.nan), state.model.learned)
        return state._replace(model=state.model._replace(learned=learned))

    monkeypatch.setattr(offline.OfflineLoop, "_begin_training", with_broken_models)
    config = replace_flat(tiny_config, {"real_ratio": 0.25, "num_epochs": 1, "bc_steps": 0})
    offline.run(config)
    assert "the model buffers of seed0, seed1 are empty: no prediction was finite" in capsys.readouterr().out
    last = lines(run_folder(config) / "metrics.jsonl")[-1]
    assert last["rollout/buffer_size"] == [0, 0]
    # a batch of zeros has no other reward: what is learned from it is soon near nothing
    rewards = minari_io.load(config.dataset).reward
    assert min(last["critic/loss"]) > 0.5 * np.mean(np.square(rewards))


def test_a_member_that_breaks_is_frozen_and_left_out_of_means(
    uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the first member imagined before the third epoch has lost its rewards then."""
    config, whole, untouched = uninterrupted
    config = dataclasses.replace(config, workdir=str(tmp_path))
    train_epoch = offline.OfflineLoop._train_epoch

    def spoilt(loop: offline.OfflineLoop) -> Step:
        if loop._epoch == 2:
            assert loop._train
            data = loop._train.buffer.data
            data = data._replace(reward=data.reward.at[0].set(np.nan))
            loop._train = loop._train._replace(buffer=loop._train.buffer._replace(data=data))
        return train_epoch(loop)

    monkeypatch.setattr(offline.OfflineLoop, "_train_epoch", spoilt)
    result = offline.run(config)
    shown = capsys.readouterr().out
    assert "warning: actor/entropy of seed0 is not finite in train epoch 3\n" in shown
    assert "the policy of seed0 is frozen in train epoch 3, as it was before\n" in shown
    arrays, first, second = (
        {name: array for name, array in of_run.items() if name.startswith("agent/")}
        for of_run in (
            newest_arrays(run_folder(config)),
            arrays_of(whole, "train-000002"),
            newest_arrays(whole),
        )
    )
    assert arrays.pop("agent/frozen").tolist() == [True, False]
    for name, array in arrays.items():
        np.testing.assert_array_equal(array[0], first[name][0], err_msg=name)
        np.testing.assert_array_equal(array[1], second[name][1], err_msg=name)
    assert result["members"][1] == untouched["members"][1]
    assert result["frozen"] == [{"seed": 0, "epoch": 3, "quantity": "actor/entropy"}]
    (setting,) = result["settings"]
    assert (setting["left_out"], setting["num_seeds"]) == (["seed0"], 1)
    assert setting["return_mean"] == result["members"][1]["return_mean"]
    assert "seed 0: frozen, as actor/entropy was not finite at epoch or step 3; left out of means" in shown


def test_evaluation_cut_off_after_its_checkpoint_is_done_again(
    uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run dies while an evaluation is under way whose epoch's checkpoint stands already."""
    config = dataclasses.replace(uninterrupted[0], workdir=str(tmp_path))
    evaluate, under_way, done = Evaluator.evaluate, threading.Event(), Run._done

    def evaluate_forever(self: Evaluator, act_fn, evaluation: int = 0):
        while evaluation == 2:
            under_way.set()
            act_fn(np.zeros((2, 2, 11), np.float32))
        return evaluate(self, act_fn, evaluation)

    def wait_in_epoch_3(run: Run, step, stopped) -> None:
        assert step[:2] != ("train", 3) or under_way.wait(60)
        done(run, step, stopped)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", evaluate_forever)
        patch.setattr(Run, "_done", wait_in_epoch_3)
        stop_behind(patch, "train", 3)
        with pytest.raises(Stop):
            offline.run(config)
    folder = run_folder(config)
    assert (folder / "checkpoints" / "train-000002").exists()
    assert [row["phase"] for row in lines(folder / "eval.jsonl")] == ["bc"]
    result = offline.resume(str(folder))
    assert_same_run(folder, uninterrupted[1])
    assert computed(result) == computed(uninterrupted[2])


def test_a_checkpoint_waits_for_the_evaluation_of_an_earlier_epoch(
    tiny_config: OfflineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its policies are in no checkpoint: killed then, it could not be done again."""
    saved: list[tuple[int, list[int]]] = []
    save, evaluate = Run._save, Evaluator.evaluate

    def slow(self: Evaluator, act_fn, evaluation: int = 0):
        time.sleep(0.5)
        return evaluate(self, act_fn, evaluation)

    def save_and_look(run: Run, step) -> None:
        save(run, step)
        if step.phase == "train":
            saved.append((step.epoch, [row["epoch"] for row in run.folder.read_eval()]))

    monkeypatch.setattr(Evaluator, "evaluate", slow)
    monkeypatch.setattr(Run, "_save", save_and_look)
    offline.run(replace_flat(tiny_config, {"checkpoint_every": 3, "eval_every": 2}))
    assert saved[0] == (3, [0, 2])  # behaviour cloning's, epoch 2's
    assert saved[1][0] == 4
