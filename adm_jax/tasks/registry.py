"""All tasks by name: the built-in ones and those that are registered."""

import dataclasses
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from adm_jax.config import presets
from adm_jax.config.presets.preset import FAMILIES, Preset, Presets
from adm_jax.tasks import environments
from adm_jax.tasks.task import Task
from adm_jax.types import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# what register_task takes in addition to Task's fields: argument -> family, and the part of its preset
_OF_PRESETS = {
    "settings": ("admpo_off", "settings"),
    "paper_settings": ("admpo_paper", "settings"),
    "mopo_settings": ("mopo", "settings"),
    "full_horizon_settings": ("adm2po", "settings"),
    "source": ("admpo_off", "source"),
    "mopo_source": ("mopo", "source"),
    "full_horizon_source": ("adm2po", "source"),
}
_ONLINE = {"admpo": "admpo_on", "mbpo": "mbpo", "sac": "sac"}  # as online_settings name the families

_TASKS = {
    name: Task(name, **environments.fields_of(name), presets=own) for name, own in presets.BUILTIN.items()
}
TASKS: Mapping[str, Task] = MappingProxyType(_TASKS)  # sees what is registered later


def get_task(name: str) -> Task:
    """The task of that name, or of ``module:task``: a module that registers it is imported first.

    Raises InputError: there is none; the message lists the known names and says how to register one.
    """
    return presets.named(name, _TASKS)


def register_task(task: Task | None = None, *, overwrite: bool = False, **fields: Any) -> Task:
    """Makes a task known, e.g. one of a robot of one's own::

        register_task(
            name="my-robot", env_id="MyRobot-v0", obs_dim=12, action_dim=4,
            termination="my_robot:terminated", dataset="my-robot/replay-v0",
            settings={"max_backtrack": 3, "penalty_coef": 2.5},
        )

    In ``my_robot.py`` on the path or in the current folder, it is ``--task=my_robot:my-robot`` to every
    command. Registering the same task again, as a module imported under two names does, changes nothing.

    ``fields`` are Task's; with a ``task``, what of it is replaced. A preset can be given in parts:
    ``settings``, ``source`` and ``paper_settings`` are ADMPO-OFF's, ``mopo_settings`` and ``mopo_source``
    MOPO's, ``full_horizon_settings`` and ``full_horizon_source`` ADM2PO's; ``online_settings`` and
    ``online_sources`` map ``admpo``, ``mbpo`` and ``sac`` to theirs.

    Raises InputError: a field is missing, unknown or wrong, or the name is taken and ``overwrite`` not set.
    """
    fields["presets"] = _presets(fields, {} if task is None else task.presets)
    try:
        task = Task(**fields) if task is None else dataclasses.replace(task, **fields)
    except TypeError as error:
        reason = str(error).rpartition("__init__() ")[2]
        raise InputError(f"register_task: {reason}; the fields are those of adm_jax.tasks.Task") from error
    _check(task)
    if task.name in _TASKS and not overwrite and task != _TASKS[task.name]:
        raise InputError(f"task: {task.name!r} is registered already; choose another name or overwrite=True")
    _TASKS[task.name] = task
    presets.put(task.name, task.presets)
    return task


def _presets(fields: dict[str, Any], before: Presets) -> Presets:
    """Takes a task's presets, and parts of them, out of ``register_task``'s fields.

    Raises InputError: a family is unknown, or a part has a wrong type.
    """
    own = fields.pop("presets", before)
    _require_mapping("presets", own)
    made: dict[str, Preset] = {}

    def put(name: str, family: str, part: str, value: Any) -> None:
        if part == "settings":
            _require_mapping(name, value)
        else:
            _require(isinstance(value, str), name, value, "must be a text")
        made[family] = made.get(family, Preset())._replace(**{part: value})

    for family, preset in own.items():
        _require(family in FAMILIES, "presets", family, f"is no family of settings: {', '.join(FAMILIES)}")
        pair = isinstance(preset, Preset) or (isinstance(preset, tuple) and len(preset) == 2)
        _require(pair, f"presets[{family!r}]", preset, "must be (settings, source)")
        put(f"presets[{family!r}].settings", family, "settings", preset[0])
        put(f"presets[{family!r}].source", family, "source", preset[1])
        made[family] = made[family]._replace(complete=getattr(preset, "complete", False))
    for name in [name for name in fields if name in _OF_PRESETS]:
        put(name, *_OF_PRESETS[name], fields.pop(name))
    for name, part in (("online_settings", "settings"), ("online_sources", "source")):
        values = fields.pop(name, {})
        _require_mapping(name, values)
        for family, value in values.items():
            _require(family in _ONLINE, name, family, f"is no family of settings: {', '.join(_ONLINE)}")
            put(f"{name}[{family!r}]", _ONLINE[family], part, value)
    return made


def _check(task: Task) -> None:
    """Raises InputError at the first field that cannot be right."""
    for name in ("name", "env_id", "termination"):
        value = getattr(task, name)
        _require(isinstance(value, str) and value, name, value, "must be a text that is not empty")
    wanted = "must be letters, digits, '-', '_' and '.': it names a folder"
    _require(_NAME.fullmatch(task.name), "name", task.name, wanted)
    for name in ("obs_dim", "action_dim", "obs_limit"):
        value = getattr(task, name)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        _require(whole or (name == "obs_limit" and value is None), name, value, "must be at least 1")
    if task.obs_limit is not None:
        wanted = f"must be obs_dim, {task.obs_dim}"
        _require(task.obs_limit == task.obs_dim, "obs_limit", task.obs_limit, wanted)
    _require_mapping("env_kwargs", task.env_kwargs)
    value = task.dataset
    _require(value is None or isinstance(value, str), "dataset", value, "must be a text")
    value = task.obs_keys
    texts = isinstance(value, tuple) and all(isinstance(key, str) for key in value)
    _require(texts, "obs_keys", value, "must be a tuple of texts")
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


def _require_mapping(name: str, value: Any) -> None:
    texts = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    _require(texts, name, value, "must be a mapping from names to values")


def _require(holds: Any, name: str, value: Any, wanted: str) -> None:
    if not holds:
        raise InputError(f"register_task: {name}: {value!r}: {wanted}")
