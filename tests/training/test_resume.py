"""Resuming where something is not what it was: told in one line, or gone on with and noted."""

import json
import shutil
from pathlib import Path

import pytest

import adm_jax
from adm_jax.config import OfflineConfig
from adm_jax.config.settings import replace_flat
from adm_jax.runs import config_file
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.runs.folder import RunFolder
from adm_jax.runs.surroundings import whereabouts
from adm_jax.training import offline
from adm_jax.types import InputError
from tests.stopping import Stop, stop_behind
from tests.tiny import TINY
from tests.training.run_files import computed, run_folder

pytestmark = pytest.mark.usefixtures("small_curves")


@pytest.fixture(scope="module")
def stopped(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped while it fitted, behind its first checkpoint."""
    config = replace_flat(OfflineConfig(), {**TINY, "seeds": (0,), "num_epochs": 1, "bc_steps": 0})
    config = replace_flat(config, {"workdir": str(tmp_path_factory.mktemp("stopped"))})
    with pytest.MonkeyPatch.context() as patch:
        stop_behind(patch, "fit", 3)
        with pytest.raises(Stop):
            offline.run(config)
    return run_folder(config)


def copy_with(stopped: Path, path: Path, **changes) -> Path:
    """A copy of the run whose config.json says something else, as if it had been begun so."""
    shutil.copytree(stopped, path)
    config = config_file.read(path)
    config_file.write(path, {**config, **changes})
    return path


def test_other_conditions_are_told_with_both_values_or_noted(stopped: Path, tmp_path: Path) -> None:
    config = config_file.read(stopped)
    versions = {**config["versions"], "mujoco": "3.0.0", "numpy": "1.0"}  # numpy's decides nothing
    digests = {**config["dataset_sha256"], "reward": "0" * 64}
    changes = {"code_sha256": "1" * 64, "versions": versions, "dataset_sha256": digests}
    changes["device"] = {**config["device"], "kind": "TPU v9", "count": 8}
    path = copy_with(stopped, tmp_path / "run", **changes)
    before = (path / "config.json").read_bytes()
    with pytest.raises(InputError) as error:
        offline.resume(str(path))
    listed = [
        f"code_sha256 was {'1' * 64}, is {config['code_sha256']}",
        f"dataset_sha256.reward was {'0' * 64}, is {config['dataset_sha256']['reward']}",
        f"device.kind was TPU v9, is {config['device']['kind']}",
        f"versions.mujoco was 3.0.0, is {config['versions']['mujoco']}",
    ]
    assert str(error.value) == (
        f"{path}: would go on under other conditions: {'; '.join(listed)}; --resume_anyway, or "
        "adm_jax.resume(folder, anyway=True), does that"
    )
    assert (path / "config.json").read_bytes() == before

    result = adm_jax.resume(path, anyway=True).result
    assert result is not None
    began, resumed = result["stretches"]
    assert (began["code_sha256"], began["versions"]["mujoco"]) == ("1" * 64, "3.0.0")
    assert resumed["changed"]["versions.mujoco"] == ["3.0.0", config["versions"]["mujoco"]]
    assert {"created", "git_commit", "versions", "device", "code_sha256"} <= resumed.keys()
    assert result == json.loads((path / "result.json").read_text())
    assert computed(offline.resume(str(path))) == computed(result)  # finished: nothing would go on
    assert len(config_file.read(path)["resumes"]) == 1


def test_a_foreign_run_imports_nothing_unless_told(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("theirs.py").write_text("raise SystemError('imported')\n")
    config = config_file.read(stopped)
    flat = {**config["config"], "termination": "theirs:ends", "dynamics": "theirs:MODEL"}
    path = copy_with(stopped, tmp_path / "run", host="elsewhere", user="somebody", config=flat)
    message = (
        f"{path}: was begun by somebody on elsewhere, and names modules to import (dynamics=theirs:MODEL, "
        "termination=theirs:ends); --resume_anyway"
    )
    for call in (
        lambda: offline.resume(str(path)),
        lambda: adm_jax.resume(path),
        lambda: adm_jax.load_run(path).config,
        lambda: adm_jax.load_run(path).policy(),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value).startswith(message)
    for told in (
        lambda: offline.resume(str(path), anyway=True),
        lambda: adm_jax.load_run(path, anyway=True).config,
    ):
        with pytest.raises(InputError, match="dynamics: importing 'theirs' fails: SystemError: imported"):
            told()
    config_file.write(path, {**config_file.read(path), **whereabouts()})
    with pytest.raises(InputError, match="dynamics: importing 'theirs' fails: SystemError: imported"):
        offline.resume(str(path))  # begun here: no word


def test_a_run_without_a_seal_can_be_read_and_not_resumed(
    stopped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run"
    shutil.copytree(stopped, path)
    config = json.loads((path / "config.json").read_text())
    del config["seal"]
    (path / "config.json").write_text(json.dumps(config))
    assert adm_jax.load_run(path).config.num_epochs == 1
    assert "config.json has no seal: an earlier version wrote it, or it is damaged" in caplog.text
    with pytest.raises(InputError, match=r"has no seal: .*; the run cannot be continued"):
        offline.resume(str(path))


def test_what_a_killed_process_left_is_removed(stopped: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(stopped, path)
    for name in (".config.json", ".metrics.jsonl", ".curves.png"):
        (path / name).write_text("half")
    (path / "checkpoints" / "saving-train-000001" / "arrays").mkdir(parents=True)
    RunFolder.open(path).standing(last_epoch=1)
    left = {file.name for file in path.rglob("*")}
    assert not {name for name in left if name.startswith((".config", ".metrics", ".curves", "saving"))}
    assert {"config.json", "metrics.jsonl"} <= left


@pytest.mark.parametrize(
    ("share", "saved"),
    [
        (1.0, [("fit", 1), ("fit", 2), ("train", 1), ("train", 2), ("train", 3)]),
        (1e-6, [("fit", 1), ("train", 3)]),  # the first and the last
    ],
)
def test_checkpoints_keep_to_their_share_of_the_time(
    share: float, saved: list, tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, steps = Checkpointer.write, []

    def note(self: Checkpointer, phase: str, epoch: int, *args, **kwargs) -> None:
        steps.append((phase, epoch))
        write(self, phase, epoch, *args, **kwargs)

    monkeypatch.setattr(Checkpointer, "write", note)
    settings = {**TINY, "seeds": (0,), "num_epochs": 3, "fit_max_epochs": 2, "bc_steps": 0}
    settings |= {"checkpoint_every": 1, "checkpoint_share": share, "workdir": str(tmp_path)}
    offline.run(replace_flat(OfflineConfig(), settings))
    assert steps == saved
