"""The examples of the documentation run, with settings that take seconds."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.cli import scripts
from tests.tiny import TINY

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))
MODEL = ("model_hidden_dim", "num_gru_layers", "num_residual_blocks")
FIT = {name: TINY[name] for name in (*MODEL, "fit_steps_per_epoch", "holdout_batch_size")}
FIT |= {"fit_max_epochs": 1}
OFFLINE = {name: value for name, value in TINY.items() if name not in ("task", "dataset", "seeds")}
OFFLINE |= {**FIT, "pretrain_steps": 5, "num_epochs": 2, "hold_epochs": 1}
ONLINE = {
    **{name: TINY[name] for name in (*MODEL, "fit_steps_per_epoch", "policy_hidden_dim", "batch_size")},
    **dict.fromkeys(("warmup_steps", "log_every", "eval_every", "checkpoint_every", "model_every"), 250),
    "num_steps": 500,
    "fit_max_epochs": 1,
    "rollout_batch_size": 50,
    "eval_episodes": 1,
    "max_backtrack": 2,
}
SETTINGS = {
    "predict": {"num_episodes": 20, **FIT},
    "compose": {"num_episodes": 20, "length": 3, **FIT},
    "offline": {"num_steps": 600, "seeds": (0,), **OFFLINE},
    "online": {"seeds": (0,), **ONLINE},
    "sweep": {"seeds": (0, 1), **OFFLINE},
}
PRINTED = {
    "predict": "outside of them: error",
    "compose": "mean angle in the second half",
    "offline": "balanced for",
    "online": "return",
    "sweep": "penalty 5: returns",
}

pytestmark = pytest.mark.usefixtures("small_curves")


@pytest.fixture
def example(request, monkeypatch, tmp_path) -> ModuleType:
    """The module, in a folder of its own; by the name that it has as a script's neighbour."""
    name = request.param
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("example", EXAMPLES, indirect=True)
def test_every_example_runs(example, capsys):
    name = example.__name__
    example.main(**SETTINGS[name])
    assert PRINTED[name] in capsys.readouterr().out
    if name == "predict":
        assert Path("predictions.png").stat().st_size > 1_000


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_short_and_named_in_the_documentation(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 60
    pages = [path.read_text() for path in FOLDER.parent.glob("*.md")]
    assert any(f"examples/{name}.py" in page for page in pages)


def test_the_four_commands_of_your_own_robot_run(monkeypatch, tmp_path):
    """As the page has them, in a folder with its files alone; trained with settings of seconds."""
    page = (FOLDER.parent / "own_robot.md").read_text()
    block = re.search(r"```bash\n(.*?)```", page, re.DOTALL)
    assert block
    record, train, *uses = (shlex.split(line) for line in block[1].splitlines())
    monkeypatch.chdir(shutil.copytree(FOLDER / "own_robot", tmp_path / "robot"))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    assert [record[0], *train[:2]] == ["python", "adm-jax", "offline"]
    python("record.py")
    tiny = [f"--{name}={value}" for name, value in OFFLINE.items()]
    done = scripts.run("admpo_off", *train[2:], *tiny)
    assert done.returncode == 0, done.stderr
    printed = []
    for command, file, runs in uses:
        assert command == "python"
        (run,) = Path().glob(runs)
        printed.append(python(file, str(run)))
    assert re.fullmatch(r"return -?[\d.]+ of at most 100; -?[\d.]+ in the data\n", printed[0])
    assert re.fullmatch(r"begins at [+-][\d.]+\nis at [+-][\d.]+ after 100 steps\n", printed[1])


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout
