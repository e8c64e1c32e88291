"""Checks that run at every load and import, because no file format in use here makes them.

Every failure is an ``InputError`` of one line: file (or Minari id), episode, field, what is wrong
and what would be right.
"""

import logging
import re
from typing import Any

import numpy as np

from adm_jax.data.episodes import FIELDS, EpisodeData
from adm_jax.types import ActionBounds, InputError

logger = logging.getLogger(__name__)

# Actions squashed in float64 and stored in float32 (or the reverse) end a few units in the last place
# outside the bounds, as -1.0000001; a real mistake (unscaled or unclipped actions) is far larger.
# Such actions are accepted as they are: clipping would break the bit-for-bit round trip.
ACTION_TOLERANCE = 1e-5

# Largest size of a value of an observation or a reward. Beyond it float32 resolves no better than 0.06, and
# what is met there is a marker for a missing value (1e10, 1e30), a diverged simulation or a wrong unit.
LARGEST_VALUE = 1e6

_NUM_SHOWN = 8


def as_float32(values: Any, where: str) -> np.ndarray:
    """``values`` [...] as contiguous float32; raises InputError where they are not real numbers.

    ``where`` is what the message starts with, as "file: episode 3: obs".
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{where} holds {array.dtype} values; must be real numbers")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused as such
        return np.ascontiguousarray(array, dtype=np.float32)


def as_flags(values: Any, where: str) -> np.ndarray:
    """``values`` [N] as booleans; raises InputError where they are neither booleans nor 0 and 1."""
    array = np.asarray(values)
    if array.dtype.kind not in "bfiu":
        raise InputError(f"{where} holds {array.dtype} values; must be true or false")
    if array.dtype.kind != "b":
        bad = np.flatnonzero((array != 0) & (array != 1))
        if bad.size:
            value = array.flat[bad[0]]
            count = ", a flag for each row and no number of steps" if value > 1 and value % 1 == 0 else ""
            raise InputError(f"{where}[{bad[0]}] is {value:g}; must be 0 or 1{count}")
    return np.ascontiguousarray(array, dtype=bool)


def validate(
    data: EpisodeData, action_low: float | np.ndarray = -1.0, action_high: float | np.ndarray = 1.0
) -> None:
    """Checks everything the rest of the library takes for granted about a dataset.

    Dtypes, ranks and equal counts; at least one transition; finite values, observations and rewards no larger
    than ``LARGEST_VALUE``; actions within the bounds (to ``ACTION_TOLERANCE`` times the bound, at least times
    one, at most times twice their distance); a flag at the end of the last episode; ``next_obs[t]`` and
    ``obs[t + 1]`` the same bits inside an episode. One warning names dimensions that never change: they may
    well be meant, as a goal.

    Bounds are numbers or [A]. Raises InputError: one line naming the source, the episode, the field and what
    would be right.
    """
    _check_layout(data)
    for name in ("obs", "action", "reward", "next_obs"):
        _refuse(data, name, ~np.isfinite(getattr(data, name)), "must be finite", count=False)
    size = f"must lie within +-{LARGEST_VALUE:g}: replace markers of missing values, or choose a larger unit"
    for name in ("obs", "reward", "next_obs"):
        _refuse(data, name, np.abs(getattr(data, name)) > LARGEST_VALUE, size)
    _check_bounds(data, action_low, action_high)
    if not (data.terminated[-1] or data.truncated[-1]):
        raise InputError(
            f"{data.source}: episode {len(data.episode_ends)}: terminated and truncated are both false at "
            f"its last transition; one of them must be set where an episode ends"
        )
    _check_continuity(data)
    _warn_of_constants(data)


def check_dims(
    data: EpisodeData, obs_dim: int, action_dim: int, wanted_by: str, *, env_id: str | None = None
) -> None:
    """Checks the dimensions, and the environment's name, against what a task's environment has.

    Data that do not say where they were made pass; another version of the environment is a warning.
    ``wanted_by`` is who needs them, as "task hopper (Hopper-v4)"; without ``env_id`` it is not compared.
    Raises InputError: one line with both pairs of dimensions, or both environments.
    """
    have, made_in = (data.obs.shape[1], data.action.shape[1]), data.metadata.get("env_id")
    if have != (obs_dim, action_dim):
        raise InputError(
            f"{data.source}: obs has {have[0]} and action {have[1]} dimensions"
            f"{f' (made in {made_in})' if made_in else ''}; {wanted_by} needs {obs_dim} and {action_dim}"
        )
    if not made_in or env_id is None or made_in == env_id:
        return
    if _environment_name(str(made_in)) != _environment_name(env_id):
        raise InputError(f"{data.source}: made in {made_in}; {wanted_by} needs data of {env_id}")
    logger.warning("%s: made in %s; %s runs in %s, another version", data.source, made_in, wanted_by, env_id)


def check_actions(data: EpisodeData, bounds: ActionBounds, wanted_by: str) -> None:
    """Checks that a policy bounded as the environment's actions are could have taken the data's.

    ``wanted_by`` is whose environment has these bounds, as "task hopper". Raises InputError: one line naming
    the first action outside.
    """
    others = "data of another environment, or actions in another unit"
    wanted = f"actions of {wanted_by} lie within {bounds}: {others}"
    _refuse(data, "action", _outside(data.action, *bounds), wanted)


def check_digests(data: EpisodeData, expected: Any) -> None:
    """Compares every field's SHA-256 with the one stored when the data was written.

    Raises InputError: one line naming the fields that differ from ``expected``, ``{field: hex digest}``.
    """
    if not isinstance(expected, dict):
        raise InputError(f"{data.source}: metadata: sha256 is {expected!r}; must be a digest for each field")
    differ = [name for name, digest in data.digests().items() if expected.get(name) != digest]
    if differ:
        raise InputError(
            f"{data.source}: {', '.join(differ)}: not the values that were written (SHA-256 differs): the "
            f"file was damaged or changed since; make or import the dataset again"
        )


def _environment_name(env_id: str) -> str:
    """``Hopper-v4`` as ``hopper``."""
    return re.sub(r"-v\d+$", "", env_id).lower()


def _check_layout(data: EpisodeData) -> None:
    if data.obs.ndim == 2 and len(data.obs) == 0:
        raise InputError(f"{data.source}: empty, obs holds no transition; at least one is needed")
    ranks = {"obs": 2, "action": 2, "next_obs": 2}
    for name in FIELDS:
        array, rank = getattr(data, name), ranks.get(name, 1)
        dtype = np.dtype(bool if name in ("terminated", "truncated") else np.float32)
        if array.dtype != dtype:
            raise InputError(f"{data.source}: {name} is {array.dtype}; must be {dtype}")
        if array.ndim != rank or 0 in array.shape[1:]:
            raise InputError(
                f"{data.source}: {name} has shape {array.shape}; "
                f"must be {'[N, dimension]' if rank == 2 else '[N]'}"
            )
        if len(array) != len(data.obs):
            raise InputError(
                f"{data.source}: {name} has {len(array)} rows; must have as many as obs, {len(data.obs)}"
            )
    if data.next_obs.shape != data.obs.shape:
        raise InputError(
            f"{data.source}: next_obs has {data.next_obs.shape[1]} dimensions; must have as many as obs, "
            f"{data.obs.shape[1]}"
        )


def _refuse(data: EpisodeData, name: str, wrong: np.ndarray, wanted: str, *, count: bool = True) -> None:
    """Raises InputError naming the first element of a field that is ``wrong``, if any is."""
    if wrong.any():
        place = _place(data, name, tuple(np.argwhere(wrong)[0]))
        raise InputError(f"{place}{f' ({wrong.sum()} such in all)' * count}; {wanted}")


def _warn_of_constants(data: EpisodeData) -> None:
    """Warns of dimensions of zero variance: nothing can be learned from them, and nothing scales them."""
    if len(data.obs) < 2:
        return
    constant = [
        f"{name}[{i}]"
        for name in ("obs", "action")
        for i in np.flatnonzero((getattr(data, name) == getattr(data, name)[0]).all(axis=0))
    ]
    if constant:
        more = f" and {len(constant) - _NUM_SHOWN} more" if len(constant) > _NUM_SHOWN else ""
        logger.warning("%s: never changes: %s%s", data.source, ", ".join(constant[:_NUM_SHOWN]), more)


def _check_bounds(data: EpisodeData, low: float | np.ndarray, high: float | np.ndarray) -> None:
    shape = data.action.shape[1:]
    try:
        low, high = (np.broadcast_to(np.asarray(bound, np.float64), shape) for bound in (low, high))
    except ValueError:
        raise InputError(
            f"{data.source}: action has {shape[0]} dimensions, its bounds shape {np.shape(low)}; must agree"
        ) from None
    unordered = np.flatnonzero(~(low < high))  # NaN too
    if unordered.size:
        i = int(unordered[0])
        raise InputError(
            f"{data.source}: bounds of action[{i}] are [{low[i]:g}, {high[i]:g}]; "
            f"action_low must be a number below action_high"
        )
    outside = _outside(data.action, low, high)
    if outside.any():
        i = np.argwhere(outside)[0, 1]
        wanted = f"must lie in the action bounds [{low[i]:g}, {high[i]:g}]"
        _refuse(data, "action", outside, wanted, count=False)


def _outside(action: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """Which of the actions [N, A] lie outside the bounds [A], by more than their rounding."""
    at_most = 2.0 * np.subtract(high, low)

    def slack(bound: Any) -> np.ndarray:
        size = np.abs(np.where(np.isfinite(bound), bound, 0.0))
        allowed = ACTION_TOLERANCE * np.minimum(np.maximum(1.0, size), at_most)
        return np.maximum(allowed, np.spacing(size.astype(np.float32)))

    return (action < low - slack(low)) | (action > high + slack(high))


def _check_continuity(data: EpisodeData) -> None:
    broken = np.flatnonzero(~follows(data.obs, data.next_obs) & ~(data.terminated | data.truncated)[:-1])
    if broken.size:
        t = int(broken[0])
        place = _place(data, "next_obs", (t,)).rpartition(" is ")[0]
        raise InputError(
            f"{place} is not the next row's obs ({broken.size} such in all); "
            f"inside an episode they must be equal, and an episode must end where they are not"
        )


def follows(obs: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
    """Whether row t + 1 starts, bit for bit, where row t led: [N - 1] bool.

    Both [N, D] float32. Bits, not values: a store that keeps one of 0.0 and -0.0 would lose the other.
    """
    return (next_obs[:-1].view(np.uint32) == obs[1:].view(np.uint32)).all(axis=1)


def _place(data: EpisodeData, name: str, index: tuple[Any, ...]) -> str:
    """Where an element of a field lies, and its value, as ``file: episode 3, step 17: obs[2] is nan``."""
    t = int(index[0])
    ends = data.episode_ends
    episode = int(np.searchsorted(ends, t))
    start = int(ends[episode - 1]) + 1 if episode else 0
    element = "".join(f"[{i}]" for i in index[1:])
    value = getattr(data, name)[index]
    shown = f"{value:.8g}" if np.ndim(value) == 0 else str(value)
    return f"{data.source}: episode {episode}, step {t - start}: {name}{element} is {shown}"
