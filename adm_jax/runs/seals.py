"""Digests by which it is found out that a file is not what was written.

They guard against storage, slips and hand-made changes, not against forgery: anybody can make a digest anew.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "seal"  # the entry of a JSON object that holds the digest of all others


def digest(value: Any) -> str:
    """SHA-256 of what JSON can hold, whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, as JSON gives them back, with their seal."""
    return {**values, SEAL: digest(_unsealed(values))}


def is_sealed(values: Mapping[str, Any]) -> bool:
    """Whether the values are those that were sealed."""
    return values.get(SEAL) == digest(_unsealed(values))


def mark(path: Path) -> dict[str, Any]:
    """Length in bytes and SHA-256 of a file's whole lines; of no line where there is no file."""
    content = path.read_bytes() if path.exists() else b""
    lines = content[: content.rfind(b"\n") + 1]  # another thread may be writing the last one
    return {"length": len(lines), "sha256": hashlib.sha256(lines).hexdigest()}


def holds(path: Path, marked: Mapping[str, Any], *, whole: bool = False) -> bool:
    """Whether a file still begins with the lines that were marked, or has these and no other."""
    if whole:
        return mark(path) == marked
    content = path.read_bytes()[: marked["length"]] if path.exists() else b""
    return hashlib.sha256(content).hexdigest() == marked["sha256"]


def _unsealed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != SEAL}
