"""Collects datasets of a task in its real environment, by SAC and by what it has learned on the way.

adm-jax collect --task=hopper --num_steps=300000 --num_envs=10 --dataset=hopper/mine
adm-jax collect --task=hopper --kinds=random,full-replay --num_steps=100000 --seed=0

Kinds: random (uniformly random actions), medium (the first policy evaluated at --medium_return), replay
(everything SAC went through until then), expert (the final policy), medium-expert (both), and full-replay
(everything SAC went through). Each becomes a Minari dataset, <dataset>/<kind>-v0.
"""

import os
import platform
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from absl import flags as absl_flags

from adm_jax.cli import flags
from adm_jax.config import ReplayConfig
from adm_jax.config.collect import CollectConfig
from adm_jax.data import builtin
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_files, minari_io, minari_write
from adm_jax.envs import environment
from adm_jax.files import require_writable, resolve_path
from adm_jax.population import compilation_cache
from adm_jax.runs.policy_file import save_policy
from adm_jax.runs.progress import Progress
from adm_jax.tasks import Task, get_task
from adm_jax.training import collect
from adm_jax.types import ActionBounds, InputError

FLAGS = absl_flags.FLAGS


def define() -> None:
    """Defines the flags."""
    flags.define(ReplayConfig)
    flags.define(CollectConfig)
    flags.define_compilation_cache()
    absl_flags.DEFINE_string(
        "dataset",
        None,
        "prefix of the Minari ids, <dataset>/<kind>-v0, or the whole id of the only kind, ending in its "
        "version; <task>/sac-seed<seed> when empty",
    )
    absl_flags.DEFINE_string(
        "policy_dir", None, "folder for medium.npz and expert.npz; policies/<task>-seed<seed> when empty"
    )
    absl_flags.DEFINE_string(
        "builtin_file", None, "also pack the full replay into this one compressed file, ending in .xz"
    )


def main(argv: list[str]) -> None:
    """Collects, saves, and prints what the datasets are worth."""
    del argv  # app.run has seen that nothing but flags was given
    config = flags.config(ReplayConfig)
    task = get_task(config.task)
    wanted = _wanted()
    ids = _dataset_ids(FLAGS.dataset or f"{task.name}/sac-seed{config.seed}", wanted.kinds)
    policy_dir = resolve_path("policy_dir", FLAGS.policy_dir or f"policies/{task.name}-seed{config.seed}")
    _check_targets(ids, policy_dir, wanted.kinds)
    compilation_cache.enable(FLAGS.compilation_cache)
    bounds = environment.action_bounds(task.env)
    minari_write.env_spec(task.env_id, task.env_kwargs, f"task {task.name}")  # its warnings come now
    with Progress() as progress:
        collected = collect.collect(config, wanted, progress)
    facts = {
        "command": shlex.join(["adm-jax", "collect", *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **minari_write.installed_versions()},
    }
    for kind, (actor_params, info) in collected.policies.items():
        save_policy(policy_dir / f"{kind}.npz", actor_params, bounds, {**info, **facts})
        print(f"{kind} policy saved as {policy_dir / kind}.npz")
    for kind, data in collected.datasets.items():
        data = replace(data, metadata={**data.metadata, **facts})
        _save(task, data, ids[kind], bounds)
        if kind == "full-replay" and FLAGS.builtin_file:
            size = builtin.pack(data, Path(FLAGS.builtin_file))
            print(f"packed into {FLAGS.builtin_file}, {size / 1e6:.2f} MB")
    if collected.missing is not None:
        raise InputError(collected.missing)


def _wanted() -> CollectConfig:
    given = flags.explicit(CollectConfig)
    if FLAGS.builtin_file:
        kinds = given.setdefault("kinds", ("full-replay",))
        if "full-replay" not in kinds:
            raise InputError(f"builtin_file: holds a full-replay, which is not among kinds {','.join(kinds)}")
    return CollectConfig(**given)


def _dataset_ids(dataset: str, kinds: tuple[str, ...]) -> dict[str, str]:
    """Each kind's Minari id."""
    if not re.search(r"-v\d+$", dataset):
        return {kind: f"{dataset}/{kind}-v0" for kind in kinds}
    if len(kinds) > 1:
        raise InputError(
            f"dataset: {dataset} is the id of one dataset, and {len(kinds)} kinds are collected; give a "
            "prefix without a version, or one of --kinds"
        )
    return dict.fromkeys(kinds, dataset)


def _check_targets(ids: dict[str, str], policy_dir: Path, kinds: tuple[str, ...]) -> None:
    """Refuses, before the long run, what could not be written after it."""
    for dataset_id in ids.values():
        minari_files.check_id(dataset_id)
        minari_files.check_free(dataset_id)
    if FLAGS.builtin_file is not None:
        _check_builtin_file(Path(FLAGS.builtin_file))
    if set(kinds) != {"random"}:
        _check_policy_dir(policy_dir)
    minari_write.require_writable(next(iter(ids.values())))


def _check_builtin_file(path: Path) -> None:
    if path.suffix != ".xz":
        raise InputError(f"builtin_file: {path} must end in .xz")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise InputError(f"builtin_file: {path.parent} is no folder that can be written")


def _check_policy_dir(path: Path) -> None:
    for kind in ("medium", "expert"):
        if (path / f"{kind}.npz").exists():
            raise InputError(f"policy_dir: {path / kind}.npz exists; remove it or choose another folder")
    require_writable("policy_dir", path)


def _save(task: Task, data: EpisodeData, dataset_id: str, bounds: ActionBounds) -> None:
    low, high = bounds.arrays()
    folder = minari_io.save(data, dataset_id, env_id=task.env_id, action_low=low, action_high=high)
    kind, steps, episodes = data.metadata["kind"], len(data.reward), len(data.episode_ends)
    print(f"{kind}: {steps} transitions, {episodes} episodes; {data.describe_returns()}")
    print(f"saved as {dataset_id} in {folder}")
