"""Learning at full length: minutes to an hour on two CPU cores, by hand: ``XLA_FLAGS= pytest -m slow``."""

from pathlib import Path

import numpy as np
import pytest

from adm_jax.config import config_for_task
from adm_jax.data.formats import d4rl, minari_io
from adm_jax.training import offline

REPLAY = Path(__file__).parents[3] / "shared" / "data" / "offline" / "hopper-replay.hdf5"


def mean_return(members: list[dict]) -> float:
    return float(np.mean([member["return_mean"] for member in members]))


@pytest.mark.slow
def test_the_quick_run_is_far_above_its_data(tmp_path: Path) -> None:
    result = offline.run(config_for_task("hopper-builtin", workdir=str(tmp_path)))
    assert all(member["num_episodes"] == 30 for member in result["members"])
    # plain cloning has about 300, the data 785 weighted by transitions
    assert mean_return(result["members"]) > 1_000 > result["dataset"]["transition_weighted_return_mean"]


@pytest.mark.slow
@pytest.mark.skipif(not REPLAY.exists(), reason="the shared hopper-replay.hdf5 is absent")
def test_replay_of_trpo_snapshots_reaches_the_authors_return(tmp_path: Path) -> None:
    data, _ = d4rl.read(REPLAY)
    minari_io.save(data, "tests/hopper-replay-v0", env_id="Hopper-v4")
    config = config_for_task(
        "hopper-medium-replay",
        dataset="tests/hopper-replay-v0",
        rollout_batch_size=5_000,
        num_epochs=50,
        actor_lr_schedule="none",
        eval_every=50,
        bc_steps=0,
        workdir=str(tmp_path),
    )
    assert mean_return(offline.run(config)["members"]) >= 859
