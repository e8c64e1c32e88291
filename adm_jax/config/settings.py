"""The machinery under ``adm_jax.config``: fields with bounds, flat form, checks.

A configuration is a frozen dataclass whose fields are leaves (numbers, texts, tuples of numbers) or further
such dataclasses. Leaf names are unique across the nested ones, so it can be written flat.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from adm_jax.types import InputError

T = TypeVar("T")

Swept = float | tuple[float, ...]  # a number, or several, of which each is a setting of its own members

_INT32_MAX = 2**31 - 1  # JAX's integers: counts end here


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A dataclass field with its help text and bounds (``low``/``high`` inclusive, ``above`` exclusive)."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "above": above})


class Leaf(NamedTuple):
    """One leaf field of a configuration."""

    name: str
    type: Any
    default: Any
    help: str
    metadata: Mapping[str, Any]  # low, high, above: bounds or None
    group: str = ""  # the part it belongs to, "" at the top


def leaves(cls: type) -> Iterator[Leaf]:
    """The leaf fields of a configuration class, depth first."""
    hints = typing.get_type_hints(cls)
    template = cls()
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            nested = getattr(template, f.name)  # may be of a class derived from the annotated one
            for leaf in leaves(type(nested)):
                yield leaf._replace(default=getattr(nested, leaf.name), group=f.name)
        else:
            yield Leaf(f.name, hints[f.name], getattr(template, f.name), f.metadata["help"], f.metadata)


def to_flat(config: Any) -> dict[str, Any]:
    """A configuration as ``{leaf name: value}``."""
    flat = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        flat.update(to_flat(value) if dataclasses.is_dataclass(value) else {f.name: value})
    return flat


def replace_flat(config: T, values: Mapping[str, Any]) -> T:
    """``config`` with the named leaves replaced.

    Raises InputError: a name is no field of the configuration, or a value is out of its range.
    """
    unknown = set(values) - set(to_flat(config))
    if unknown:
        raise InputError(f"{sorted(unknown)[0]}: no such field; known: {', '.join(sorted(to_flat(config)))}")
    return _replace(config, values)


def _replace(config: Any, values: Mapping[str, Any]) -> Any:
    changes = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            changes[f.name] = _replace(value, values)
        elif f.name in values:
            new = values[f.name]
            changes[f.name] = tuple(new) if isinstance(new, list) else new
    return dataclasses.replace(config, **changes)


def base_type(annotation: Any) -> tuple[Any, bool]:
    """``(type, optional)`` of a leaf's annotation: ``float | None`` gives ``(float, True)``."""
    if isinstance(annotation, types.UnionType):
        kinds = typing.get_args(annotation)
        return next(kind for kind in kinds if kind is not type(None)), type(None) in kinds
    return annotation, False


def values_of(setting: Swept) -> tuple[float, ...]:
    """All values of a setting that may be swept."""
    return setting if isinstance(setting, tuple) else (setting,)


def only_value(name: str, setting: Swept) -> float:
    """The value of a setting that may be swept elsewhere. Raises InputError: it has several."""
    if isinstance(setting, tuple):
        raise InputError(f"{name}: {','.join(map(str, setting))} are several values; give one")
    return setting


def check(config: Any) -> None:
    """Checks every leaf's type, choices and range; raises InputError naming the field and what is right."""
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            check(value)
        else:
            check_leaf(f.name, hints[f.name], value, f.metadata)


def check_leaf(name: str, annotation: Any, value: Any, metadata: Mapping[str, Any]) -> None:
    """Checks one value's type, choices and range.

    Raises InputError: the message names the field and says what would be right.
    """
    kind, optional = base_type(annotation)
    if value is None and optional:
        return
    if annotation == Swept and isinstance(value, tuple):
        _check_swept(name, value, metadata)
        return
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise InputError(f"{name}: {value!r} is unknown; one of {', '.join(typing.get_args(kind))}")
        return
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            raise InputError(f"{name}: {value!r} is not a tuple; write one value as (x,), two as (x, y)")
        for item in value:
            check_leaf(name, typing.get_args(kind)[0], item, metadata)
        return
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{name}: {value!r} is not of type {kind.__name__}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_range(name, value, metadata)


def _check_swept(name: str, values: tuple[Any, ...], metadata: Mapping[str, Any]) -> None:
    for value in values:
        check_leaf(name, float, value, metadata)
    texts = {f"{value:g}" for value in values}  # what members are named by
    if len(values) < 2 or len(texts) < len(values):
        raise InputError(
            f"{name}: {','.join(map(str, values))} must be one number, or several that differ in six digits"
        )


def _check_range(name: str, value: float, metadata: Mapping[str, Any]) -> None:
    low, high, above = metadata["low"], metadata["high"], metadata["above"]
    if high is None and isinstance(value, int):
        high = _INT32_MAX
    too_low = (low is not None and value < low) or (above is not None and value <= above)
    if too_low or (high is not None and value > high) or not math.isfinite(value):
        wanted = range_text(low, high, above) or "a finite number"
        raise InputError(f"{name}: {value} is out of range; {wanted}")
    # smaller numbers are flushed to zero on the device
    tiny, largest = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    if isinstance(value, float) and value and not tiny <= abs(value) <= largest:
        raise InputError(
            f"{name}: {value} is out of range of float32; 0, or of a size from {tiny:.2g} to {largest:.2g}"
        )


def range_text(low: float | None, high: float | None, above: float | None) -> str:
    """Bounds in words, "" where there are none: ``at least 0 and at most 1``."""
    parts = [f"at least {low}"] * (low is not None) + [f"above {above}"] * (above is not None)
    return " and ".join(parts + [f"at most {high}"] * (high is not None))
