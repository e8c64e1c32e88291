"""What an offline run refuses before it begins, and how it ends when something fails on its way."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from adm_jax.config import OfflineConfig
from adm_jax.config.settings import replace_flat
from adm_jax.envs.evaluator import Evaluator
from adm_jax.population.compiling import MemberProgram
from adm_jax.training import offline
from adm_jax.types import InputError
from tests.stopping import Stop, stop_behind
from tests.training.run_files import run_folder

pytestmark = pytest.mark.usefixtures("small_curves")


def test_a_fit_that_diverges_ends_the_run_in_one_line(
    tiny_config: OfflineConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace_flat(tiny_config, {"fit_learning_rate": 1e30, "num_epochs": 1, "bc_steps": 0})
    message = r"^fit_learning_rate: 1e\+30 is too high for adm: seed 0 has no finite held-out error after"
    with pytest.raises(InputError, match=message):
        offline.run(config)
    assert "of seed0 is not finite in fit epoch" in capsys.readouterr().out
    with pytest.raises(InputError, match=message):  # and not behind it
        offline.resume(str(run_folder(config)))


def test_dataset_of_another_environment_is_refused(tiny_config: OfflineConfig) -> None:
    config = replace_flat(tiny_config, {"task": "walker2d"})
    with pytest.raises(InputError, match=r"obs has 11 and action 3 dimensions.*needs 17 and 6"):
        offline.run(config)
    assert not list(Path(config.workdir).iterdir())


def test_task_without_dataset_says_how_to_get_one(tiny_config: OfflineConfig) -> None:
    with pytest.raises(InputError, match="adm-jax import --source=d4rl"):
        offline.run(replace_flat(tiny_config, {"task": "hopper-medium", "dataset": None}))


def test_memory_that_does_not_suffice_is_told_before_it_is_used(tiny_config: OfflineConfig) -> None:
    config = replace_flat(tiny_config, {"memory_limit_gib": 1e-4})
    with pytest.raises(InputError, match="lower") as error:
        offline.run(config)
    assert "\n" not in str(error.value)


def test_a_disk_too_small_for_its_checkpoints_is_told_before_anything_is_compiled(
    tiny_config: OfflineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(MemberProgram, "compile", None)
    with pytest.raises(InputError, match=r"^workdir: 3 checkpoints of .* do not fit into the 0.0 MiB"):
        offline.run(tiny_config)
    assert not list(Path(tiny_config.workdir).iterdir())


def test_a_failing_evaluation_ends_the_run_with_its_message(
    tiny_config: OfflineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Evaluator.evaluate

    def fail_in_epoch_2(self: Evaluator, act_fn, evaluation: int = 0):
        if evaluation == 2:
            raise RuntimeError("the simulator is gone")
        return evaluate(self, act_fn, evaluation)

    monkeypatch.setattr(Evaluator, "evaluate", fail_in_epoch_2)
    with pytest.raises(RuntimeError, match="the simulator is gone"):
        offline.run(tiny_config)
    assert not (run_folder(tiny_config) / "result.json").exists()


def test_environments_are_closed_when_an_exception_passes(
    tiny_config: OfflineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Evaluator] = []
    monkeypatch.setattr(Evaluator, "close", lambda evaluator: closed.append(evaluator))
    with pytest.raises(InputError, match="lower"):  # while it is opened
        offline.run(replace_flat(tiny_config, {"memory_limit_gib": 1e-4, "members_per_batch": 2}))
    assert len(closed) == 1
    stop_behind(monkeypatch, "fit", 1)
    with pytest.raises(Stop):  # and on its way
        offline.run(tiny_config)
    assert len(closed) == 2
