"""Damage to the files of a run's folder, and what a resume makes of it before anything is computed."""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adm_jax.config import offline_from_flat, stored_settings
from adm_jax.runs.folder import RunFolder
from adm_jax.types import InputError

FILES = ("config.json", "metrics.jsonl", "eval.jsonl", "result.json", "checkpoint")
LAST_EPOCH = 4  # of tests.tiny's settings
Damage = Callable[[bytes, np.random.Generator], bytes | None]  # None: the file is gone


def _flip_bit(content: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(content)))
    return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]


def _flip_digit(content: bytes, rng: np.random.Generator) -> bytes:
    """Another digit where one is; a bit where there is none."""
    places = [at for at, byte in enumerate(content) if chr(byte).isdecimal()]
    if not places:
        return _flip_bit(content, rng)
    at = places[int(rng.integers(len(places)))]
    other = (content[at] - ord("0") + 1 + int(rng.integers(9))) % 10 + ord("0")
    return content[:at] + bytes([other]) + content[at + 1 :]


def _truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content)))]


def _lose_line(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[int(rng.integers(len(lines)))]
    return b"".join(lines)


def _double_line(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True)
    at = int(rng.integers(len(lines)))
    return b"".join([*lines[: at + 1], *lines[at:]])


DAMAGES: dict[str, tuple[float, Damage]] = {  # how often, and how
    "flipped digit": (0.35, _flip_digit),
    "flipped bit": (0.3, _flip_bit),
    "truncated": (0.15, _truncate),
    "lost line": (0.1, _lose_line),
    "doubled line": (0.05, _double_line),
    "emptied": (0.025, lambda content, rng: b""),
    "removed": (0.025, lambda content, rng: None),
}


def damage(content: bytes, rng: np.random.Generator) -> tuple[str, bytes | None]:
    """What is done to a file's content, drawn by its share, and what is left; it differs from ``content``."""
    kinds, shares = list(DAMAGES), [share for share, _ in DAMAGES.values()]
    while True:
        kind = kinds[int(rng.choice(len(kinds), p=shares))]
        left = DAMAGES[kind][1](content, rng) if content else None
        if left != content:
            return kind, left


def standing(path: Path) -> dict[str, Any]:
    """What a resume would go on from, by the calls that it makes first. Raises InputError: it would not."""
    folder = RunFolder.open(path, ["dynamics"])
    config = folder.config["config"]
    folder.require(stored_settings(offline_from_flat({"dynamics": config["dynamics"]})))
    found = folder.standing(LAST_EPOCH)
    marks = found.result["files"] if found.result else found.saved.extra["files"] if found.saved else {}
    names = ("metrics.jsonl", "eval.jsonl")
    kept = {name: (path / name).read_bytes()[: marks[name]["length"]] for name in names if name in marks}
    return {"config": folder.config, "saved": found.saved, "result": found.result, **kept}


def failure(error: Exception) -> str:
    """``refused`` in one line, or what must not happen, which is counted."""
    if not isinstance(error, InputError):
        return f"traceback: {type(error).__name__}: {error}"
    return "refused" if "\n" not in str(error) else f"not one line: {error}"


def outcome(path: Path, sound: dict[str, Any]) -> str:
    """``refused`` in one line; ``harmless``; ``silent``; or what is computed again.

    That is everything behind an ``earlier checkpoint``, which is printed, or the ``result`` alone.
    """
    try:
        found = standing(path)
    except Exception as error:
        return failure(error)
    if found == sound:
        return "harmless"
    beginning = all(sound[name].startswith(found.get(name, b"")) for name in ("metrics.jsonl", "eval.jsonl"))
    if not beginning or found["config"] != sound["config"] or found["saved"] is None or found["result"]:
        return "silent"
    if found["saved"] == sound["saved"]:
        return "result"
    return "earlier checkpoint" if found["saved"][:2] < sound["saved"][:2] else "silent"


def try_out(path: Path, file: str, number: int, seed: int) -> collections.Counter[tuple[str, str]]:
    """Damages a file of a folder, or one of its checkpoints', so many times; counts (damage, outcome)."""
    rng, sound = np.random.default_rng(seed), standing(path)
    targets = [path / file]
    if file == "checkpoint":
        targets = [target for target in sorted((path / "checkpoints").rglob("*")) if target.is_file()]
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for _ in range(number):
        target = targets[int(rng.integers(len(targets)))]
        content = target.read_bytes()
        kind, damaged = damage(content, rng)
        if damaged is None:
            target.unlink()
        else:
            target.write_bytes(damaged)
        counts[kind, outcome(path, sound)] += 1
        target.write_bytes(content)
    assert standing(path) == sound
    return counts
