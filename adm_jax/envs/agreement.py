"""Whether evaluation observes what was recorded, asked before anything is computed.

A dataset says how its environment was made, and often with which seeds its first episodes began. The one is
compared with the environment that policies are to be evaluated in; with the others that environment is reset,
and its first observation and step are compared with the recorded ones.
"""

import contextlib
import dataclasses
import inspect
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from adm_jax.data.episodes import EpisodeData, Reset
from adm_jax.data.formats.minari_metadata import one_line
from adm_jax.envs import environment
from adm_jax.types import EnvSpec, InputError

logger = logging.getLogger(__name__)

_STATE = {  # of wrappers, what of them changes numbers and is stored nowhere
    "NormalizeObservation": "running mean and variance are",
    "NormalizeReward": "running variance is",
    "TransformObservation": "function is",
    "TransformAction": "function is",
    "TransformReward": "function is",
}
_WATCHING = (  # wrappers that change nothing a policy observes or does; some write files or open windows
    *("RecordEpisodeStatistics", "RecordVideo", "HumanRendering", "RenderCollection"),
    *("OrderEnforcing", "PassiveEnvChecker"),
)
_STEP_LIMIT, _WRAPPERS = "max_episode_steps", "wrappers"
_MISSING = "not given"
_LONGEST = 60  # characters of a value that is shown
_CLOSE = 1e-3  # below it, relative and absolute, lie other versions of a simulator, not other observations


class Made(NamedTuple):
    """How an environment is made."""

    env_id: str
    step_limit: int | None  # None: there is none, or it is not known
    kwargs: Mapping[str, Any]
    wrappers: tuple[tuple[str, Any], ...]  # maker and arguments of each that changes something


def read_spec(text: str, source: str) -> dict[str, Any]:
    """A stored specification (JSON) as evaluations need it: nothing is drawn, filmed or only watched.

    Raises InputError: it cannot be read, or an entry is of another type than Gymnasium writes.
    """
    try:
        given = {name: x for name, x in json.loads(text).items() if x is not None}
        spec: dict[str, Any] = {"kwargs": {}, "additional_wrappers": [], **given}
        for name, kind in (("id", str), ("kwargs", dict), ("additional_wrappers", list)):
            _require_kind(name, spec[name], kind)
        wrappers = _acting(spec)
        for wrapper in wrappers:
            _require_kind(f"kwargs of {wrapper['entry_point']}", wrapper.get("kwargs") or {}, dict)
        steps = spec.get(_STEP_LIMIT, 1)
        if type(steps) is not int or steps < 1:
            raise TypeError(f"{_STEP_LIMIT} is {steps!r}; must be a whole number from 1")
        kwargs = {name: x for name, x in spec["kwargs"].items() if name != "render_mode"}
        return {**spec, "kwargs": kwargs, "additional_wrappers": wrappers}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: metadata: env_spec cannot be read ({one_line(error)})") from error


def _require_kind(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {value!r}; must be a {kind.__name__}")


def made_by(spec: Mapping[str, Any]) -> Made:
    """How a Gymnasium specification, as a table, makes its environment."""
    wrappers = tuple((str(w["entry_point"]), _plain(w.get("kwargs"))) for w in _acting(spec))
    return Made(spec["id"], spec.get(_STEP_LIMIT), _plain(spec["kwargs"]), wrappers)


def _acting(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of a specification's wrappers that change observations, actions or rewards."""
    wrappers = spec.get("additional_wrappers") or ()
    return [wrapper for wrapper in wrappers if _name(wrapper["entry_point"]) not in _WATCHING]


def require_no_state(spec: Mapping[str, Any], source: str) -> None:
    """Raises InputError, naming it, where a recorded specification has a wrapper that cannot be had again."""
    for wrapper in spec["additional_wrappers"]:
        name = _name(wrapper["entry_point"])
        if name in _STATE:
            raise InputError(
                f"{source}: environment {spec['id']} is wrapped in {name}, whose {_STATE[name]} not in the "
                "data, so that nothing can be evaluated as it was recorded; record without it"
            )


def differences(evaluated: Made, recorded: Made) -> dict[str, str]:
    """What differs between two environments by name, each with both values where they are short."""
    ours, theirs = evaluated.kwargs, recorded.kwargs
    if evaluated.env_id == recorded.env_id:  # an argument may be its default by another word
        defaults = _defaults(evaluated.env_id)
        ours, theirs = {**defaults, **ours}, {**defaults, **theirs}
    pairs = {name: (ours.get(name, _MISSING), theirs.get(name, _MISSING)) for name in {**ours, **theirs}}
    found = {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name != "render_mode"}
    limits = (evaluated.step_limit, recorded.step_limit)
    if None not in limits and limits[0] != limits[1]:
        found[_STEP_LIMIT] = limits
    if evaluated.wrappers != recorded.wrappers:
        found[_WRAPPERS] = (_listed(evaluated.wrappers), _listed(recorded.wrappers))
    if evaluated.env_id != recorded.env_id:
        found["environment"] = (evaluated.env_id, recorded.env_id)
    return {name: _told(name, *values) for name, values in found.items()}


def check_agreement(data: EpisodeData, env: EnvSpec, wanted_by: str, *, is_published: bool = False) -> None:
    """Compares what was recorded with the environment that policies will be evaluated in.

    Key order, step limit, arguments (a maze's map is one), wrappers and bounds of the spaces that differ are
    told in one line. Where episodes were seeded, the environment is reset with those seeds and must start as
    they do; a different start is only told where other arguments or another version explain it, or where
    ``is_published``: a task's own data. ``wanted_by`` is who evaluates, as "task hopper". Raises InputError:
    another start, or a recorded wrapper whose state nobody has.
    """
    recorded = _recorded(data)
    with contextlib.closing(environment.make_bare(env)) as bare:
        keys, spec = tuple(environment.space_keys(bare.observation_space)), bare.spec
    if env.obs_keys and keys != env.obs_keys and (keys or not data.resets):
        logger.warning(
            "%s: observations are joined as in the data, %s; %s has %s",
            data.source, ", ".join(env.obs_keys), env.env_id, ", ".join(keys) or "no keys to compare them by",
        )  # fmt: skip
    differ: dict[str, str] = {}
    if recorded is not None and spec is not None:
        differ = differences(made_by(dataclasses.asdict(spec)), recorded)
    explains = set(differ) - {_STEP_LIMIT, _WRAPPERS}
    with contextlib.closing(environment.make_env(env)) as made:
        differ |= _bounds(data, made)
        other_start, other_step = _first_step(data, made)
    if other_start and not (explains or is_published):
        raise InputError(
            f"{data.source}: {other_start}; the data or the environment were changed since, and {wanted_by} "
            "would be evaluated on other observations than it learns from; give --task=<name> of one that "
            "observes what the data hold"
        )
    told = [*differ.values(), *filter(None, (other_start, other_step))]
    if told:
        logger.warning("%s: %s is not evaluated as recorded: %s", data.source, wanted_by, "; ".join(told))


def _recorded(data: EpisodeData) -> Made | None:
    """How the recorded environment was made; None where the data do not say."""
    metadata = data.metadata
    if metadata.get("env_spec") is not None:
        spec = read_spec(metadata["env_spec"], data.source)
        require_no_state(spec, data.source)
        return made_by(spec)
    if not metadata.get("env_id") or metadata.get("env_kwargs", {}) is None:
        return None
    kwargs = {k: v for k, v in metadata.get("env_kwargs", {}).items() if k != "disable_env_checker"}
    return Made(metadata["env_id"], kwargs.pop(_STEP_LIMIT, None), _plain(kwargs), ())


def _bounds(data: EpisodeData, env: gymnasium.Env) -> dict[str, str]:
    """The first entry of each space that is bounded otherwise than in the data's."""
    found = {}
    if data.obs_space is None:
        return found
    spaces = {
        "obs": (data.obs_space, env.observation_space), "action": (data.action_space, env.action_space)
    }  # fmt: skip
    for name, (bounds, space) in spaces.items():
        assert isinstance(space, gymnasium.spaces.Box)
        if bounds is None or any(bound.shape != space.shape for bound in bounds):
            continue
        theirs, ours = np.array(bounds, float), np.array([space.low, space.high], float)
        other = (np.isfinite(theirs) & ~np.isclose(theirs, ours, _CLOSE, _CLOSE)).any(axis=0)
        if other.any():
            i = int(np.argmax(other))
            texts = (f"[{low:g}, {high:g}]" for low, high in (ours[:, i], theirs[:, i]))
            found[name] = "{}[{}] in {} (recorded: {})".format(name, i, *texts)
    return found


def _first_step(data: EpisodeData, env: gymnasium.Env) -> tuple[str, str]:
    """How an environment begins otherwise than the seeded episodes: at the start, and in the first step.

    "" where it doesn't, and where that cannot be known. It is enough that one of the recorded seeds leads to
    the start of one of the episodes: a simulation may depend on those before, and data may be a selection.
    """
    rows = data.episode_ends - data.episode_lengths + 1
    starts, other = data.obs[rows], ""
    for reset in data.resets:
        try:
            obs, again = (_reset(env, reset) for _ in range(2))
        except Exception as error:  # of somebody's environment
            what = one_line(error)
            logger.warning("%s: episode %d cannot be begun again (%s)", data.source, reset.episode, what)
            return "", ""
        if not _is_close(obs, again).all():
            logger.warning("%s: its environment starts elsewhere each time with one seed", data.source)
            return "", ""
        own = min(reset.episode, len(starts) - 1)
        same = np.all(_is_close(obs, starts), axis=-1)
        if same.any():
            return "", _other_step(data, env, int(rows[own if same[own] else np.argmax(same)]))
        wrong = ~_is_close(obs, starts[own])
        i = int(np.argmax(wrong))
        other = other or (
            f"episode {reset.episode}, recorded with seed {reset.seed}, starts at obs[{i}] "
            f"{starts[own, i]:g}, and at {obs[i]:g} in the environment reset with it ({wrong.sum()} of "
            f"{obs.size} entries differ)"
        )
    return other, ""


def _reset(env: gymnasium.Env, reset: Reset) -> np.ndarray:
    """First observation [D] of the environment begun as an episode was."""
    options = None if reset.options is None else dict(reset.options)
    return env.reset(seed=reset.seed, options=options)[0].astype(np.float32)


def _other_step(data: EpisodeData, env: gymnasium.Env, row: int) -> str:
    """How a step from a recorded state differs from the recorded transition; "" where it doesn't."""
    obs, reward, *_ = env.step(data.action[row])
    if not _is_close(np.float32(reward), data.reward[row]):
        return f"a first step's reward {float(reward):g} (recorded: {data.reward[row]:g})"
    wrong = ~_is_close(obs.astype(np.float32), data.next_obs[row])
    i = int(np.argmax(wrong))
    return f"after a step obs[{i}] {obs[i]:g} (recorded: {data.next_obs[row, i]:g})" if wrong.any() else ""


def _is_close(a: Any, b: Any) -> np.ndarray:
    return np.isclose(a, b, _CLOSE, _CLOSE)


def _defaults(env_id: str) -> dict[str, Any]:
    """An environment's arguments where none are given: the registered ones, then its maker's."""
    spec = gymnasium.registry.get(env_id)
    if spec is None:
        return {}
    try:
        maker = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        parameters = inspect.signature(maker).parameters.values() if maker else ()
    except (AttributeError, ImportError, TypeError, ValueError):
        parameters = ()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    return _plain({**given, **spec.kwargs})


def _plain(values: Any) -> Any:
    """Values as JSON gives them back, so that a list and a tuple or array are the same."""
    text = json.dumps(
        values, skipkeys=True, default=lambda x: x.tolist() if hasattr(x, "tolist") else repr(x)
    )
    return json.loads(text)


def _name(maker: Any) -> str:
    """``module:Class`` as ``Class``."""
    return str(maker).rpartition(":")[2]


def _listed(wrappers: Iterable[tuple[str, Any]]) -> str:
    """Wrappers as they are made, the innermost first."""
    arguments = [
        (_name(maker), [f"{k}={v}"[:_LONGEST] for k, v in (kwargs or {}).items()])
        for maker, kwargs in wrappers
    ]
    return ", ".join(f"{name}({', '.join(given)})" for name, given in arguments) or "none"


def _told(name: str, ours: Any, theirs: Any) -> str:
    """A difference in words; by its name alone where values are long, as a maze's map is."""
    texts = [value if isinstance(value, str) else json.dumps(value) for value in (ours, theirs)]
    if name == _WRAPPERS:
        return f"{name} {texts[0]} (recorded: {texts[1]})"
    return name if max(map(len, texts)) > _LONGEST else f"{name} {texts[0]} (recorded: {texts[1]})"
