"""A run's config.json: read, checked and written here alone; and what a run may go on under.

It is sealed (adm_jax.runs.seals), and names the seals of those it took the place of: checkpoints keep the one
of their time. ``resumes`` tells of every resume what the beginning tells of itself, ``extensions`` of those
that made the run longer.
"""

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from adm_jax import files
from adm_jax.config.references import named_in
from adm_jax.runs.seals import SEAL, is_sealed, sealed
from adm_jax.runs.surroundings import OF_STRETCH, describe_surroundings, differences, whereabouts
from adm_jax.types import InputError

logger = logging.getLogger(__name__)

NAME = "config.json"
EXTENSIONS = "extensions"
_EARLIER, _RESUMES = "earlier_seals", "resumes"
_ANYWAY = "--resume_anyway, or adm_jax.resume(folder, anyway=True),"


def read(path: Path, required: Collection[str] = (), *, read_only: bool = False) -> dict[str, Any]:
    """The content of the config.json in a run's folder; ``required`` is that of ``require``.

    Raises InputError: there is none, it lacks something, or it is not what was written. One without a seal,
    as of an earlier version, can only be read.
    """
    try:
        config = json.loads((path / NAME).read_text())
    except OSError as error:
        raise InputError(f"{path} holds no run: {NAME}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} holds no run: {NAME} is damaged") from error
    require(path, config, required)
    if SEAL not in config:
        found = f"{path / NAME} has no seal: an earlier version wrote it, or it is damaged"
        if not read_only:
            raise InputError(f"{found}; the run cannot be continued")
        logger.warning(found)
    elif not is_sealed(config):
        raise InputError(f"{path / NAME} is not what was written, but edited or damaged; restore it")
    return config


def write(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the config.json of a run's folder, sealed, in place of one that is there; returns it."""
    content = files.plain_json({name: config[name] for name in config if name not in (SEAL, _EARLIER)})
    if (path / NAME).exists():
        before = read(path)
        if content == {name: before[name] for name in before if name not in (SEAL, _EARLIER)}:
            return before
        content[_EARLIER] = seals_of(before)
    return files.write_json(path / NAME, sealed(content))


def seals_of(config: Mapping[str, Any]) -> list[str | None]:
    """Its own seal, and those that it had earlier."""
    return [*config.get(_EARLIER, ()), config.get(SEAL)]


def stretches(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the run was computed by from its beginning, and from each resume on."""
    names = (*OF_STRETCH, "changed")
    return [{name: each[name] for name in names if name in each} for each in _conditions(config)]


def with_resume(
    path: Path, config: Mapping[str, Any], record: Mapping[str, Any], anyway: bool
) -> dict[str, Any]:
    """The config.json of a run that goes on now; ``record`` is what else decides about its numbers.

    Raises InputError, unless ``anyway``: something of it is not what it was.
    """
    now = files.plain_json({**describe_surroundings(), **record})
    changed = differences(_conditions(config)[-1], now)
    if changed and not anyway:
        listed = "; ".join(f"{name} was {before}, is {after}" for name, (before, after) in changed.items())
        raise InputError(f"{path}: would go on under other conditions: {listed}; {_ANYWAY} does that")
    resumes = [*config.get(_RESUMES, []), {**now, "changed": changed}]
    return {**config, _RESUMES: resumes}


def with_extension(config: Mapping[str, Any], entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The config.json of a run whose length, the setting of that name, is another now; see extension."""
    settings = {**config["config"], name: entry[name]}
    return {**config, "config": settings, EXTENSIONS: [*config.get(EXTENSIONS, []), entry]}


def require_own(path: Path, config: Mapping[str, Any], anyway: bool) -> None:
    """Refuses to import modules on the word of a run that came from elsewhere.

    Raises InputError, unless ``anyway``: the run names some, and no user of this name has begun or resumed it
    on a host of this name.
    """
    named = named_in({**config["config"], "env_id": config.get("env_id")})
    here = whereabouts().items()
    if anyway or not named or any(here <= each.items() for each in _conditions(config)):
        return
    raise InputError(
        f"{path}: was begun by {config.get('user')} on {config.get('host')}, and names modules to import "
        f"({', '.join(f'{name}={text}' for name, text in named.items())}); {_ANYWAY} imports them"
    )


def _conditions(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [config, *config.get(_RESUMES, [])]


def require(path: Path, config: Any, names: Collection[str]) -> None:
    """Raises InputError if a config.json, or the flat configuration in it, lacks a name.

    A leaf that it lacks would silently take its default.
    """
    lacking = _lacking(config, names)
    if lacking:
        version = ""
        if all(name.startswith("config.") for name in lacking):
            version = "; it was begun by another version, whose runs this one cannot continue"
        raise InputError(f"{path} holds no run: {NAME} lacks {', '.join(lacking)}{version}")


def _lacking(config: Any, required: Collection[str]) -> list[str]:
    """What a config.json does not hold, by name."""
    if not isinstance(config, dict):
        return ["algorithm", "task", "members", "config"]
    lacking = [name for name in ("algorithm", "task") if not isinstance(config.get(name), str)]
    members = config.get("members")
    if not isinstance(members, list) or not all(map(_is_member, members)):
        lacking.append("members")
    flat = config.get("config")
    if not isinstance(flat, dict):
        return [*lacking, "config"]
    return lacking + sorted(f"config.{name}" for name in required if name not in flat)


def _is_member(values: Any) -> bool:
    """Whether a value is what Member.to_dict gives."""
    if not isinstance(values, dict) or not isinstance(values.get("seed"), int):
        return False
    return all(isinstance(value, int | float) for value in values.values())
