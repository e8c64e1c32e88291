"""Environments and tasks out of what a dataset says of itself.

A specification stored with a dataset names the code that makes its environment. It comes from whoever made
the dataset, so that code is not run on its word: the id must be registered, by Gymnasium or by a package
named here, and the registered maker is taken.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.data.episodes import EpisodeData, end_at
from adm_jax.data.formats import minari_files
from adm_jax.envs import environment
from adm_jax.envs.agreement import differences, made_by, read_spec, require_no_state
from adm_jax.envs.environment import EnvUnavailable
from adm_jax.envs.termination import TERMINATIONS, TerminationFn
from adm_jax.tasks import EnvlessTask, Task
from adm_jax.types import EnvSpec, InputError

logger = logging.getLogger(__name__)

_TRUSTED_MAKERS = ("gymnasium.", "gymnasium_robotics.")
_TERMINATES_LIKE = {  # by name and dimension, which tells whether positions are observed too
    ("hopper", 11): "hopper",
    ("hopper", 12): "neorl_hopper",
    ("walker2d", 17): "walker2d",
    ("walker2d", 18): "neorl_walker2d",
    ("ant", 27): "ant",
    ("ant", 105): "ant",  # -v5: with contact forces behind
    ("humanoid", 45): "humanoid",
    ("humanoid", 376): "humanoid",
    ("humanoid", 348): "humanoid",  # -v5
    ("invertedpendulum", 4): "inverted_pendulum",
}
_NEVER_TERMINATING = ("halfcheetah", "pointmaze", "antmaze", "adroithand")  # beginnings of names
_EPISODIC = {"continuing_task": False}  # makes a maze terminate at its goal
_HEALTH = ("healthy", "terminate")  # parts of arguments that move or switch off termination
_MOST, _SOME = 0.5, 1e-3  # shares of states on which data and termination disagree: refused, warned of


@dataclasses.dataclass(frozen=True)
class DerivedTask(Task):
    """A task made from a dataset: its environment is the dataset's own."""

    spec: EnvSpec = dataclasses.field(default=EnvSpec(""))

    @property
    def env(self) -> EnvSpec:
        """The real environment, as adm_jax.envs makes it."""
        return self.spec


def recover_env(metadata: Mapping[str, Any], source: str = "dataset") -> EnvSpec:
    """The environment to evaluate policies in, from a dataset's metadata.

    ``metadata`` has ``env_spec`` (JSON of a gymnasium EnvSpec), or ``env_id`` with ``env_kwargs``, and
    ``obs_limit`` where only first entries of the observation are kept, ``obs_layout`` where its keys are
    joined; ``source`` is the dataset. The maker of the specification is the registered one. Raises
    InputError: its specification is damaged; EnvUnavailable: no environment is named, or nobody registers it;
    says what to install where a known package does, or how to import one.
    """
    limit, layout = metadata.get("obs_limit"), metadata.get("obs_layout", {})
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InputError(f"{source}: metadata: obs_limit is {limit!r}; must be a whole number from 1")
    if not isinstance(layout, Mapping):
        raise InputError(f"{source}: metadata: obs_layout is {layout!r}; must be a table of keys")
    keys = tuple(layout)
    if metadata.get("env_spec") is None:
        if not metadata.get("env_id"):
            raise EnvUnavailable(
                f"{source}: names no environment; give --task=<name> of a registered one, or arrays to "
                "load_dataset with env_id"
            )
        if metadata.get("env_kwargs", {}) is None:
            raise EnvUnavailable(
                f"{source}: the arguments of its environment {metadata['env_id']} could not be stored with "
                "it; give --task=<name> of a registered task"
            )
        _require_registered(metadata["env_id"], "", source)
        return EnvSpec(metadata["env_id"], metadata.get("env_kwargs", {}), None, limit, keys)
    stored = read_spec(metadata["env_spec"], source)
    require_no_state(stored, source)
    env_id, kwargs, maker = stored["id"], stored["kwargs"], str(stored.get("entry_point"))
    makers = [str(wrapper["entry_point"]) for wrapper in stored["additional_wrappers"]]
    foreign = [name for name in makers if not name.startswith(_TRUSTED_MAKERS)]
    if foreign:
        raise InputError(
            f"{source}: environment {env_id} is wrapped in {foreign[0]}, which is not run on a dataset's "
            f"word; give --task=<name> of a registered task"
        )
    _require_registered(env_id, maker, source)
    registered = gymnasium.registry[env_id]
    known = {field.name for field in dataclasses.fields(registered) if field.init}
    spec = {name: value for name, value in stored.items() if name in known}  # older versions had others
    spec |= {"entry_point": None, "vector_entry_point": None}
    return EnvSpec(env_id, kwargs, json.dumps(spec), limit, keys)


def _require_registered(env_id: Any, maker: str, source: str) -> None:
    """Raises what ``recover_env`` does, where nobody registers an environment that data name."""
    if not isinstance(env_id, str):
        raise InputError(f"{source}: metadata: the id of its environment is {env_id!r}; must be a text")
    if ":" in env_id:  # Gymnasium would import what stands before it
        raise InputError(
            f"{source}: environment {env_id} names a module, which is not imported on a dataset's word; must "
            "be an id alone, as MyRobot-v0; give --task=<name> of a registered task"
        )
    environment.require_robotics(env_id, maker, source)
    if not environment.is_registered(env_id):
        raise EnvUnavailable(
            f"{source}: environment {env_id} is not registered with Gymnasium {gymnasium.__version__}; "
            "import the package that registers it first, as --task=my_envs:auto imports my_envs"
        )


def task_from_dataset(
    data: EpisodeData,
    termination: str | None = None,
    eval_env: str = "recorded",
    *,
    without_env: str | None = None,
) -> DerivedTask | EnvlessTask:
    """A task on the environment a dataset was recorded in, with no published settings.

    ``eval_env`` "dataset" takes the one that the dataset would have policies evaluated in. Reference scores
    are the dataset's, where it has some for that environment; the termination is the environment's, where it
    is known and none is given. Where no environment is available (unnamed, not installed or not registered),
    or it is to be done ``without_env`` for a reason, the task is one of the data alone. Raises InputError:
    the environment cannot be recovered or made; its dimensions are not the data's; its termination is unknown
    and not given.
    """
    if without_env is not None:
        return _task_of_data(data, termination, without_env)
    try:
        spec, is_scored = _choose_env(data, eval_env)
        dims = environment.dims(spec)
    except EnvUnavailable as error:
        return _task_of_data(data, termination, str(error))
    have = (data.obs.shape[1], data.action.shape[1])
    if dims != have:
        raise InputError(
            f"{data.source}: obs has {have[0]} and action {have[1]} dimensions; its environment "
            f"{spec.env_id} has {dims[0]} and {dims[1]}"
        )
    termination = termination or _termination_of(spec, data)
    fields = _fields(data, spec, termination)
    if not is_scored:
        fields |= {"reference_min": None, "reference_max": None}
    return DerivedTask(**fields, spec=spec)


def _choose_env(data: EpisodeData, eval_env: str) -> tuple[EnvSpec, bool]:
    """The environment to evaluate in, and whether the dataset's reference scores are its.

    The recorded one takes its step limit from the dataset's ``eval_env``: recordings are often endless.
    """
    metadata, stored = data.metadata, data.metadata.get("eval_env_spec")
    if eval_env == "dataset":
        if stored is None:
            raise InputError(f"eval_env: {data.source} stores no eval_env; leave --eval_env out")
        return recover_env({**metadata, "env_spec": stored}, data.source), True
    recorded = recover_env(metadata, data.source)
    if stored is None or recorded.spec_json is None:
        return recorded, True
    spec, other = json.loads(recorded.spec_json), read_spec(stored, data.source)
    spec["max_episode_steps"] = other.get("max_episode_steps") or spec.get("max_episode_steps")
    differ = differences(made_by(other), made_by(spec))
    if differ:
        scores = "; its reference scores are left out" if metadata.get("reference_max") is not None else ""
        logger.warning(
            "%s: evaluated in %s as it was recorded; the dataset's eval_env differs: %s; --eval_env=dataset "
            "evaluates there%s",
            data.source, recorded.env_id, "; ".join(differ.values()), scores,
        )  # fmt: skip
    return recorded._replace(spec_json=json.dumps(spec)), not differ


def _task_of_data(data: EpisodeData, termination: str | None, reason: str) -> EnvlessTask:
    """A task of what was recorded: dimensions and bounds of actions are the data's."""
    bounds, bounds_from = data.action_bounds()
    try:
        termination = termination or _termination_of(_named_env(data.metadata), data)
    except InputError as error:  # the environment would tell, if there were one
        without = str(error).removeprefix(f"{data.source}: ")
        raise InputError(f"{reason}; without it, {without}") from error
    return EnvlessTask(
        **_fields(data, EnvSpec(""), termination),
        reason=reason,
        bounds=bounds,
        bounds_from=bounds_from,
        longest_episode=int(data.episode_lengths.max()),
    )


def _named_env(metadata: Mapping[str, Any]) -> EnvSpec:
    """The environment that a dataset names, available or not; none where its arguments are not known."""
    kwargs = metadata.get("env_kwargs", {})
    if metadata.get("env_spec") is not None:
        kwargs = json.loads(metadata["env_spec"]).get("kwargs") or {}
    return EnvSpec("") if kwargs is None else EnvSpec(metadata.get("env_id") or "", kwargs)


def _fields(data: EpisodeData, spec: EnvSpec, termination: str) -> dict[str, Any]:
    """What tasks that are made from a dataset have in common."""
    path = Path(data.source)
    name = path.stem if path.suffix in minari_files.FILES else data.source.partition(" ")[0]
    return {
        "name": name,
        "env_id": spec.env_id,
        "obs_dim": data.obs.shape[1],
        "action_dim": data.action.shape[1],
        "termination": termination,
        "reference_min": data.metadata.get("reference_min"),
        "reference_max": data.metadata.get("reference_max"),
        "dataset": name,
        "presets": {},
        "env_kwargs": spec.kwargs,
    }


def _termination_of(spec: EnvSpec, data: EpisodeData) -> str:
    """Name of the termination function of an environment that runs as published, or that never terminates.

    An environment is known by name; one that is not, never terminates where none of the data's episodes does.
    """
    of = spec.env_id or "an episode"
    name = spec.env_id.rpartition("-v")[0].lower().replace("_", "")
    changed = [key for key, value in spec.kwargs.items() if _EPISODIC.get(key) == value]
    if name.startswith(_NEVER_TERMINATING) and not changed:
        return "never"
    changed += [key for key in spec.kwargs if any(part in key for part in _HEALTH)]
    known = _TERMINATES_LIKE.get((name, data.obs.shape[1]), "")
    if known in TERMINATIONS and not changed:
        return known
    goes_on = not data.terminated.any()
    if goes_on and spec.kwargs.get("terminate_when_unhealthy", True) is False:
        return "never"
    if goes_on and not changed:
        logger.warning(
            "%s: no episode terminates in the data, so that none does in the model; --termination=<name> or "
            "module:function says where %s does",
            data.source, of,
        )  # fmt: skip
        return "never"
    why = f" with {changed[0]}={spec.kwargs[changed[0]]}" if changed else ""
    raise InputError(
        f"{data.source}: what terminates {of}{why} is not known; give --termination=module:function "
        f"(next observations [..., D] to booleans [...]), or a name, one of {', '.join(TERMINATIONS)}"
    )


def terminal_states(data: EpisodeData, terminated_fn: TerminationFn) -> np.ndarray:
    """Which transitions [N] lead to a state that is terminal by the function, compiled as in a roll-out."""
    return np.asarray(jax.jit(terminated_fn)(jnp.asarray(data.next_obs)))


def relabel_terminations(data: EpisodeData, terminated_fn: TerminationFn, wanted_by: str) -> EpisodeData:
    """Ends the data's episodes where a task's roll-outs end, and warns how much of them that leaves out.

    Without it, data that go on behind a drop or a goal would teach the critics a continuing task and the
    roll-outs an episodic one, and roll-outs would begin where none may go on. ``terminated_fn`` is next_obs
    [N, D] -> terminated [N], ``wanted_by`` who ends episodes so, as "task pen-human".
    """
    cut = end_at(data, terminal_states(data, terminated_fn))
    shorter = int((cut.episode_lengths < data.episode_lengths).sum())
    if dropped := len(data.reward) - len(cut.reward):
        logger.warning(
            "%s: %s ends %d of its %d episodes earlier; %d of %d transitions lie behind and are left out",
            data.source, wanted_by, shorter, len(data.episode_ends), dropped, len(data.reward),
        )  # fmt: skip
    return cut


def check_terminations(data: EpisodeData, terminated_fn: TerminationFn, wanted_by: str) -> None:
    """Compares a termination function, next_obs [N, D] -> terminated [N], with the data's flags.

    Data of another environment show here even where the dimensions agree: its states are out of the range in
    which the task's environment goes on. Smaller disagreement is a warning. ``wanted_by`` is who ends
    episodes so, as "task hopper". Raises InputError: most states after which the data go on are terminal ones
    by the function.
    """
    ended = terminal_states(data, terminated_fn)
    going_on = ~data.terminated
    wrong = ended & going_on
    share = wrong.sum() / max(1, going_on.sum())
    if share > _MOST:
        t = int(np.flatnonzero(wrong)[0])
        episode = int(np.searchsorted(data.episode_ends, t))
        raise InputError(
            f"{data.source}: {wanted_by} ends at {wrong.sum()} of the {going_on.sum()} states that do not "
            f"terminate in the data (first in episode {episode}); these are data of another environment, or "
            f"another --termination is meant"
        )
    if share > _SOME:
        logger.warning(
            "%s: %s ends at %d of the %d states that do not terminate in the data",
            data.source, wanted_by, wrong.sum(), going_on.sum(),
        )  # fmt: skip
    alive = data.terminated & ~ended
    if alive.sum() > _MOST * max(1, data.terminated.sum()):
        logger.warning(
            "%s: %s goes on at %d of the %d states that terminate in the data; time limits or data of "
            "another environment look like this",
            data.source, wanted_by, alive.sum(), data.terminated.sum(),
        )  # fmt: skip
