"""Trains SAC online in a task's real environment and saves everything it went through as a Minari dataset.

python -m experiments.collect --task=hopper --num_steps=100000 --seed=0
"""

import dataclasses
import os
import platform
import shlex
import sys
import time
from pathlib import Path

from absl import flags as absl_flags

from adm_jax.config import OnlineConfig
from adm_jax.data import builtin, minari_files, minari_io, minari_write
from adm_jax.envs import environment
from adm_jax.settings import to_flat
from adm_jax.tasks import get_task
from adm_jax.training.online import ProgressFn, collect_replay
from adm_jax.types import InputError
from experiments import app, flags

FLAGS = absl_flags.FLAGS
flags.define(OnlineConfig)
absl_flags.DEFINE_string(
    "dataset", None, "Minari id to save the replay as; <task>/sac-seed<seed>-v0 when empty"
)
absl_flags.DEFINE_string(
    "builtin_file", None, "also pack the replay into this one compressed file, ending in .xz"
)

_REPORT_EVERY = 5_000  # environment steps between two lines of progress


def main(argv: list[str]) -> None:
    """Collects, saves, and prints what the replay is worth."""
    del argv  # app.run has seen that nothing but flags was given
    config = flags.config(OnlineConfig)
    task = get_task(config.task)
    dataset = FLAGS.dataset or f"{config.task}/sac-seed{config.seed}-v0"
    _check_targets(dataset, FLAGS.builtin_file)
    data, _, info = collect_replay(config, _progress(config.num_steps))
    metadata = {
        "env_id": task.env_id,
        "command": shlex.join(["python", "-m", "experiments.collect", *sys.argv[1:]]),
        "seed": config.seed,
        "versions": {"python": platform.python_version(), **minari_write.installed_versions()},
        "config": to_flat(config),
        "final_policy_returns": info["eval_returns"],
    }
    data = dataclasses.replace(data, metadata=metadata)
    scale = environment.action_scale(task.env)
    folder = minari_io.save(data, dataset, env_id=task.env_id, action_low=-scale, action_high=scale)
    returns = data.return_statistics()
    print(
        f"{len(data.reward)} transitions, {len(data.episode_ends)} episodes; returns: "
        f"mean {returns['episode_return_mean']:.1f}, best {returns['episode_return_max']:.1f}, "
        f"weighted by length {returns['transition_weighted_return_mean']:.1f}"
    )
    print(f"saved as {dataset} in {folder}")
    if FLAGS.builtin_file:
        size = builtin.pack(data, Path(FLAGS.builtin_file))
        print(f"packed into {FLAGS.builtin_file}, {size / 1e6:.2f} MB")


def _check_targets(dataset: str, builtin_file: str | None) -> None:
    """Refuses, before the long run, what could not be written after it."""
    minari_files.check_id(dataset)
    minari_files.check_free(dataset)
    if builtin_file is not None:
        _check_builtin_file(Path(builtin_file))
    minari_write.require_writable(dataset)


def _check_builtin_file(path: Path) -> None:
    if path.suffix != ".xz":
        raise InputError(f"builtin_file: {path} must end in .xz")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise InputError(f"builtin_file: {path.parent} is no folder that can be written")


def _progress(num_steps: int) -> ProgressFn:
    start = time.monotonic()
    reported = 0

    def report(steps: int, metrics: dict[str, float]) -> None:
        nonlocal reported
        if steps // _REPORT_EVERY == reported and steps < num_steps:
            return
        reported = steps // _REPORT_EVERY
        values = "  ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
        print(f"{steps}/{num_steps} steps  {time.monotonic() - start:.0f} s  {values}", flush=True)

    return report


if __name__ == "__main__":
    app.run(main)
