"""The data of an offline run: loaded, checked against the task, and put on the device."""

import dataclasses

from adm_jax.config import OfflineConfig, is_derived, presets
from adm_jax.config.references import import_named
from adm_jax.data.dataset import count_short_episodes, make_dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_io
from adm_jax.data.validation import check_actions, check_dims
from adm_jax.dynamics.fitting import holdout_segments
from adm_jax.envs import environment
from adm_jax.envs.agreement import check_agreement
from adm_jax.envs.recovered import check_terminations, relabel_terminations, task_from_dataset
from adm_jax.envs.termination import get_termination
from adm_jax.tasks import EnvlessTask, Task, get_task
from adm_jax.training.components import SharedData
from adm_jax.types import InputError


def load_data(
    config: OfflineConfig, data: EpisodeData | None = None, without_env: str | None = None
) -> tuple[Task, EpisodeData]:
    """The run's task and its dataset, each checked against the other; ``data`` take a stored one's place.

    A task that is made from the dataset may be one without an environment, and must be ``without_env``, the
    reason why a run began so.

    Raises:
      InputError: there is no such task or dataset, or they do not belong together.
    """
    import_named(config.task, "task")  # a resumed run's
    task = None if is_derived(config.task) else get_task(config.task)
    dataset_id = config.dataset or (task and task.dataset)
    if data is None and dataset_id is None:
        if task is None:
            raise InputError(
                "dataset: task auto is made from a dataset; give its Minari id, as "
                "--dataset=mujoco/hopper/medium-v0; a run on arrays goes on with "
                "adm_jax.resume(folder, adm_jax.load_dataset(arrays, env_id=...))"
            )
        raise InputError(
            f"dataset: task {config.task} has none of its own; give --dataset=<minari id>, e.g. one made by "
            f"adm-jax import --source=d4rl --path=FILE --dataset={config.task}-v0"
        )
    if data is None:
        assert dataset_id is not None
        data = minari_io.load(dataset_id)
    if task is None:
        task = task_from_dataset(data, config.rollout.termination, config.eval_env, without_env=without_env)
    elif config.eval_env != "recorded":
        raise InputError(
            f"eval_env: {config.eval_env} needs --task=auto; task {task.name} has its own environment"
        )
    elif layout := data.metadata.get("obs_layout"):  # evaluation joins the observation's keys as the data do
        task = dataclasses.replace(task, obs_keys=tuple(layout))
    wanted_by = f"task {task.name}"
    named = task.env_id if config.eval_env == "recorded" else None
    check_dims(data, task.obs_dim, task.action_dim, wanted_by, env_id=named or None)
    if task.has_env:
        environment.require_dims(task.env, task.obs_dim, task.action_dim, wanted_by)
    check_actions(data, environment.bounds_of_task(task), wanted_by)
    if task.has_env:
        is_published = task.name in presets.BUILTIN and data.source.partition(" ")[0] == task.dataset
        check_agreement(data, task.env, wanted_by, is_published=is_published)
    terminated_fn = get_termination(config.rollout.termination or task.termination, task.obs_dim)
    if task.relabel_terminations:
        data = relabel_terminations(data, terminated_fn, wanted_by)
    check_terminations(data, terminated_fn, wanted_by)
    return task, data


def put_on_device(
    config: OfflineConfig, data: EpisodeData, max_backtrack: int, split_length: int | None = None
) -> SharedData:
    """The data and what is held out of them; ``max_backtrack`` and ``split_length`` are make_dataset's."""
    fit = config.fit
    dataset = make_dataset(
        data,
        max_backtrack,
        holdout=fit.holdout,
        holdout_fraction=fit.holdout_fraction,
        holdout_max_size=fit.holdout_max_size,
        split_seed=fit.split_seed,
        split_length=split_length,
    )
    return SharedData(dataset, holdout_segments(dataset, max_backtrack, fit))


def describe(task: Task, data: EpisodeData, max_backtrack: int) -> list[str]:
    """Lines on what there is to learn from, and on what cannot be evaluated."""
    returns = data.return_statistics()
    lines = [
        *(task.lines() if isinstance(task, EnvlessTask) else ()),
        f"{data.source}: {len(data.reward)} transitions, {len(data.episode_ends)} episodes, returns: "
        f"episode mean {returns['episode_return_mean']:.1f}, transition-weighted "
        f"{returns['transition_weighted_return_mean']:.1f}, best {returns['episode_return_max']:.1f}",
    ]
    short = count_short_episodes(data, max_backtrack)
    if short:
        lines.append(
            f"{short} episodes are shorter than a window of max_backtrack={max_backtrack} and start no "
            "roll-out"
        )
    return lines
