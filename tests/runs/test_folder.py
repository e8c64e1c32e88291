import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config import OfflineConfig
from adm_jax.config.settings import replace_flat, to_flat
from adm_jax.files import naming, require_writable, to_json
from adm_jax.population.members import Member, all_members
from adm_jax.runs import curves
from adm_jax.runs.folder import RunFolder
from adm_jax.types import InputError
from tests.runs.full_disk import full_disk


def create(config: OfflineConfig) -> RunFolder:
    return RunFolder.create(
        config.workdir,
        "admpo_off",
        config.task,
        to_flat(config),
        all_members(config),
        {"env_id": "Hopper-v4"},
    )


@pytest.fixture
def folder(tmp_path):
    config = OfflineConfig(task="hopper", seeds=(0, 1), workdir=str(tmp_path))
    return create(config)


def log_run(folder: RunFolder) -> None:
    for epoch in (1, 2, 3):
        nll = np.float32([-epoch, 1.0 - epoch])
        row = {"phase": "fit", "epoch": epoch, "model/holdout_nll": nll}
        folder.log_metrics({**row, "model/holdout_nll_per_k": nll[:, None] + np.arange(3.0)})
    folder.log_eval({"phase": "bc", "epoch": 0, "updates": 100, "eval/return": [[50.0], [None]]})
    for epoch in (1, 2, 3):
        row = {
            "phase": "train",
            "epoch": epoch,
            "updates": 1000 * epoch,
            "critic/loss": jnp.array([0.1, 0.2]),
        }
        folder.log_metrics({**row, "rollout/uncertainty": jnp.array([jnp.nan, 0.2])})
        returns = [[100.0 * epoch, 200.0 * epoch], [300.0, 400.0]]
        folder.log_eval({"phase": "train", "epoch": epoch, "updates": 1000 * epoch, "eval/return": returns})


def test_variables_that_results_may_depend_on_are_kept(tmp_path, monkeypatch):
    """Others are not: they may be secrets."""
    own = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true", "JAX_MINE": "1", "MUJOCO_GL": "egl"}
    for name, value in {**own, "MY_TOKEN": "secret"}.items():
        monkeypatch.setenv(name, value)
    made = RunFolder.create(tmp_path, "admpo_off", "hopper", {}, [])
    kept = json.loads((made.path / "config.json").read_text())["environment"]
    assert kept.items() >= own.items()
    assert {name.partition("_")[0] for name in kept} <= {"XLA", "JAX", "MUJOCO", "NVIDIA"}


def test_config_says_what_a_result_depends_on(folder, tmp_path):
    assert folder.path.parent == tmp_path / "admpo_off" / "hopper"
    config = json.loads((folder.path / "config.json").read_text())
    assert config["members"] == [{"seed": 0}, {"seed": 1}]
    assert config["config"]["gamma"] == 0.99
    assert config["env_id"] == "Hopper-v4"
    assert {
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "mujoco",
        "gymnasium",
        "minari",
        "numpy",
    } <= set(config["versions"])
    assert config["versions"]["python"].startswith("3.")
    assert config["device"]["platform"] == "cpu"
    assert config["command_line"]
    assert RunFolder.open(folder.path).config == config
    assert replace_flat(OfflineConfig(), config["config"]) == OfflineConfig(
        task="hopper", seeds=(0, 1), workdir=str(tmp_path)
    )


def test_two_runs_in_one_second_have_two_folders(tmp_path):
    first, second = (create(OfflineConfig(workdir=str(tmp_path))) for _ in range(2))
    assert first.path != second.path


def test_a_discarded_folder_leaves_nothing_but_the_runs_beside_it(tmp_path):
    config = OfflineConfig(task="hopper", workdir=str(tmp_path / "runs"))
    first = create(config)
    second = create(config)
    second.discard()
    assert list((tmp_path / "runs" / "admpo_off" / "hopper").iterdir()) == [first.path]
    first.discard()
    assert list(tmp_path.iterdir()) == []


def test_arrays_stay_arrays_and_numbers_stay_what_they_were(folder):
    value = np.float32([0.1, np.pi, np.nan, np.inf])
    folder.log_metrics({"phase": "fit", "epoch": 1, "x": value, "n": np.int64(3), "flag": np.bool_(True)})
    text = (folder.path / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    row = json.loads(text, parse_constant=pytest.fail)
    assert row["x"][2:] == [None, None]
    np.testing.assert_array_equal(np.float32(row["x"][:2]), value[:2])
    assert row["x"][0] == 0.1
    assert row["n"] == 3
    assert row["flag"] is True
    assert to_json(jnp.zeros((2, 0))) == [[], []]


@pytest.mark.parametrize("row", [{"phase": "warmup", "epoch": 1}, {"phase": "fit", "epoch": 1.5}])
def test_a_line_must_say_where_it_belongs(folder, row):
    with pytest.raises(ValueError, match="phase"):
        folder.log_metrics(row)


def test_truncate_cuts_both_files_back_to_what_was_marked(folder):
    folder.log_metrics({"phase": "fit", "epoch": 1})
    with (folder.path / "eval.jsonl").open("a") as file:
        file.write('{"phase": "bc", "epoch": 0')  # under way in another thread
    marks = folder.marks()
    (folder.path / "eval.jsonl").unlink()
    whole = (folder.path / "metrics.jsonl").read_bytes()
    log_run(folder)
    folder.write_result({})
    folder.verify(marks, Path("checkpoint"))
    folder.truncate(marks)
    assert (folder.path / "metrics.jsonl").read_bytes() == whole
    assert (folder.path / "eval.jsonl").read_bytes() == b""
    assert folder.read_result() is None
    folder.truncate()
    assert folder.read_metrics() == []


def test_a_resumed_run_writes_the_same_bytes_as_one_never_stopped(folder):
    log_run(folder)
    whole = (folder.path / "metrics.jsonl").read_bytes()
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "train", "epoch": 4, "upda')  # killed here
    marks = folder.marks()
    folder.verify(marks, Path("checkpoint"))
    folder.truncate(marks)
    assert (folder.path / "metrics.jsonl").read_bytes() == whole


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard", "result.json"])
def test_a_full_disk_is_named_with_the_file(folder, name):
    log_run(folder)
    folder.write_result({"a": 1})
    row = {"phase": "train", "epoch": 9, "updates": 9, "critic/loss": [0.0] * 1000}
    limit = {"metrics.jsonl": 0, "tensorboard": 20_000, "result.json": 0}[name]
    with pytest.raises(OSError, match="MiB to write, the disk has") as error, full_disk(limit):
        folder.write_result({"a": 2}) if name == "result.json" else folder.log_metrics(row)
    assert error.value.filename == str(folder.path / name)
    assert json.loads((folder.path / "result.json").read_text())["a"] == 1
    assert not list(folder.path.glob(".result*"))


def test_an_error_of_the_disk_without_a_path_is_given_the_folder(folder):
    with pytest.raises(OSError, match="No space left on device: the disk has ") as error, naming(folder.path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(folder.path)
    with pytest.raises(BlockingIOError, match=r"^\[Errno 11\] not the disk$"), naming(folder.path):
        raise OSError(errno.EAGAIN, "not the disk")


def test_the_result_replaces_the_one_before_it(folder):
    folder.write_result({"members": [{"seed": np.int64(0), "return_mean": float("nan")}]})
    written = folder.write_result({"members": []})
    assert json.loads((folder.path / "result.json").read_text()) == written
    assert written["members"] == []
    (stretch,) = written["stretches"]
    assert stretch == {name: folder.config[name] for name in stretch}
    assert stretch.keys() == {"created", "git_commit", "code_sha256", "versions", "environment", "device"}
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json", "result.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, ": No such file"),
        ("", " is damaged"),
        ('{"config": {', " is damaged"),
        ("[]", " lacks algorithm, task, members, config"),
        ("{}", " lacks algorithm, task, members, config"),
        ('{"algorithm": "a", "task": 1, "config": 1, "members": []}', " lacks task, config"),
        ('{"algorithm": "a", "task": "t", "members": [0], "config": {}}', " lacks members"),
        ('{"algorithm": "a", "task": "t", "members": [{"seed": "x"}], "config": {}}', " lacks members"),
        (
            '{"algorithm": "a", "task": "t", "members": [], "config": {"gamma": 0.9}}',
            " lacks config.seeds, config.task",
        ),
    ],
)
def test_a_folder_that_holds_no_run_is_refused(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match="holds no run: config.json" + reason) as caught:
        RunFolder.open(tmp_path, required=("task", "gamma", "seeds"))
    assert "\n" not in str(caught.value)


def test_a_whole_run_has_every_leaf(folder):
    assert RunFolder.open(folder.path, required=to_flat(OfflineConfig())).path == folder.path


@pytest.mark.parametrize(
    "line",
    ["3", "[]", "{}", '{"phase": "train"}', '{"phase": "warmup", "epoch": 1}', '{"phase": [], "epoch": 1}',
     '{"phase": "train", "epoch": "1"}', '{"phase": "tr'],
)  # fmt: skip
@pytest.mark.parametrize("name", ["metrics.jsonl", "eval.jsonl"])
def test_a_damaged_line_is_named(folder, name, line):
    log_run(folder)
    lines = (folder.path / name).read_text().splitlines()
    (folder.path / name).write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    with pytest.raises(InputError, match=f"{name} is damaged: line 2: "):
        (folder.read_metrics if name == "metrics.jsonl" else folder.read_eval)()


def test_the_result_is_read_back_or_its_damage_named(folder):
    assert folder.read_result() is None
    written = folder.write_result({"members": [{"return_mean": 39.96}]})
    assert folder.read_result() == written
    text = (folder.path / "result.json").read_text()
    for damaged in ("{", text.replace("39.96", "33.48"), text.replace('"seal"', '"sea1"')):
        (folder.path / "result.json").write_text(damaged)
        with pytest.raises(InputError, match=r"result.json is damaged"):
            folder.read_result()


@pytest.mark.parametrize(
    ("path", "reason"),
    [("", "empty; give a folder"), ("~no_such_user/x", "~no_such_user/x: there is no such")],
)
def test_a_path_that_names_no_folder_is_refused(path, reason):
    with pytest.raises(InputError, match=f"^workdir: {reason}"):
        require_writable("workdir", path)
    with pytest.raises(InputError, match=f"^workdir: {reason}"):
        create(OfflineConfig(workdir=path))
    with pytest.raises(InputError, match=f"^resume: {reason}"):
        RunFolder.open(path)


def test_a_file_in_the_way_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file is not a folder"):
        require_writable("workdir", tmp_path / "file" / "runs")
    with pytest.raises(InputError, match="cannot write"):
        create(OfflineConfig(workdir=str(tmp_path / "file" / "runs")))
    require_writable("workdir", tmp_path / "new" / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="no permission"):
        require_writable("workdir", tmp_path / "runs")


def test_curves_are_drawn_at_every_stage(folder):
    folder.draw_curves()
    empty = (folder.path / "curves.png").read_bytes()
    log_run(folder)
    folder.draw_curves({"dataset mean": 120.0})
    drawn = (folder.path / "curves.png").read_bytes()
    assert empty.startswith(b"\x89PNG")
    assert drawn.startswith(b"\x89PNG")
    assert drawn != empty


def test_curves_of_many_members_and_of_diverged_ones(tmp_path):
    evals = [{"phase": "train", "epoch": 1, "updates": 10, "eval/return": [[None, None]] * 20}]
    metrics = [{"phase": "train", "epoch": 1, "updates": 10, "critic/loss": [None] * 20}]
    curves.draw(tmp_path / "a.png", metrics, evals, "title", [Member(seed, {}) for seed in range(20)], {})
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_curves_show_what_model_and_critics_say_of_the_policies(tmp_path, monkeypatch):
    figures = []

    class Kept(curves.Figure):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            figures.append(self)

    monkeypatch.setattr(curves, "Figure", Kept)
    at = {"phase": "train", "epoch": 5, "updates": 10}
    evals = [{**at, "eval/return": [[1.0, 3.0]], "eval/unaveraged_return": [[4.0, 6.0]]}]
    estimates = {"model/return": [7.0], "critic/q_excess": [0.5]}
    members = [Member(0, {})]
    curves.draw(tmp_path / "a.png", [{**at, **estimates}], evals, "title", members, {})
    curves.draw(tmp_path / "b.png", [at], [{**at, "eval/return": [[1.0, 3.0]]}], "title", members, {})
    with_estimates, without = (figure.axes for figure in figures)
    drawn = {line.get_label(): line.get_ydata()[0] for line in with_estimates[0].lines}
    assert drawn == {"actors before averaging, mean": 5.0, "the model's estimate, mean": 7.0, "seed 0": 2.0}
    assert with_estimates[-1].lines[0].get_ydata()[0] == 0.5
    assert [line.get_label() for line in without[0].lines] == ["seed 0"]
    assert len(with_estimates) == len(without) + 1


_WRITER = """
import sys
from pathlib import Path
from adm_jax.runs.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]), {})
epoch = 0
while True:
    epoch += 1
    folder.write_result({"epoch": epoch, "x": list(range(5000))})
    print(epoch, flush=True)
"""


def test_killed_while_writing_leaves_a_whole_result(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    with process.stdout:
        for _ in range(20):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "result.json").read_text())["epoch"] >= 20
