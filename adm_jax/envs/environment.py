"""Real environments as evaluation and collection use them: made, seeded and described in one way."""

import contextlib
import functools
import importlib
import logging
import operator
import warnings
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs import registration

from adm_jax.data.formats import minari_write
from adm_jax.data.formats.minari_metadata import one_line
from adm_jax.tasks import EnvlessTask, Task
from adm_jax.types import ActionBounds, EnvSpec, InputError

_log = logging.getLogger("adm_jax.mujoco")

# beginnings of Gymnasium-Robotics' ids
_ROBOTICS = ("AdroitHand", "AntMaze", "PointMaze", "FrankaKitchen", "Fetch", "HandReach", "HandManipulate")
_MISSING = (gymnasium.error.UnregisteredEnv, gymnasium.error.DependencyNotInstalled, ImportError)


class EnvUnavailable(InputError):
    """No environment is named, or whoever registers it, or what it needs, is not installed or imported."""


def as_spec(env: EnvSpec | str) -> EnvSpec:
    """A Gymnasium id alone as a specification."""
    return EnvSpec(env) if isinstance(env, str) else env


def is_registered(env_id: str | None) -> bool:
    """Whether Gymnasium knows an environment of that id; Gymnasium-Robotics is imported where need be."""
    return minari_write.is_registered(env_id)


def make_env(env: EnvSpec | str) -> gymnasium.Env:
    """One Gymnasium environment with vectors for observations and actions, and a step limit.

    Observations in dictionaries and tuples are joined: the specification's ``obs_keys``, else all of them in
    the order of the environment's own space, as Gymnasium's FlattenObservation does.

    ``*-v4`` ids are meant: Gymnasium's advice to move to v5, whose scores don't compare with D4RL, is
    silenced. Gymnasium's own checks of every step (a tenth of the stepping time) are left out. Raises
    InputError: there is no such environment (EnvUnavailable), or it has other spaces or no step limit.
    """
    spec = as_spec(env)
    made = make_bare(spec)
    if isinstance(made.observation_space, (gymnasium.spaces.Dict, gymnasium.spaces.Tuple)):
        has_keys = bool(spec.obs_keys)
        made = JoinedKeys(made, spec) if has_keys else gymnasium.wrappers.FlattenObservation(made)
    spaces = (made.observation_space, made.action_space)
    for name, space in zip(("observations", "actions"), spaces, strict=True):
        if not (isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1):
            text = " ".join(str(space).split())
            raise InputError(f"environment {spec.env_id}: {name} are {text}; only Box, a vector, will do")
    if step_limit(made) is None:
        raise InputError(
            f"environment {spec.env_id}: it has no step limit, so its episodes need never end; register it "
            "with max_episode_steps"
        )
    return made if spec.obs_limit is None else FirstEntries(made, spec.obs_limit)


def make_bare(spec: EnvSpec) -> gymnasium.Env:
    """The environment as Gymnasium makes it, whatever it observes; see ``make_env``."""
    _route_mujoco_warnings()
    require_robotics(spec.env_id)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is out of date.*", category=DeprecationWarning)
        return _make(spec)


def _make(spec: EnvSpec) -> gymnasium.Env:
    try:
        if spec.spec_json is not None:
            whole = registration.EnvSpec.from_json(spec.spec_json)
            whole.entry_point = gymnasium.spec(spec.env_id).entry_point
            return gymnasium.make(whole, disable_env_checker=True)
        return gymnasium.make(spec.env_id, **{"disable_env_checker": True, **spec.kwargs})
    except (gymnasium.error.Error, TypeError, ValueError, ImportError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        if not is_registered(spec.env_id):
            text = f"{text.rstrip('.')}; import the package that registers it first"
        kind = EnvUnavailable if isinstance(error, _MISSING) else InputError
        raise kind(f"environment {spec.env_id}: {text}") from error
    except Exception as error:  # whatever an environment's own code does with the arguments it gets
        raise InputError(f"environment {spec.env_id}: {type(error).__name__}: {one_line(error)}") from error


def require_robotics(env_id: str, maker: str = "", wanted_by: str = "") -> None:
    """Raises EnvUnavailable where an environment is Gymnasium-Robotics', by id or ``maker``, and that is not
    installed; ``wanted_by`` is the dataset.
    """
    of_robotics = env_id.startswith(_ROBOTICS) or maker.startswith("gymnasium_robotics.")
    if is_registered(env_id) or not of_robotics:
        return
    try:
        importlib.import_module("gymnasium_robotics")
    except ImportError as error:
        where = f"{wanted_by}: environment" if wanted_by else "environment"
        raise EnvUnavailable(
            f"{where} {env_id} needs gymnasium-robotics ({error}); pip install 'adm_jax[robotics]'"
        ) from error


class FirstEntries(gymnasium.ObservationWrapper):
    """The first entries of the observation: what "truncated" Ant and Humanoid observe."""

    def __init__(self, env: gymnasium.Env, limit: int):
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gymnasium.spaces.Box)
        if space.shape[0] < limit:
            raise InputError(
                f"obs_limit: {limit} of {space.shape[0]} entries of the observation cannot be kept"
            )
        low, high, dtype = space.low[:limit], space.high[:limit], space.dtype.type
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=dtype)
        self._limit = limit

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The entries kept."""
        return observation[: self._limit]


class JoinedKeys(gymnasium.ObservationWrapper):
    """Some keys of the observation, side by side: what a dataset holds of it, in the order it has them."""

    def __init__(self, env: gymnasium.Env, spec: EnvSpec):
        super().__init__(env)
        boxes = space_keys(env.observation_space)
        lacking = [key for key in spec.obs_keys if key not in boxes]
        if lacking:
            raise InputError(
                f"environment {spec.env_id}: its observations have no {lacking[0]!r}, which the data have; "
                f"they are {', '.join(boxes)}"
            )
        self._paths = [boxes[key][0] for key in spec.obs_keys]
        chosen = [boxes[key][1] for key in spec.obs_keys]
        low, high = (
            np.concatenate([np.ravel(getattr(box, end)) for box in chosen]) for end in ("low", "high")
        )
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=low.dtype.type)

    def observation(self, observation: Any) -> np.ndarray:
        """The keys' entries [D]."""
        return np.concatenate(
            [np.ravel(functools.reduce(operator.getitem, path, observation)) for path in self._paths]
        )


def space_keys(space: gymnasium.Space) -> dict[str, tuple[tuple[Any, ...], gymnasium.spaces.Box]]:
    """The boxes inside a space by key, in its order: the way to each, and the box; nested keys are "a/b".

    An entry of a tuple is ``_index_0``, as Minari names it.
    """
    if isinstance(space, gymnasium.spaces.Dict):
        parts = [(key, key, part) for key, part in space.spaces.items()]
    elif isinstance(space, gymnasium.spaces.Tuple):
        parts = [(f"_index_{i}", i, part) for i, part in enumerate(space.spaces)]
    else:
        return {}
    found = {}
    for name, step, part in parts:
        if isinstance(part, gymnasium.spaces.Box):
            found[name] = ((step,), part)
        inner = space_keys(part).items()
        found |= {f"{name}/{key}": ((step, *path), box) for key, (path, box) in inner}
    return found


def step_limit(env: gymnasium.Env) -> int | None:
    """Steps after which the environment's own TimeLimit truncates an episode; None without one."""
    return None if env.spec is None else env.spec.max_episode_steps


def obs_dim(env: gymnasium.Env) -> int:
    """Dimension D of an environment's observations."""
    assert env.observation_space.shape is not None
    return env.observation_space.shape[0]


def dims(env: EnvSpec | str) -> tuple[int, int]:
    """Dimensions D of an environment's observations and A of its actions."""
    with contextlib.closing(make_env(env)) as made:
        assert made.action_space.shape is not None
        return obs_dim(made), made.action_space.shape[0]


def require_dims(env: EnvSpec | str, obs_dim: int, action_dim: int, wanted_by: str) -> None:
    """Raises InputError where an environment has other dimensions than ``wanted_by``, as "task hopper"."""
    made = make_env(env)
    obs_shape, action_shape = (made.observation_space.shape, made.action_space.shape)
    made.close()
    if (obs_shape, action_shape) != ((obs_dim,), (action_dim,)):
        raise InputError(
            f"{wanted_by}: obs_dim {obs_dim} and action_dim {action_dim} are not those of "
            f"{as_spec(env).env_id}, whose observations are {obs_shape} and actions {action_shape}"
        )


def action_bounds(env: gymnasium.Env | EnvSpec | str) -> ActionBounds:
    """What an environment's actions lie within.

    Raises InputError: they are whole numbers; in some dimension they are unbounded, or there is only one.
    """
    if not isinstance(env, gymnasium.Env):
        with contextlib.closing(make_env(env)) as made:
            return action_bounds(made)
    space, name = env.action_space, env.spec.id if env.spec else env
    assert isinstance(space, gymnasium.spaces.Box)
    if not np.issubdtype(space.dtype, np.floating):
        raise InputError(
            f"environment {name}: its actions are whole numbers, {space.dtype}; a policy needs float32"
        )
    return ActionBounds.of(space.low, space.high, f"environment {name}")


def bounds_of_task(task: Task) -> ActionBounds:
    """What a task's actions lie within: its environment's; the data's where it has none."""
    return task.bounds if isinstance(task, EnvlessTask) else action_bounds(task.env)


def reset_seed(*path: int) -> int:
    """A reset's seed as a fixed function of where it happens, e.g. (root seed, evaluation, member, episode).

    NumPy's SeedSequence mixes the path, so neighbouring paths give unrelated seeds. It pads its input
    with zeros, hence the leading length: otherwise (s,) and (s, 0) would be one seed.
    """
    return int(np.random.SeedSequence([len(path), *path]).generate_state(1)[0])


def versions() -> dict[str, str]:
    """Versions of the simulator: returns depend on them, as MuJoCo 3.5 changed Hopper's dynamics."""
    return {"mujoco": mujoco.__version__, "gymnasium": gymnasium.__version__}


def _route_mujoco_warnings() -> None:
    """Sends MuJoCo's warnings to Python's logging, unless somebody else already receives them.

    Without a receiver MuJoCo prints them and appends them to MUJOCO_LOG.TXT in the current folder.
    """
    if mujoco.get_mju_user_warning() is None:  # pyright: ignore[reportAttributeAccessIssue]
        mujoco.set_mju_user_warning(_log.warning)  # pyright: ignore[reportAttributeAccessIssue]
