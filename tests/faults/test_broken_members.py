"""A number of one member that is not finite leaves the others as they are, to the last bit.

The number lies anywhere in what the member has at that moment. Run by hand, as each try is a run; writes
benchmarks/results/faults/broken_members.json:

pytest -n0 -m slow tests/faults/test_broken_members.py
"""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from adm_jax.config import OfflineConfig, OnlineConfig, config_for_task
from adm_jax.training import offline, online
from adm_jax.types import InputError
from tests.faults.whole_runs import keep
from tests.tiny import TINY
from tests.training.run_files import computed, newest_arrays
from tests.training.tiny_online import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_curves")]
TRIES = 20
PRETRAINED = {"start": "cloned", "critic_start": "pretrained", "pretrain_steps": 10, "hold_epochs": 1}


def _spoilt(tree: Any, rng: np.random.Generator) -> Any:
    """A tree [P, ...] in which one number of the first member is not finite."""
    leaves, structure = jax.tree.flatten(tree)
    floats = [i for i, x in enumerate(leaves) if np.issubdtype(x.dtype, np.floating) and x.size]
    place = floats[int(rng.integers(len(floats)))]
    values = np.array(leaves[place])
    first = values[0].reshape(-1) if values.ndim > 1 else values[:1]
    first[int(rng.integers(first.size))] = rng.choice([np.nan, np.inf, -np.inf])
    leaves[place] = jax.numpy.asarray(values)
    return jax.tree.unflatten(structure, leaves)


def _spoil_fit(loop: offline.OfflineLoop, epoch: int, rng: np.random.Generator) -> bool:
    if loop._fit is None or (loop._phase, loop._epoch) != ("fit", epoch):
        return False
    loop._begin_fit(_spoilt(loop._fit, rng))
    return True


def _spoil_model(loop: offline.OfflineLoop, epoch: int, rng: np.random.Generator) -> bool:
    if loop._phase != "pretrain":  # the fitted models stand
        return False
    loop._model = _spoilt(loop._model, rng)
    return True


def _spoil_start(loop: offline.OfflineLoop, epoch: int, rng: np.random.Generator) -> bool:
    if loop._cloned is None:
        return False
    loop._cloned, loop._pretrained = _spoilt((loop._cloned, loop._pretrained), rng)
    return True


def _spoil_training(loop: offline.OfflineLoop, epoch: int, rng: np.random.Generator) -> bool:
    if loop._train is None or loop._epoch != epoch:
        return False
    loop._train = _spoilt(loop._train, rng)
    return True


def _spoil_online(loop: online.OnlineLoop, epoch: int, rng: np.random.Generator) -> bool:
    if loop.num_steps != 60 + 20 * epoch:
        return False
    loop.state = _spoilt(loop.state, rng)
    return True


def _offline(workdir: Path) -> OfflineConfig:
    started = {"start": "cloned", "critic_start": "pretrained", "pretrain_steps": 10, "hold_epochs": 1}
    return config_for_task(**{**TINY, **started, "workdir": str(workdir)})


def _online(workdir: Path) -> OnlineConfig:
    return tiny(workdir=str(workdir))


PHASES: dict[str, tuple[Callable[..., bool], Callable[[Path], Any], Any]] = {
    "fit": (_spoil_fit, _offline, offline),
    "fitted models": (_spoil_model, _offline, offline),
    "cloned start": (_spoil_start, _offline, offline),
    "policy optimisation": (_spoil_training, _offline, offline),
    "online": (_spoil_online, _online, online),
}


@pytest.mark.parametrize("name", PHASES)
def test_the_others_do_not_notice(
    name: str, tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, config, trainer = PHASES[name]
    untouched, whole = trainer.run(config(tmp_path / "whole")), _only(tmp_path / "whole")
    rng, outcomes = np.random.default_rng(0), collections.Counter[str]()
    loop_class = offline.OfflineLoop if trainer is offline else online.OnlineLoop
    advance = loop_class.advance
    for attempt in range(TRIES):
        epoch, spoils = int(rng.integers(1, 4)), []

        def spoilt_advance(loop: Any, epoch: int = epoch, spoils: list = spoils) -> Any:
            if not spoils and spoil(loop, epoch, rng):
                spoils.append(epoch)
            return advance(loop)

        monkeypatch.setattr(loop_class, "advance", spoilt_advance)
        workdir = tmp_path / str(attempt)
        try:
            result = trainer.run(config(workdir))
        except InputError as error:
            num_lines = len(str(error).splitlines())
            outcomes[f"the run ends in {num_lines} line"] += 1
        else:
            outcomes[_outcome(result, untouched, _only(workdir), whole)] += 1
        assert spoils
        assert outcomes.keys() <= {
            "the run ends in 1 line",
            "frozen",
            "no effect",
            "went on without it, finite",
        }
        found = {"tries": attempt + 1, "of": TRIES, "outcomes": dict(sorted(outcomes.items()))}
        keep("broken_members.json", name, found)


def _outcome(result: dict[str, Any], untouched: dict[str, Any], folder: Path, whole: Path) -> str:
    """What became of the first member; the second is what it is in the undisturbed run."""
    assert result["members"][1] == untouched["members"][1]
    ours, theirs = newest_arrays(folder), newest_arrays(whole)
    for array_name, array in ours.items():
        if array_name.startswith("agent/"):
            np.testing.assert_array_equal(array[1], theirs[array_name][1], err_msg=array_name)
    if result["frozen"]:
        (frozen,) = result["frozen"]
        assert frozen["seed"] == 0
        return "frozen"  # as it was, with the number that was put into it
    assert np.isfinite(result["members"][0]["return_mean"])
    return "no effect" if computed(result) == computed(untouched) else "went on without it, finite"


def _only(workdir: Path) -> Path:
    (folder,) = workdir.glob("*/*/*")
    return folder
