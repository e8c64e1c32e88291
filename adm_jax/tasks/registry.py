"""All tasks by name: the built-in ones and those that are registered."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, get_args

from adm_jax.tasks import environments, presets
from adm_jax.tasks.full_horizon import full_horizon
from adm_jax.tasks.references import import_module, is_reference
from adm_jax.tasks.task import OnlineFamily, Task
from adm_jax.types import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_CODE = "the authors' code (HxLyn3/ADMPO, 2025-02-13)"
_PAPER = "arXiv 2405.17031, Tables 3 and 5, Eq. 4"

# of an environment alone, with data nobody has published settings for: those of its medium data
_BARE = {"hopper": "hopper-medium", "walker2d": "walker2d-medium", "halfcheetah": "halfcheetah-medium"}


def _mujoco_tasks() -> Iterator[Task]:
    for env, fields in environments.BY_NAME.items():
        settings = presets.admpo(presets.D4RL[_BARE[env]])
        source = f"the published settings of {_BARE[env]}"
        yield Task(
            env, **fields, settings=settings, source=source, **presets.online(env), **presets.mopo(env)
        )
    for name, row in presets.D4RL.items():
        env, _, data = name.partition("-")
        yield Task(
            name,
            **environments.BY_NAME[env],
            dataset=f"d4rl/{env}-{data}-v2",
            settings=presets.admpo(row),
            paper_settings={**presets.PAPER_COMMON, **presets.PAPER.get(name, {})},
            source=f"{_CODE}; with preset=paper where they differ {_PAPER}",
            **presets.mopo(name),
        )
    yield Task(
        "hopper-builtin",
        **environments.BY_NAME["hopper"],
        dataset="adm_jax/hopper-replay-v0",
        settings=presets.QUICK,
        source="quick preset: hopper-medium-replay's settings with fewer, shorter epochs",
        **presets.quick_mopo(),
    )


def _neorl_tasks() -> Iterator[Task]:
    for name, row in presets.NEORL.items():
        env = name.partition("-")[0]
        fields = {**environments.BY_NAME[env], **environments.NEORL[env]}
        fields["obs_dim"] += 1  # x
        # NeoRL's medium is not D4RL's, but MOPO has settings for no other data of this environment
        mopo = presets.mopo(f"{env}-medium")
        mopo["mopo_source"] += f" for {env}-medium; none is published for NeoRL"
        yield Task(
            f"neorl-{name}",
            **fields,
            dataset=f"neorl/{name}-v0",
            settings=presets.admpo(row),
            paper_settings=presets.PAPER_COMMON,
            source=f"{_CODE}; with preset=paper where they differ {_PAPER}",
            env_kwargs={"exclude_current_positions_from_observation": False},
            **mopo,
        )


def _other_tasks() -> Iterator[Task]:
    for env, fields in environments.TRUNCATED.items():
        source = (
            f"max_backtrack and model_hidden_dim of ADMPO-ON ({_PAPER.split(',')[0]}, Table 4, and its code)"
        )
        yield Task(
            env,
            **fields,
            settings=presets.TRUNCATED_SETTINGS,
            source=source,
            **presets.online(env),
            **presets.mopo(env),
        )
    yield Task(
        "inverted_pendulum",
        **environments.PENDULUM,
        **presets.online("inverted_pendulum"),
        **presets.mopo("inverted_pendulum"),
    )
    for data, row in presets.PEN_DATA.items():
        yield Task(
            f"pen-{data}",
            **environments.PEN,
            dataset=f"D4RL/pen/{data}-v2",
            settings=presets.admpo(row),
            source=_CODE,
            **presets.mopo("pen"),
        )
    for data, row in presets.ANTMAZE_DATA.items():
        yield Task(
            f"antmaze-{data}",
            **environments.antmaze(data),
            dataset=f"D4RL/antmaze/{data}-v1",
            settings=presets.admpo(row),
            source=f"{_CODE}, without its reward shift and q_clip",
            **presets.mopo("antmaze"),
        )


_TASKS = {
    task.name: dataclasses.replace(task, **full_horizon(task.name))
    for tasks in (_mujoco_tasks, _neorl_tasks, _other_tasks)
    for task in tasks()
}
TASKS: Mapping[str, Task] = MappingProxyType(_TASKS)  # sees what is registered later


def get_task(name: str) -> Task:
    """The task of that name, or of ``module:task``: a module that registers it is imported first.

    Raises:
      InputError: there is none; the message lists the known names and says how to register one.
    """
    module, _, own = name.rpartition(":")
    if is_reference(name):
        import_module(module, "task")
    if own not in _TASKS:
        raise InputError(
            f"task: {own!r} is unknown; one of {', '.join(_TASKS)}; or register one of your own with "
            "adm_jax.tasks.register_task in a module, and name it module:task"
        )
    return _TASKS[own]


def register_task(task: Task | None = None, *, overwrite: bool = False, **fields: Any) -> Task:
    """Makes a task known, e.g. one of a robot of one's own.

        register_task(
            name="my-robot", env_id="MyRobot-v0", obs_dim=12, action_dim=4,
            termination="my_robot:terminated", dataset="my-robot/replay-v0",
            settings={"max_backtrack": 3, "penalty_coef": 2.5},
        )

    In ``my_robot.py`` on the path or in the current folder, it is ``--task=my_robot:my-robot`` to every
    experiment. Registering the same task again, as a module imported under two names does, changes nothing.

    Args:
      task: the task; or None, and its ``fields`` (see Task).
      overwrite: replace a task of this name.
      fields: fields of Task; with a ``task``, what of it is replaced.

    Returns:
      The task as registered.

    Raises:
      InputError: a field is missing, unknown or wrong, or the name is taken.
    """
    try:
        task = Task(**fields) if task is None else dataclasses.replace(task, **fields)
    except TypeError as error:
        reason = str(error).rpartition("__init__() ")[2]
        raise InputError(f"register_task: {reason}; the fields are those of adm_jax.tasks.Task") from error
    _check(task)
    if task.name in _TASKS and not overwrite and task != _TASKS[task.name]:
        raise InputError(f"task: {task.name!r} is registered already; choose another name or overwrite=True")
    _TASKS[task.name] = task
    return task


def _check(task: Task) -> None:
    """Raises InputError at the first field that cannot be right."""
    for name in ("name", "env_id", "termination"):
        value = getattr(task, name)
        _require(isinstance(value, str) and value, name, value, "must be a text that is not empty")
    _require(
        _NAME.fullmatch(task.name),
        "name",
        task.name,
        "must be letters, digits, '-', '_' and '.': it names a folder",
    )
    for name in ("obs_dim", "action_dim", "obs_limit"):
        value = getattr(task, name)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        _require(whole or (name == "obs_limit" and value is None), name, value, "must be at least 1")
    if task.obs_limit is not None:
        wanted = f"must be obs_dim, {task.obs_dim}"
        _require(task.obs_limit == task.obs_dim, "obs_limit", task.obs_limit, wanted)
    mappings = ["settings", "paper_settings", "env_kwargs", "mopo_settings", "full_horizon_settings"]
    mappings += ["online_settings", "online_sources"]
    for name in mappings:
        value = getattr(task, name)
        texts = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        _require(texts, name, value, "must be a mapping from names to values")
    families = get_args(OnlineFamily)
    for name, kind, wanted in (("online_settings", Mapping, "a mapping"), ("online_sources", str, "a text")):
        for family, value in getattr(task, name).items():
            _require(family in families, name, family, f"is no family of settings: {', '.join(families)}")
            _require(isinstance(value, kind), f"{name}[{family!r}]", value, f"must be {wanted}")
    for name in ("dataset", "source", "mopo_source", "full_horizon_source"):
        value = getattr(task, name)
        _require(
            isinstance(value, str) or (name == "dataset" and value is None), name, value, "must be a text"
        )
    value = task.relabel_terminations
    _require(isinstance(value, bool), "relabel_terminations", value, "must be True or False")
    _check_references(task.reference_min, task.reference_max)


def _check_references(low: Any, high: Any) -> None:
    if low is None and high is None:
        return
    for name, value in (("reference_min", low), ("reference_max", high)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        _require(number, name, value, "must be a number, or both references None")
    _require(low < high, "reference_max", high, f"must be above reference_min, {low}")


def _require(holds: Any, name: str, value: Any, wanted: str) -> None:
    if not holds:
        raise InputError(f"register_task: {name}: {value!r}: {wanted}")
