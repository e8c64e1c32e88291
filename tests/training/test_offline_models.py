"""The offline loop with each dynamics model, and with the options of its roll-outs and its arithmetic."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from adm_jax.config import OfflineConfig, config_for_task, offline_from_flat
from adm_jax.config.models import get_model
from adm_jax.config.settings import replace_flat, to_flat
from adm_jax.training import offline
from tests.tiny import TINY
from tests.training.offline_runs import assert_same_run, stop_and_resume
from tests.training.run_files import lines, run_folder

pytestmark = pytest.mark.usefixtures("small_curves")

OTHER_MODELS = {
    "adm_v2": {"max_backtrack": 3, "num_gru_layers": 1, "num_residual_blocks": 1, "num_encoder_blocks": 1},
    "bootstrapped_rnn": {"max_backtrack": 3, "num_gru_layers": 1, "num_residual_blocks": 1},
    "ensemble": {"num_hidden_layers": 1, "weight_decays": (0.0, 1e-4), "num_networks": 3, "num_elites": 2},
}


def tiny_values(dynamics: str, dataset: str) -> dict:
    """TINY's settings as far as a model has them, and the model's own."""
    shared = set(to_flat(config_for_task("hopper", dynamics=dynamics)))
    tiny = {name: value for name, value in TINY.items() if name in shared}
    tiny |= {**OTHER_MODELS.get(dynamics, {}), "dataset": dataset, "dynamics": dynamics}
    if dynamics == "ensemble":
        tiny |= {"uncertainty": "max_aleatoric", "selection_metric": "mse"}
    return tiny


@pytest.mark.parametrize("dynamics", OTHER_MODELS)
def test_other_dynamics_models_run_and_resume_alike(
    dynamics: str, tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while fitting, where networks have best epochs of their own, and resumed: no difference."""
    tiny = {**tiny_values(dynamics, tiny_dataset), "num_epochs": 2}
    whole, stopped = (offline_from_flat({**tiny, "workdir": str(tmp_path / name)}) for name in ("a", "b"))
    result = offline.run(whole)
    assert result["algorithm"] == get_model(dynamics).algorithm
    fit = result["model"][0]
    assert len(fit["holdout_mse_per_k"]) == (1 if dynamics == "ensemble" else 3)
    assert len(fit["open_loop_mse_per_step"]) == 10
    assert all(np.isfinite(member["return_mean"]) for member in result["members"])
    stop_and_resume(stopped, ("fit", 3), monkeypatch)
    assert_same_run(run_folder(stopped), run_folder(whole))


@pytest.mark.parametrize("dynamics", ["adm", "adm_v2", "ensemble"])
def test_full_horizon_runs_and_resumes_alike(
    dynamics: str, tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Episodes in the model go on from epoch to epoch, and over a stop between two checkpoints."""
    tiny = {
        **tiny_values(dynamics, tiny_dataset),
        "persistent": True,
        "rollout_batch_size": 60,
        "retain_epochs": 10,
        "horizon": 1_000,
        "termination": f"{__name__}:never",
        "bc_steps": 0,
    }
    whole, stopped = (offline_from_flat({**tiny, "workdir": str(tmp_path / name)}) for name in ("a", "b"))
    result = offline.run(whole)
    assert result["algorithm"] == f"{get_model(dynamics).algorithm}_fh"
    rows = [row for row in lines(run_folder(whole) / "metrics.jsonl") if row["phase"] == "train"]
    # three steps an epoch, none of the episodes ends
    np.testing.assert_allclose(
        [row["rollout/episode_step"] for row in rows], [[2 + 3 * i] * 2 for i in range(4)]
    )
    np.testing.assert_array_equal(
        [row["rollout/buffer_size"] for row in rows], [[180 * i] * 2 for i in range(1, 5)]
    )
    stop_and_resume(stopped, ("train", 3), monkeypatch)
    assert_same_run(run_folder(stopped), run_folder(whole))


def never(next_obs: jax.Array) -> jax.Array:
    """No episode ends."""
    return jax.numpy.zeros(next_obs.shape[:-1], bool)


def test_histories_are_kept_where_it_pays_and_change_nothing(
    tiny_config: OfflineConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    losses, kept = [], []
    for number, changes in enumerate(({}, {"history_cache_gib": 0.0}, {"rollout_batch_size": 500})):
        workdir = f"{tiny_config.workdir}/{number}"
        config = replace_flat(tiny_config, {"bc_steps": 0, "workdir": workdir, **changes})
        offline.run(config)
        losses.append([line["critic/loss"] for line in lines(run_folder(config) / "metrics.jsonl")[-4:]])
        (size,) = re.findall(r"histories ([\d.]+), data", capsys.readouterr().out)
        kept.append(float(size) > 0)
    assert kept == [True, False, False]  # 4 times 500 starts are not more than twice the 1,000 transitions
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@pytest.mark.parametrize("dynamics", ["adm", "ensemble"])
def test_runs_in_bfloat16(dynamics: str, tiny_dataset: str, tmp_path: Path) -> None:
    """XLA for CPU lacks some products of bfloat16 numbers, and says so only when they are executed."""
    tiny = {**tiny_values(dynamics, tiny_dataset), "num_epochs": 1, "seeds": (0,)}
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = offline_from_flat(
            {**tiny, "matmul_precision": precision, "workdir": str(tmp_path / precision)}
        )
        offline.run(config)
        losses[precision] = lines(run_folder(config) / "metrics.jsonl")[-1]["critic/loss"][0]
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.2)
