"""A population trained a batch at a time, and one spread over devices, equal one trained side by side."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from adm_jax.config import OfflineConfig
from adm_jax.config.settings import replace_flat, to_flat
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.evaluation.policies import read_policies
from adm_jax.population import memory
from adm_jax.population.members import Member, all_members
from adm_jax.runs import curves
from adm_jax.runs.batches import batch_sizes, merge_rows
from adm_jax.runs.folder import RunFolder
from adm_jax.training import driver, offline
from adm_jax.types import ActionBounds, InputError
from tests.runs.event_records import points
from tests.stopping import Stop, stop_behind
from tests.training.run_files import computed, lines, run_folder

pytestmark = pytest.mark.usefixtures("small_curves")
SWEEP = {"seeds": (0, 1), "penalty_coef": (0.5, 2.0), "num_epochs": 2}


@pytest.fixture(scope="module")
def needs() -> list[int]:
    """Bytes that ``side_by_side`` asked for."""
    return []


@pytest.fixture(scope="module")
def side_by_side(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory, needs: list[int]):
    """A sweep of four members at once: ``(config, folder, result)``."""
    from tests.tiny import TINY

    workdir = str(tmp_path_factory.mktemp("sweep"))
    config = replace_flat(OfflineConfig(), {**TINY, **SWEEP, "workdir": workdir})
    require = memory.require

    def note(need, **rest) -> None:
        needs.append(need.total)
        require(need, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "require", note)
        result = offline.run(config)
    return config, run_folder(config), result


def results_of_parts(folder: Path) -> list[dict]:
    return [json.loads((part.path / "result.json").read_text()) for part in RunFolder.open(folder).parts()]


@pytest.mark.bitwise
def test_results_say_which_member_is_which(side_by_side) -> None:
    config, folder, result = side_by_side
    named = [{"seed": row["seed"], "penalty_coef": row["penalty_coef"]} for row in result["members"]]
    assert named == [member.to_dict() for member in all_members(config)]
    assert len({row["return_mean"] for row in result["members"]}) > 1
    assert json.loads((folder / "config.json").read_text())["members"] == named
    for setting in result["settings"]:
        of_setting = [
            row["return_mean"] for row in result["members"] if row["penalty_coef"] == setting["penalty_coef"]
        ]
        assert setting["num_seeds"] == 2
        assert setting["return_mean"] == pytest.approx(np.mean(of_setting))
        assert setting["return_low"] <= setting["return_mean"] <= setting["return_high"]
    # what comes before the policies is done once for each seed
    assert [row["seed"] for row in result["bc"]] == [row["seed"] for row in result["model"]] == [0, 1]
    rows = lines(folder / "metrics.jsonl")
    sizes = {row["phase"]: len(row.get("model/holdout_nll", row.get("critic/loss", [0, 0]))) for row in rows}
    assert sizes == {"fit": 2, "model": 2, "bc": 2, "train": 4}
    assert "critic/loss/seed1,penalty_coef=2" in points(folder / "tensorboard")


@pytest.mark.bitwise
def test_a_swept_member_s_run_equals_its_own(side_by_side, tmp_path: Path) -> None:
    """From the fit to the last evaluation, bit for bit."""
    config, _, together = side_by_side
    alone = replace_flat(config, {"seeds": (1,), "penalty_coef": 2.0, "workdir": str(tmp_path)})
    row = offline.run(alone)["members"][0]
    assert {**row, "penalty_coef": 2.0} == together["members"][3]


@pytest.mark.bitwise
def test_batches_give_what_all_at_once_gives(
    side_by_side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches that split a seed's members, stopped before the first; their results are shown as one."""
    config, folder, result = side_by_side
    in_batches = dataclasses.replace(config, workdir=str(tmp_path), members_per_batch=1)

    def stopped(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(driver, "run_batches", stopped)
        with pytest.raises(Stop):
            offline.run(in_batches)
    own = run_folder(in_batches)
    capsys.readouterr()
    drawn: list[dict[str, float]] = []
    draw = curves.draw
    monkeypatch.setattr(curves, "draw", lambda *args, **how: (drawn.append(args[5]), draw(*args, **how))[1])
    ours = offline.resume(str(own))
    assert RunFolder.open(own).batch_size == 1
    table = capsys.readouterr().out.split("batch 3:")[1].split("return in the real environment")[2]
    assert table.count(" learned ") == 4 + 2  # the members, and each setting's mean
    assert drawn[-1].keys() == {"dataset mean", "behaviour cloning"}
    assert ours["wall_clock"]["total"] == pytest.approx(
        sum(offline_part["wall_clock"]["total"] for offline_part in results_of_parts(own))
    )
    times = [row["time"]["total"] for row in RunFolder.open(own).read_metrics()]
    assert times == sorted(times)
    ends = [part.read_metrics()[-1]["time"]["total"] for part in RunFolder.open(own).parts()]
    assert len(ends) == 4
    assert ours["wall_clock"]["total"] >= times[-1] == pytest.approx(sum(ends))
    assert computed(ours) == computed(result)
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert lines(own / name) == lines(folder / name)
    assert points(own / "tensorboard") == points(folder / "tensorboard")
    ones, others = (read_policies(str(path), 11, ActionBounds.symmetric(1.0, 3)) for path in (own, folder))
    tags = [member.tag for member in all_members(config)]
    assert [policy.name for policy in ones] == [f"{own.name}/{tag}" for tag in tags]
    for one, other in zip(ones, others, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert sorted(path.name for path in (own / "batches").iterdir()) == ["0", "1", "2", "3"]
    assert (own / "curves.png").exists()
    assert computed(offline.resume(str(own))) == computed(result)


@pytest.mark.bitwise
def test_memory_chooses_the_batch_and_a_stopped_one_is_taken_up_again(
    side_by_side,
    needs: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Half of what all members need is enough for two of them at a time."""
    config, _, result = side_by_side
    limit = 0.75 * max(needs) / 2**30
    small = dataclasses.replace(config, workdir=str(tmp_path), memory_limit_gib=limit)
    with monkeypatch.context() as patch:
        stop_behind(patch, "train", 1, batch="1")
        with pytest.raises(Stop):
            offline.run(small)
    assert "4 members at a time: memory: about" in capsys.readouterr().out
    folder = run_folder(small)
    assert RunFolder.open(folder).batch_size == 2
    assert not (folder / "result.json").exists()
    before = (folder / "batches" / "0" / "result.json").stat().st_mtime_ns
    assert computed(offline.resume(str(folder))) == computed(result)
    assert (folder / "batches" / "0" / "result.json").stat().st_mtime_ns == before


def refuse_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """A compiler that has too little memory for roll-outs of so many members or more, as a TPU's says it."""
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required "
        "for HLO temporaries (25.23G) exceeds available HBM (15.75G). HLO module: jit__unnamed_function.\nSee"
    )
    compiled = jax.stages.Lowered.compile

    def compile_or_refuse(lowered: jax.stages.Lowered, options: Any = None) -> jax.stages.Compiled:
        arguments, _ = lowered.args_info
        # its first argument, and no other's, begins with a buffer
        first = arguments[0][0] if isinstance(arguments[0], tuple) else None
        if isinstance(first, RingBuffer) and first.size.shape[0] >= number:
            raise jax.errors.JaxRuntimeError(message)
        return compiled(lowered, options)

    patch.setattr(jax.stages.Lowered, "compile", compile_or_refuse)


@pytest.mark.bitwise
def test_where_the_compiler_refuses_all_members_they_are_trained_in_batches(
    side_by_side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _, result = side_by_side
    refuse_at(monkeypatch, 3)
    small = dataclasses.replace(config, workdir=str(tmp_path))
    assert computed(offline.run(small)) == computed(result)
    line = "4 members at a time: memory: the compiler refuses rollout: E1000: CompileTimeHbmOom: Ran out of"
    assert line in capsys.readouterr().out
    assert RunFolder.open(run_folder(small)).batch_size == 2


def test_one_member_that_the_compiler_refuses_ends_in_a_line_and_leaves_nothing(
    tiny_config: OfflineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_at(monkeypatch, 1)
    config = dataclasses.replace(tiny_config, seeds=(0,), workdir=str(tmp_path / "runs"))
    with pytest.raises(
        InputError, match=r"^memory: the compiler refuses rollout: .*; lower rollout_chunk or"
    ):
        offline.run(config)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12, 5, None), "members_per_batch: 5 does not divide the 12 members"),
        ((12, 4, 3), "num_devices: 3 does not divide the 4 members trained at a time"),
        ((7, None, 2), "num_devices: 2 does not divide the 7 members trained at a time"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        batch_sizes(*arguments)


def test_sizes_that_are_tried() -> None:
    assert batch_sizes(12, None, None) == [12, 6, 4, 3, 2, 1]
    assert batch_sizes(12, None, 2) == [12, 6, 4, 2]
    assert batch_sizes(12, 4, 2) == [4]


def test_fits_that_stop_at_different_epochs_are_put_together() -> None:
    batches = [[Member(0, {})], [Member(5, {})]]
    rows = [
        [{"phase": "fit", "epoch": 1, "model/holdout_nll_per_k": [[1.0, 2.0]]},
         {"phase": "train", "epoch": 1, "updates": 10, "critic/loss": [0.5]}],
        [{"phase": "fit", "epoch": 1, "model/holdout_nll_per_k": [[3.0, 4.0]]},
         {"phase": "fit", "epoch": 2, "model/holdout_nll_per_k": [[5.0, 6.0]]},
         {"phase": "train", "epoch": 1, "updates": 10, "critic/loss": [0.25]}],
    ]  # fmt: skip
    assert merge_rows(batches, rows) == [
        {"phase": "fit", "epoch": 1, "model/holdout_nll_per_k": [[1.0, 2.0], [3.0, 4.0]]},
        {"phase": "fit", "epoch": 2, "model/holdout_nll_per_k": [[None, None], [5.0, 6.0]]},
        {"phase": "train", "epoch": 1, "updates": 10, "critic/loss": [0.5, 0.25]},
    ]


def test_what_is_done_once_for_a_seed_is_listed_by_seed() -> None:
    """Before the policies, where members of a batch share a seed."""
    batches = [[Member(seed, {"penalty_coef": beta}) for beta in (0.5, 2.0)] for seed in (0, 1)]
    for name in ("pretrain", "model"):
        rows = [[{"phase": name, "epoch": 0, "x": [value]}] for value in (1.0, 3.0)]
        assert merge_rows(batches, rows) == [{"phase": name, "epoch": 0, "x": [1.0, 3.0]}]


_ON_EIGHT = """
import json, sys
import jax
from adm_jax.config import offline_from_flat
from adm_jax.population.compiling import Program
from adm_jax.training import driver, offline
from adm_jax.training.components import SharedData
assert jax.local_device_count() == 8
call, is_there = Program.__call__, []

def watched(program, *args):
    for data, wanted in zip(args, program.shardings):
        if isinstance(data, SharedData):
            is_there.append(all(x.sharding == wanted for x in jax.tree.leaves(data)))
    return call(program, *args)

Program.__call__ = watched
print(json.dumps(offline.run(offline_from_flat(json.loads(sys.argv[1])))))
assert len(is_there) > 10 and all(is_there), is_there  # the data are copied to the devices before
"""


@pytest.mark.parametrize(
    "rollout",
    [
        # enough starts for histories of 1,000 transitions to be kept
        {"rollout_batch_size": 1200, "members": "vmap"},
        {"rollout_batch_size": 60, "persistent": True, "horizon": 4, "members": "map"},
    ],
)
def test_eight_devices_give_what_one_gives_also_when_they_are_lost(
    rollout: dict, tiny_config: OfflineConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight members, four seeds: the fit runs on four of the devices, the policies on all.

    Then the last epoch is done again on one device, from the checkpoint of eight.
    """
    spread = replace_flat(
        tiny_config,
        {"seeds": (0, 1, 2, 3), "penalty_coef": (0.5, 2.0), "num_epochs": 2, **rollout},
    )
    one = offline.run(dataclasses.replace(spread, workdir=str(tmp_path / "one")))
    many = dataclasses.replace(spread, workdir=str(tmp_path / "many"), num_devices=8, checkpoint_every=1)
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-W", "ignore", "-c", _ON_EIGHT, json.dumps(to_flat(many))]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    ours = json.loads(run.stdout.splitlines()[-1])
    _assert_same_results(ours, one)
    (folder,) = (Path(many.workdir) / one["algorithm"] / many.task).iterdir()
    (folder / "result.json").unlink()
    shutil.rmtree(max((folder / "checkpoints").glob("train-*")))
    capsys.readouterr()
    _assert_same_results(offline.resume(str(folder)), one)
    assert "num_devices: the run had 8, this machine has 1; it goes on with these" in capsys.readouterr().out


def _assert_same_results(ours: dict, one: dict) -> None:
    for name in ("members", "bc"):
        for row, expected in zip(ours[name], one[name], strict=True):
            assert row == pytest.approx(expected, rel=1e-4)
    for row, expected in zip(ours["model"], one["model"], strict=True):
        assert row["holdout_nll"] == pytest.approx(expected["holdout_nll"], rel=1e-5)
