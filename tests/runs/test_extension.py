"""An offline run that is made longer; an online one is in tests/training/test_online_run.py."""

import json
import shutil
from pathlib import Path

import pytest

import adm_jax
from adm_jax.config import OfflineConfig
from adm_jax.config.settings import replace_flat
from adm_jax.runs import config_file
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.training import driver, offline
from adm_jax.types import InputError
from tests.stopping import Stop
from tests.tiny import TINY
from tests.training.offline_runs import assert_same_run
from tests.training.run_files import computed, run_folder

pytestmark = pytest.mark.usefixtures("small_curves")


def config_of(workdir: Path, num_epochs: int, schedule: str = "none") -> OfflineConfig:
    changes = {"workdir": str(workdir), "num_epochs": num_epochs, "actor_lr_schedule": schedule}
    return replace_flat(
        OfflineConfig(), {**TINY, "seeds": (0,), "bc_steps": 0, "history_cache_gib": 0.0, **changes}
    )


@pytest.fixture(scope="module")
def short(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs, whose rates do not decay."""
    config = config_of(tmp_path_factory.mktemp("short"), 2)
    offline.run(config)
    return run_folder(config)


def stored(folder: Path, name: str = "config.json") -> dict:
    return json.loads((folder / name).read_text())


def test_extended_twice_it_is_the_run_that_was_begun_so_long(short, tmp_path, capsys) -> None:
    """Behind an end that was due an evaluation, and behind one that was not."""
    folder = Path(shutil.copytree(short, tmp_path / "extended"))
    offline.resume(str(folder), num_epochs=3)
    assert stored(folder)["config"]["num_epochs"] == 3
    result = offline.resume(str(folder), num_epochs=4)
    whole = config_of(tmp_path, 4)
    expected = offline.run(whole)
    assert_same_run(folder, run_folder(whole))
    told = capsys.readouterr().out
    assert f"{folder}: num_epochs is 3 now, was 2; 2 are done\n" in told
    assert f"{folder}: num_epochs is 4 now, was 3; 2 are done\n" in told  # 3 is no multiple of eval_every
    recorded = stored(folder)["extensions"]
    assert recorded == [
        {"num_epochs": 3, "before": 2, "from": 2, "stretch": 1, "notes": []},
        {"num_epochs": 4, "before": 3, "from": 2, "stretch": 2, "notes": []},
    ]
    assert len(result["stretches"]) == 3
    assert result.pop("extensions") == recorded == stored(folder, "result.json")["extensions"]
    assert computed(result) == computed(expected)
    assert stored(folder, "result-2.json") == stored(short, "result.json")
    assert stored(folder, "result-3.json")["updates"] == 30


def test_it_is_not_made_shorter_than_it_is(short) -> None:
    before = stored(short)
    with pytest.raises(
        InputError, match=rf"^num_epochs: 1 is less than the 2 that {short} has done; give more"
    ):
        offline.resume(str(short), num_epochs=1)
    with pytest.raises(InputError, match=r"^num_epochs: 0 is out of range; at least 1"):
        offline.resume(str(short), num_epochs=0)
    assert stored(short) == before
    assert (short / "result.json").exists()
    assert offline.resume(str(short), num_epochs=2) == stored(short, "result.json")  # finished: nothing to do


def stop(*_) -> None:
    raise Stop


def test_under_other_conditions_it_is_made_longer_anyway(short, tmp_path, monkeypatch) -> None:
    folder = Path(shutil.copytree(short, tmp_path / "run"))
    config_file.write(folder, {**stored(folder), "code_sha256": "0" * 64})
    before = stored(folder)
    monkeypatch.setattr(driver, "Run", stop)
    with pytest.raises(InputError, match="would go on under other conditions: code_sha256 was 000"):
        adm_jax.resume(folder, num_epochs=8)
    assert stored(folder) == before
    assert (folder / "result.json").exists()
    with pytest.raises(InputError, match=r"^num_steps: the length of .* is its num_epochs"):
        adm_jax.resume(folder, num_steps=8)
    with pytest.raises(Stop):
        adm_jax.resume(folder, num_epochs=8, anyway=True)
    assert list(config_file.read(folder)["resumes"][0]["changed"]) == ["code_sha256"]
    assert config_file.read(folder)["extensions"][0]["stretch"] == 1
    assert not (folder / "result.json").exists()
    assert stored(folder, "result-2.json")["seal"] == stored(short, "result.json")["seal"]


@pytest.mark.parametrize("schedule", ["actor_lr_schedule", "critic_lr_schedule"])
def test_what_a_longer_schedule_does_is_told_and_recorded(short, schedule, tmp_path, monkeypatch, capsys):
    """Half of the way down, and a quarter: cosines of 1/2 and of 1/8 of a turn."""
    folder = Path(shutil.copytree(short, tmp_path / "run"))
    config = stored(folder)
    config["config"] |= {"num_epochs": 4, schedule: "cosine"}  # as if stopped on its way
    config_file.write(folder, config)
    monkeypatch.setattr(driver, "Run", stop)
    with pytest.raises(Stop):
        offline.resume(str(folder), num_epochs=8)
    note = (
        f"{schedule}: at 2 of 8 epochs the rate is 0.854 of the first, and was 0.5 of it at 2 of 4: a run "
        "begun with 8 has had other rates"
    )
    assert note in capsys.readouterr().out.splitlines()
    assert stored(folder)["extensions"][0]["notes"] == [note]
    assert Checkpointer(folder / "checkpoints").latest() == ("train", 2)
