"""Whatever of a run's folder is damaged, a resume finds it out: nothing goes on, or ends, in silence.

The long form, of 1,000 tries each, writes benchmarks/results/faults/damaged_runs.json:

XLA_FLAGS= pytest -m slow tests/faults
"""

import collections
import json
import shutil
from pathlib import Path

import pytest

from adm_jax.config import OfflineConfig
from adm_jax.config.settings import replace_flat
from adm_jax.runs import config_file
from adm_jax.training import offline
from adm_jax.types import InputError
from tests.faults.damage import FILES, standing, try_out
from tests.stopping import Stop, stop_behind
from tests.tiny import TINY
from tests.training.run_files import run_folder

pytestmark = pytest.mark.usefixtures("small_curves")
REPORT = Path(__file__).parents[2] / "benchmarks" / "results" / "faults" / "damaged_runs.json"
ACCEPTED = {"refused", "harmless", "earlier checkpoint", "result"}


@pytest.fixture(scope="module")
def runs(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that was stopped behind its epoch 3, and what became of it when it went on to its end."""
    workdir = tmp_path_factory.mktemp("faults")
    config = replace_flat(OfflineConfig(), {**TINY, "seeds": (0,), "workdir": str(workdir / "a")})
    with pytest.MonkeyPatch.context() as patch:
        stop_behind(patch, "train", 3)
        with pytest.raises(Stop):
            offline.run(config)
    shutil.copytree(run_folder(config), workdir / "stopped")
    offline.resume(str(run_folder(config)))
    return {"stopped": workdir / "stopped", "finished": run_folder(config)}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("state", ["stopped", "finished"])
def test_no_damage_passes_unnoticed(runs: dict[str, Path], state: str, file: str) -> None:
    if (state, file) == ("stopped", "result.json"):
        return  # there is none
    counts = try_out(runs[state], file, 40, seed=0)
    assert {outcome for _, outcome in counts} <= ACCEPTED
    assert any(outcome != "harmless" for _, outcome in counts)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("config.json", '"gamma": 0.99', '"gamma": 0.98', "config.json is not what was written"),
        ("metrics.jsonl", '"phase": "model"', '"phase": "fit"', "metrics.jsonl is not what it was when"),
        ("eval.jsonl", '"eval/return": [[', '"eval/return": [[1', "eval.jsonl is not what it was when"),
        ("result.json", '"num_episodes": 2', '"num_episodes": 3', "result.json is damaged"),
    ],
)
def test_the_file_is_named_and_nothing_else_is_touched(
    runs: dict[str, Path], tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    for state, path in runs.items():
        copy = tmp_path / state
        shutil.copytree(path, copy)
        if not (copy / name).exists():
            continue
        text = (copy / name).read_text()
        assert old in text
        (copy / name).write_text(text.replace(old, new))
        before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
        with pytest.raises(InputError, match=message) as error:
            offline.resume(str(copy))
        assert "\n" not in str(error.value)
        after = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
        assert {file: after[file] for file in before} == before
        assert {file.name for file in after.keys() - before.keys()} <= {".lock"}


def test_a_renamed_checkpoint_or_one_of_another_run_is_found_out(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(runs["stopped"], path)
    sound = standing(path)["saved"]
    (path / "checkpoints" / sound.name).rename(path / "checkpoints" / "train-000009")
    assert standing(path)["saved"].phase == "fit"  # the one before
    shutil.rmtree(path)
    shutil.copytree(runs["stopped"], path)
    config = config_file.read(path)
    (path / "config.json").unlink()  # so that the new one does not name its seal
    config_file.write(path, {**config, "run_id": "another"})
    with pytest.raises(InputError, match=r"config.json is not what it was when .*train-000002 was written"):
        offline.resume(str(path))


@pytest.mark.slow
def test_a_thousand_damages_of_each_file(runs: dict[str, Path]) -> None:
    report: dict[str, dict] = {}
    for file in FILES:
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for state in ("stopped", "finished") if file != "result.json" else ("finished",):
            number = 1000 if file == "result.json" else 500
            counts += try_out(runs[state], file, number, seed=1)
        totals: collections.Counter[str] = collections.Counter()
        by_damage: dict[str, dict[str, int]] = {}
        for (damage, outcome), count in sorted(counts.items()):
            totals[outcome] += count
            by_damage.setdefault(damage, {})[outcome] = count
        report[file] = {"tries": counts.total(), "outcomes": dict(totals), "by_damage": by_damage}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    found = {outcome for each in report.values() for outcome in each["outcomes"]}
    assert found <= ACCEPTED
