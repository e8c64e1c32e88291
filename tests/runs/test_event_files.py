"""TensorBoard's event files, read back record by record."""

from pathlib import Path

import numpy as np
import pytest

from adm_jax.population.members import Member
from adm_jax.runs.event_files import EventLog, scalars
from adm_jax.runs.folder import RunFolder
from tests.runs.event_records import points


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "admpo_off", "hopper", {}, (Member(3, {}), Member(8, {})))


def log(folder: RunFolder, epochs: range) -> None:
    for epoch in epochs:
        line = {"phase": "train", "epoch": epoch, "updates": 10 * epoch}
        loss = np.array([epoch, np.nan if epoch == 2 else 0.5], np.float32)
        folder.log_metrics({**line, "critic/loss": loss, "time": {"total": 1.0}})
        folder.log_eval({**line, "eval/return": np.array([[1.0, epoch], [3.0, 4.0]]), "env_id": "Hopper-v4"})


def test_every_member_has_its_scalars(folder: RunFolder) -> None:
    folder.log_metrics({"phase": "fit", "epoch": 1, "updates": 400, "model/nll_per_k": np.ones((2, 3))})
    folder.log_metrics({"phase": "model", "epoch": 0, "updates": 0, "model/mse_per_step": np.ones((2, 10))})
    no_score = {"eval/return": np.array([[5.0], [6.0]]), "eval/normalized_score": [None, None]}
    folder.log_eval({"phase": "bc", "epoch": 0, "updates": 77, **no_score})
    folder.log_metrics({"phase": "bc", "epoch": 0, "updates": 77, "bc/loss": np.array([0.25, 2.0])})
    log(folder, range(1, 4))
    found = points(folder.path / "tensorboard")
    assert found == {
        "critic/loss/seed8": [(10, 0.5), (20, None), (30, 0.5)],
        "critic/loss/seed3": [(10, 1.0), (20, 2.0), (30, 3.0)],
        "eval/return/seed3": [(10, 1.0), (20, 1.5), (30, 2.0)],
        "eval/return/seed8": [(10, 3.5), (20, 3.5), (30, 3.5)],
        "bc/eval/return/seed3": [(77, 5.0)],
        "bc/eval/return/seed8": [(77, 6.0)],
        "bc/loss/seed3": [(77, 0.25)],
        "bc/loss/seed8": [(77, 2.0)],
    }


def test_swept_members_and_their_seeds_have_names_of_their_own(tmp_path: Path) -> None:
    members = [Member(seed, {"tau": tau}) for seed in (3, 8) for tau in (0.1, 0.5)]
    folder = RunFolder.create(tmp_path, "admpo_off", "hopper", {}, members)
    folder.log_metrics({"phase": "fit", "epoch": 1, "updates": 4, "model/holdout_nll": np.arange(2.0)})
    folder.log_metrics({"phase": "train", "epoch": 1, "updates": 9, "critic/loss": np.arange(4.0)})
    assert points(folder.path / "tensorboard") == {
        "model/holdout_nll/seed3": [(4, 0.0)],
        "model/holdout_nll/seed8": [(4, 1.0)],
        "critic/loss/seed3,tau=0.1": [(9, 0.0)],
        "critic/loss/seed3,tau=0.5": [(9, 1.0)],
        "critic/loss/seed8,tau=0.1": [(9, 2.0)],
        "critic/loss/seed8,tau=0.5": [(9, 3.0)],
    }


def test_after_a_resume_no_point_of_the_abandoned_future_is_left(folder: RunFolder) -> None:
    log(folder, range(1, 3))
    marks = folder.marks()
    log(folder, range(3, 6))
    whole = points(folder.path / "tensorboard")
    (path,) = (folder.path / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-7])  # killed while it wrote
    resumed = RunFolder.open(folder.path)
    resumed.truncate(marks)
    assert all(len(of_tag) == 2 for of_tag in points(folder.path / "tensorboard").values())
    log(resumed, range(3, 6))
    assert points(folder.path / "tensorboard") == whole


def test_beginning_anew_leaves_no_file(folder: RunFolder) -> None:
    log(folder, range(1, 3))
    folder.truncate()
    assert not (folder.path / "tensorboard").exists()


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(OSError, match="tensorboard"):
        EventLog(tmp_path / "tensorboard").add({"phase": "fit", "epoch": 1, "a/b": [1.0]})


def test_lines_as_they_are_and_as_they_are_read_back_give_the_same() -> None:
    direct = {"phase": "train", "epoch": 1, "a/b": np.array([np.inf, 1.5]), "c/d": np.float32(2.0)}
    read = {"phase": "train", "epoch": 1, "a/b": [None, 1.5], "c/d": 2.0}
    expected = "[('a/b/seed0', nan), ('a/b/seed1', 1.5), ('c/d', 2.0)]"
    tags = {2: ["seed0", "seed1"]}
    assert str(list(scalars(direct, tags))) == str(list(scalars(read, tags))) == expected
