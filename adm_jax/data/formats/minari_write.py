"""Writing a Minari dataset whole or not at all.

Minari's own classes write the files, in a hidden folder among the datasets (Minari's listing skips those);
one rename then makes the dataset appear. Whoever is killed leaves a hidden folder; the next write removes it.
"""

import contextlib
import dataclasses
import errno
import importlib
import importlib.metadata
import io
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adm_jax import __version__, files
from adm_jax.data import validation
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_files, minari_metadata
from adm_jax.types import InputError

logger = logging.getLogger(__name__)

_STAGING_PREFIX, _REPLACED = ".adm_jax-", "replaced"
_MINARI_SCORES = ("ref_min_score", "ref_max_score")  # where minari.get_normalized_score looks for them
_STAGING_MAX_AGE = 86_400.0  # seconds after which a writer of another host is taken for dead
_OF_MAKE = ("max_episode_steps", "disable_env_checker")  # gymnasium.make's own; the rest is the environment's


def save(
    data: EpisodeData,
    dataset_id: str,
    *,
    env_id: str | None,
    action_low: float | np.ndarray = -1.0,
    action_high: float | np.ndarray = 1.0,
    command: str | None = None,
    seed: int | None = None,
    overwrite: bool = False,
    root: Path | None = None,
) -> Path:
    """Writes ``data`` as a Minari HDF5 dataset from which every transition is read back bit for bit.

    The environment's specification (see ``env_spec``), where one is registered, is stored with the arguments
    ``env_kwargs`` of ``data.metadata``; one that the data bring along for the same ``env_id`` is kept. With
    ``env_id`` None the dataset has no environment.
    ``data.metadata`` is kept too, ``env_kwargs`` as ``storable_kwargs`` has them; ``env_id``, the ``command``
    and ``seed`` that made the data, the versions installed now (unless it already names versions: a copy
    keeps its maker's), return statistics and digests are added. Bounds of the actions are numbers or [A].
    ``overwrite`` replaces a dataset of this id (in two renames: for an instant there is neither). Returns the
    dataset's folder. Raises InputError: the id is malformed or taken, the data are invalid, or the folder
    cannot be written.
    """
    minari_files.check_id(dataset_id)
    if not (overwrite and minari_files.exists(dataset_id, root)):
        minari_files.check_free(dataset_id, root)
    validation.validate(data, action_low, action_high)
    given = {"env_id": env_id, "command": command, "seed": seed}
    facts = {
        "versions": installed_versions(),
        **_without_other_environment(data.metadata, env_id),
        **{name: value for name, value in given.items() if value is not None},
        **data.return_statistics(),
        "sha256": data.digests(),
    }
    root = minari_files.datasets_root() if root is None else root
    try:
        staging = make_staging(root)
        try:
            _write(staging / "dataset" / "data", data, dataset_id, facts, (action_low, action_high))
            return publish(staging / "dataset", dataset_id, root, overwrite=overwrite)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise _cannot_write(dataset_id, root, error) from error


def require_writable(dataset_id: str, root: Path | None = None) -> None:
    """Raises InputError, before the data are made, where the store could not take them."""
    root = minari_files.datasets_root() if root is None else root
    try:
        shutil.rmtree(make_staging(root))
    except OSError as error:
        raise _cannot_write(dataset_id, root, error) from error


def is_registered(env_id: str | None) -> bool:
    """Whether Gymnasium knows an environment of that id; Gymnasium-Robotics is imported where need be."""
    from gymnasium import registry

    if not isinstance(env_id, str):
        return False
    if env_id not in registry:
        said = io.StringIO()  # a note on others of its environments
        with contextlib.suppress(Exception), contextlib.redirect_stderr(said):
            importlib.import_module("gymnasium_robotics")
        if env_id in registry:
            sys.stderr.write(said.getvalue())
    return env_id in registry


def env_spec(env_id: str, env_kwargs: Mapping[str, Any] | None, wanted_by: str) -> str | None:
    """A registered environment's specification as JSON, as ``save`` stores it.

    What gymnasium.make takes itself of ``env_kwargs`` (``max_episode_steps``) goes into the specification,
    the rest into the environment's own arguments. It is None, with a warning for ``wanted_by``, where nobody
    has registered the environment or JSON cannot hold it, as when ``env_kwargs`` could not be stored and are
    None.
    """
    from gymnasium import error, spec

    is_registered(env_id)  # imports what would register it
    try:
        registered = spec(env_id)
    except error.Error:
        logger.warning("%s: %s is not registered with Gymnasium; stored without it", wanted_by, env_id)
        return None
    try:
        return _to_json(registered, env_kwargs)
    except (TypeError, ValueError) as problem:
        reason = minari_files.one_line(problem)
        logger.warning("%s: %s cannot be stored (%s); stored without it", wanted_by, env_id, reason)
        return None


def storable_kwargs(env_kwargs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An environment's arguments as JSON gives them back (arrays and tuples as lists); None if it cannot."""
    try:
        return None if env_kwargs is None else _plain(env_kwargs)
    except (TypeError, ValueError):
        return None


def _cannot_write(dataset_id: str, root: Path, error: OSError) -> InputError:
    return InputError(
        f"dataset: {dataset_id} cannot be written to {root} ({minari_files.one_line(error)}); "
        f"set {minari_files.ROOT_VARIABLE} to a folder that can be written"
    )


def publish(staged: Path, dataset_id: str, root: Path, *, overwrite: bool = False) -> Path:
    """Moves a complete dataset's folder to its place by a rename; raises InputError where that is taken."""
    target = root / dataset_id
    files.sync_tree(staged)
    target.parent.mkdir(parents=True, exist_ok=True)
    _mark_namespaces(target, root)
    replaced = staged.parent / _REPLACED / dataset_id
    if overwrite and target.exists():
        replaced.parent.mkdir(parents=True, exist_ok=True)
        target.rename(replaced)
    try:
        staged.rename(target)
    except OSError as error:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise InputError(
            f"dataset: {dataset_id} exists in {target.parent}; someone else just wrote it"
        ) from error
    files.sync(target.parent)
    return target


def make_staging(root: Path) -> Path:
    """A new hidden folder on the datasets' file system, for the caller to remove."""
    root.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(root)
    return Path(tempfile.mkdtemp(prefix=f"{_STAGING_PREFIX}{os.getpid()}-{socket.gethostname()}-", dir=root))


def installed_versions() -> dict[str, str]:
    """Versions of what decides about the data: this package, the simulator, the store."""
    versions = {"adm_jax": __version__}
    for name in ("jax", "numpy", "gymnasium", "mujoco", "minari", "h5py"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _without_other_environment(metadata: Mapping[str, Any], env_id: str | None) -> dict[str, Any]:
    """The metadata less specifications that tell of another environment."""
    same, specs = metadata.get("env_id") == env_id, ("env_spec", "eval_env_spec")
    return {name: value for name, value in metadata.items() if same or name not in specs}


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(f"{_STAGING_PREFIX}*"):
        try:
            abandoned = time.time() - folder.stat().st_mtime > _STAGING_MAX_AGE or _is_of_the_dead(folder)
        except FileNotFoundError:  # its owner has just finished
            continue
        if abandoned:
            for data in [*(folder / _REPLACED).rglob("data")]:  # its owner was killed between two renames
                target = root / data.parent.relative_to(folder / _REPLACED)
                if data.is_dir() and not target.exists():
                    data.parent.rename(target)
            shutil.rmtree(folder, ignore_errors=True)


def _is_of_the_dead(staging: Path) -> bool:
    """Whether the process that made it was one of this host's and is gone."""
    pid, _, rest = staging.name.removeprefix(_STAGING_PREFIX).partition("-")
    if not pid.isdecimal() or rest.rpartition("-")[0] != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's
        return False
    return False


def _mark_namespaces(target: Path, root: Path) -> None:
    """Minari knows a namespace by this file; its own function works in the user's datasets folder only."""
    for parent in target.parents:
        if parent == root:
            return
        marker = parent / "namespace_metadata.json"
        if not marker.exists():
            marker.write_text(json.dumps({}), encoding="utf-8")


def _write(
    folder: Path,
    data: EpisodeData,
    dataset_id: str,
    facts: Mapping[str, Any],
    bounds: tuple[float | np.ndarray, float | np.ndarray],
) -> None:
    """Minari's files, by Minari's own classes; gymnasium comes in because Minari's spaces are Gymnasium's."""
    import minari
    from gymnasium import spaces
    from minari.dataset.minari_storage import MinariStorage

    folder.mkdir(parents=True)
    spec = facts.get("env_spec")
    if not spec and "env_id" in facts:
        spec = env_spec(facts["env_id"], facts.get("env_kwargs", {}), dataset_id)
    if "env_kwargs" in facts:
        facts = {**facts, "env_kwargs": storable_kwargs(facts["env_kwargs"])}
    obs_shape, action_shape = data.obs.shape[1:], data.action.shape[1:]
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), action_shape) for bound in bounds)
    storage = MinariStorage.new(
        folder,
        observation_space=spaces.Box(-np.inf, np.inf, obs_shape, np.float32),
        action_space=spaces.Box(low, high, action_shape, np.float32),
        data_format="hdf5",
    )
    storage.update_metadata(
        {
            **({"env_spec": spec} if spec else {}),
            **({"eval_env_spec": facts["eval_env_spec"]} if "eval_env_spec" in facts else {}),
            "dataset_id": dataset_id,
            "minari_version": minari.__version__,
            **{name: facts[name] for name in _MINARI_SCORES if name in facts},
            minari_metadata.METADATA_KEY: {**facts, minari_metadata.SEALED: True},
        }
    )
    storage.update_episodes(_buffers(data))
    minari_metadata.seal(folder, dataset_id)


def _to_json(registered: Any, env_kwargs: Mapping[str, Any] | None) -> str:
    """A gymnasium EnvSpec with those arguments; raises TypeError or ValueError where JSON cannot hold it."""
    if env_kwargs is None:
        raise ValueError("its arguments are no JSON")
    own = {name: env_kwargs[name] for name in _OF_MAKE if env_kwargs.get(name) is not None}
    if own.get("max_episode_steps") == -1:  # to gymnasium.make it means no limit
        own["max_episode_steps"] = None
    others = {name: value for name, value in env_kwargs.items() if name not in _OF_MAKE}
    changed = dataclasses.replace(
        registered,
        entry_point=_importable(registered.entry_point),
        vector_entry_point=_importable(registered.vector_entry_point),
        kwargs=_plain({**registered.kwargs, **others}),
        **_plain(own),
    )
    return changed.to_json()


def _importable(maker: Any) -> str | None:
    """``module:name`` of what makes an environment; ValueError where no other process finds it so."""
    if maker is None or isinstance(maker, str):
        return maker
    module, name = getattr(maker, "__module__", ""), getattr(maker, "__qualname__", "")
    if module == "__main__" or getattr(sys.modules.get(module), name, None) is not maker:
        raise ValueError(f"its maker {module}:{name or type(maker).__name__} cannot be imported by that name")
    return f"{module}:{name}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON makes of them; raises TypeError or ValueError naming what it cannot hold."""

    def convert(value: Any) -> Any:
        if isinstance(value, (np.ndarray, np.generic)):
            return value.tolist()
        if isinstance(value, Mapping):
            return dict(value)
        return os.fspath(value)

    plain = {}
    for name, value in values.items():
        try:
            plain[name] = json.loads(json.dumps(value, default=convert))
        except (TypeError, ValueError) as error:
            raise TypeError(f"its argument {name}, a {type(value).__name__}, is no JSON") from error
    return plain


def _buffers(data: EpisodeData) -> Iterator[Any]:
    """Minari's episodes: T steps and T + 1 observations each."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    start = 0
    for end in data.episode_ends + 1:
        steps = slice(start, end)
        yield EpisodeBuffer(
            observations=np.concatenate([data.obs[steps], data.next_obs[end - 1 : end]]),  # pyright: ignore[reportArgumentType]
            actions=data.action[steps],  # pyright: ignore[reportArgumentType]
            rewards=data.reward[steps],  # pyright: ignore[reportArgumentType]
            terminations=data.terminated[steps],  # pyright: ignore[reportArgumentType]
            truncations=data.truncated[steps],  # pyright: ignore[reportArgumentType]
        )
        start = int(end)
