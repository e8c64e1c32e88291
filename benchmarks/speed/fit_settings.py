"""Which settings fit the dynamics model best: held-out error against processor time.

    taskset -c 0 python -m benchmarks.speed.fit_settings --dataset=<minari id> --json=FILE

Every setting gets the same processor seconds, compilation left out. Decayed rates need to know
their end, so the number of epochs of a setting comes from its measured speed. The result holds each
setting's curve, the seconds it took to the held-out NLL that the authors' settings end with, and
the final value.
"""

import functools
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags

import adm_jax
from adm_jax.config import OfflineConfig
from adm_jax.config.models import RecurrentConfig
from adm_jax.config.settings import replace_flat
from adm_jax.data.dataset import Dataset, make_dataset
from adm_jax.data.formats import minari_io
from adm_jax.dynamics import fitting
from adm_jax.dynamics.interface import make_dynamics
from benchmarks.speed import report

_DATASET = flags.DEFINE_string("dataset", "adm_jax/hopper-replay-v0", "Minari dataset id")
_SECONDS = flags.DEFINE_float("seconds", 150.0, "processor seconds per setting")
_SEED = flags.DEFINE_integer("seed", 0, "seed of initialisation and minibatches")
_JSON = flags.DEFINE_string("json", None, "file the result is written to")
_ONLY = flags.DEFINE_list("only", None, "names of the settings to run; all when empty")

AUTHORS = "authors"
_TUNED = {"fit_batch_size": 64, "fit_learning_rate": 1e-3}
SETTINGS: dict[str, dict[str, Any]] = {
    AUTHORS: {
        "fit_batch_size": 256,
        "fit_learning_rate": 3e-4,
        "fit_lr_decay": "none",
        "dropout_rate": 0.1,
        "backtrack_sampling": "one",
    },
    "authors, no dropout": {
        "fit_batch_size": 256,
        "fit_learning_rate": 3e-4,
        "fit_lr_decay": "none",
        "dropout_rate": 0.0,
        "backtrack_sampling": "one",
    },
    **{
        f"{sampling} k, dropout {dropout}, {decay} decay": {
            **_TUNED,
            "backtrack_sampling": sampling,
            "dropout_rate": dropout,
            "fit_lr_decay": decay,
        }
        for sampling in ("one", "all")
        for dropout in (0.0, 0.1)
        for decay in ("none", "cosine")
    },
}
_STEPS_PER_EPOCH = 250


def fit(
    config: OfflineConfig, dataset: Dataset, obs_dim: int, action_dim: int, seconds: float, seed: int
) -> list:
    """One setting's curve: ``[processor seconds, held-out NLL, [MSE per k]]`` after each epoch."""
    dynamics = make_dynamics(config.dynamics, obs_dim, action_dim, config.model)
    holdout = fitting.holdout_segments(dataset, dynamics.max_backtrack, config.fit)
    keys = fitting.FitKeys(*jax.random.split(jax.random.key(seed), 3))

    def compiled(config: OfflineConfig) -> Any:
        epoch = functools.partial(fitting.fit_epoch, dynamics, config.fit)
        return jax.jit(epoch).lower(state, dataset, holdout, keys).compile()

    state = fitting.init(dynamics, dataset, keys.epoch)
    program = compiled(config)
    jax.block_until_ready(program(state, dataset, holdout, keys))
    start = time.process_time()
    jax.block_until_ready(program(state, dataset, holdout, keys))
    num_epochs = max(1, int(seconds / (time.process_time() - start)))
    # no early end here: the curve is what is asked for
    program = compiled(replace_flat(config, {"fit_max_epochs": num_epochs, "fit_patience": num_epochs}))
    curve, start = [], time.process_time()
    for epoch in range(num_epochs):
        epoch_keys = jax.tree.map(lambda key, epoch=epoch: jax.random.fold_in(key, epoch), keys)
        state, metrics = program(state, dataset, holdout, epoch_keys._replace(bootstrap=keys.bootstrap))
        nll = float(metrics["model/holdout_nll"])
        curve.append([time.process_time() - start, nll, metrics["model/holdout_mse_per_k"].tolist()])
    return curve


def main(argv: list[str]) -> None:
    """Runs every setting and writes the comparison."""
    del argv
    data = minari_io.load(_DATASET.value)
    dataset = make_dataset(data, RecurrentConfig().max_backtrack)
    dims = data.obs.shape[1], data.action.shape[1]
    curves = {}
    for name, values in SETTINGS.items():
        if _ONLY.value and name not in _ONLY.value:
            continue
        config = replace_flat(OfflineConfig(), {**values, "fit_steps_per_epoch": _STEPS_PER_EPOCH})
        curves[name] = fit(config, dataset, *dims, _SECONDS.value, _SEED.value)
        print(f"{name}: {curves[name][-1]}", flush=True)
    target = curves[AUTHORS][-1][1] if AUTHORS in curves else None
    rows = {
        name: {
            "settings": SETTINGS[name],
            "steps": len(curve) * _STEPS_PER_EPOCH,
            "final_nll": curve[-1][1],
            "final_mse_per_k": curve[-1][2],
            "best_nll": min(nll for _, nll, _ in curve),
            "seconds_to_authors_final_nll": next(
                (s for s, nll, _ in curve if target and nll <= target), None
            ),
            "curve": [(round(s, 2), nll) for s, nll, _ in curve],
        }
        for name, curve in curves.items()
    }
    result = {
        "command": " ".join(["python -m benchmarks.speed.fit_settings", *sys.argv[1:]]),
        "dataset": _DATASET.value,
        "processor_seconds": _SECONDS.value,
        "seed": _SEED.value,
        "device": f"{jax.devices()[0].device_kind}, {platform.processor() or platform.machine()}",
        "versions": {
            "jax": jax.__version__,
            "adm_jax": adm_jax.__version__,
            "python": platform.python_version(),
        },
        "settings": rows,
    }
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    report.start(main)
