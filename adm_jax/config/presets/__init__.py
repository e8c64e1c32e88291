"""What is published for the built-in tasks: task -> family of algorithms -> (settings, source).

The settings themselves are data: ``offline`` (ADMPO-OFF, MOPO), ``full_horizon`` (ADM2PO) and ``online``
(ADMPO-ON, MBPO, SAC).
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from adm_jax.config.presets import full_horizon, offline, online
from adm_jax.config.presets.full_horizon import adm2po
from adm_jax.config.presets.offline import admpo, mopo
from adm_jax.config.presets.preset import Family, OfflineFamily, Preset, Presets
from adm_jax.config.references import import_named
from adm_jax.types import InputError

DERIVED_TASK = "auto"  # the name of a task that is made from the dataset and has no published settings
_CODE = "the authors' code (HxLyn3/ADMPO, 2025-02-13)"
_PAPER = "arXiv 2405.17031, Tables 3 and 5, Eq. 4"
_CODE_OR_PAPER = f"{_CODE}; with preset=paper where they differ {_PAPER}"

# family -> what all its tasks share, below their own settings, and how that is called
_SHARED: dict[str, tuple[Mapping[str, Any], str]] = {
    "mopo": (offline.MOPO_COMMON, "what MOPO's tasks share"),
    "adm2po": ({**full_horizon.COMMON, **full_horizon.default()}, "full-horizon defaults"),
    "admpo_on": (online.COMMON["admpo_on"], "what admpo has for all"),
    "mbpo": (online.COMMON["mbpo"], "what mbpo has for all"),
    "sac": (online.COMMON["sac"], "what sac has for all"),
}


def _published() -> Iterator[tuple[str, dict[str, Preset]]]:
    """Every built-in task with its presets, but ADM2PO's."""
    for env in ("hopper", "walker2d", "halfcheetah"):  # with data nobody has published settings for
        source = f"the published settings of {env}-medium"
        row = offline.D4RL[f"{env}-medium"]
        yield env, {"admpo_off": Preset(admpo(row), source), "mopo": mopo(env), **online.ONLINE[env]}
    for name, row in offline.D4RL.items():
        paper = {**offline.PAPER_COMMON, **offline.PAPER.get(name, {})}
        yield name, {**_admpo(row, paper), "mopo": mopo(name)}
    source = f"quick preset: {offline.STEADY_SOURCE}, with fewer, shorter epochs"
    quick = Preset(offline.QUICK, source, complete=True)
    yield "hopper-builtin", {"admpo_off": quick, "mopo": quick}
    for name, row in offline.NEORL.items():
        # NeoRL's medium is not D4RL's, but MOPO has settings for no other data of this environment
        medium = f"{name.partition('-')[0]}-medium"
        found = mopo(medium)
        likewise = found._replace(source=f"{found.source} for {medium}; none is published for NeoRL")
        yield f"neorl-{name}", {**_admpo(row, offline.PAPER_COMMON), "mopo": likewise}
    source = f"max_backtrack and model_hidden_dim of ADMPO-ON ({_PAPER.split(',')[0]}, Table 4, and its code)"
    for env in ("ant", "humanoid"):
        truncated = Preset(offline.TRUNCATED_SETTINGS, source)
        yield env, {"admpo_off": truncated, "mopo": mopo(env), **online.ONLINE[env]}
    yield "inverted_pendulum", {"mopo": mopo("inverted_pendulum"), **online.ONLINE["inverted_pendulum"]}
    for env, rows, without in (
        ("pen", offline.PEN_DATA, ""),
        ("antmaze", offline.ANTMAZE_DATA, ", without its reward shift and q_clip"),
    ):
        for data, row in rows.items():
            yield f"{env}-{data}", {"admpo_off": Preset(admpo(row), _CODE + without), "mopo": mopo(env)}


def _admpo(row: Any, paper: Mapping[str, Any]) -> dict[str, Preset]:
    return {"admpo_off": Preset(admpo(row), _CODE_OR_PAPER), "admpo_paper": Preset(paper, _CODE_OR_PAPER)}


BUILTIN: Mapping[str, Presets] = {name: {**own, "adm2po": adm2po(name)} for name, own in _published()}
_BY_TASK: dict[str, Presets] = dict(BUILTIN)  # and those of registered tasks


def put(task: str, presets: Presets) -> None:
    """Makes the presets of a task known by its name."""
    _BY_TASK[task] = presets


def named(reference: str, known: Mapping[str, Any]) -> Any:
    """What is known of a task, or of ``module:task``: a module that registers it is imported first.

    Raises InputError: there is none; the message lists the known names and says how to register one.
    """
    own = import_named(reference, "task")
    if own == DERIVED_TASK:
        raise InputError(
            f"task: {own} is made from a dataset, which offline, adm2po, ope and compounding-error take; "
            "here a task has a name, or module:task of a module that calls adm_jax.tasks.register_task"
        )
    if own not in known:
        meant = re.sub(r"-v\d+$", "", own.lower())  # of an environment's id, or with D4RL's version behind
        close = difflib.get_close_matches(meant, known, n=1, cutoff=0.8)
        guess = f" (did you mean {close[0]}?)" if close else ""
        if not close and re.search(r"-v\d+$", own):
            guess = (
                " (the id of an environment or a dataset is no task; --task=auto --dataset=<id> learns from "
                "a dataset, and evaluates in its environment)"
            )
        raise InputError(
            f"task: {own!r} is unknown{guess}; one of {', '.join(known)}; or register one of your own with "
            "adm_jax.tasks.register_task in a module, and name it module:task"
        )
    return known[own]


def presets_of(task: str) -> Presets:
    """The presets of a built-in or registered task, by the name that ``--task`` takes; see ``named``."""
    return named(task, _BY_TASK)


def settings_of(task: str, presets: Presets, family: Family, preset: str = "code") -> dict[str, Any]:
    """The flat settings of a task's preset, above what the family's tasks share.

    ``preset`` is ``code``; ``paper``: what ADMPO's paper states, and its code where the paper is silent; or
    ``steady``, the library's own: offline one setting for all tasks, online what critics and updates take,
    above the task's. The task's name is for messages. Raises InputError: there is no preset of that name.
    """
    if preset == "steady" and family in online.STEADY:
        return {**settings_of(task, presets, family), **online.STEADY[family]}
    if preset == "steady" or (preset == "code" and _is_unpublished(presets, family)):
        return {**offline.STEADY, **(full_horizon.EPISODES if family == "adm2po" else {})}
    own = presets.get(family, Preset())
    shared, _ = _SHARED.get(family, ({}, ""))
    settings = {**({} if own.complete else shared), **own.settings}
    if preset == "code":
        return settings
    if family != "admpo_off":
        raise InputError(f"preset: {preset!r} exists for ADMPO alone; {family} has code and steady")
    if preset != "paper":
        raise InputError(f"preset: {preset!r} is unknown; one of code, paper, steady")
    paper = presets.get("admpo_paper", Preset()).settings
    if not paper:
        raise InputError(f"preset: the paper states no settings for task {task}; give preset=code")
    return {**settings, **paper}


def _is_unpublished(presets: Presets, family: Family) -> bool:
    """Whether nothing is published of a task for a family offline: it has the library's own settings."""
    return family in get_args(OfflineFamily) and family not in presets


def source_of(task: str, presets: Presets, family: Family) -> str:
    """Where a task's settings for a family come from, in words; also where it has none of its own."""
    if _is_unpublished(presets, family):
        return f"no settings are published for this data: {offline.STEADY_SOURCE}"
    own = presets.get(family, Preset())
    if own.source:
        return own.source
    if own.settings:
        return f"task {task}, which does not say where they come from"
    return f"{_SHARED[family][1]}; task {task} has no settings of its own for it"
