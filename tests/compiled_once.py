"""A run's programs are compiled once for all the runs of a file that would compile the same.

What is the same is seen in the program itself: its functions, whatever they have closed over, the settings it
is given, and the shapes of its arguments.
"""

import copy
import dataclasses
import types
from collections import OrderedDict
from functools import partial
from typing import Any

import jax
import numpy as np

from adm_jax.config.run import RunConfig
from adm_jax.population import compiling
from adm_jax.population.compiling import MemberProgram, Program

_MOST = 60  # programs that are kept: each takes hundreds of memory maps
# Settings of a whole run: no program may depend on them, or it raises TypeError where it is compiled.
_OF_THE_RUN = (
    *("workdir", "seeds", "num_epochs", "num_steps", "eval_every", "eval_episodes"),
    *("checkpoint_every", "checkpoint_share"),
)

plain_compile = MemberProgram.compile
_kept: OrderedDict[Any, Program] = OrderedDict()


def forget() -> None:
    """Lets go of all programs."""
    _kept.clear()


def compile_once(program: MemberProgram, *args: Any, mesh: Any = None) -> Program:
    """MemberProgram.compile, where the same was not compiled before."""
    if not isinstance(program.fn, partial):
        return plain_compile(program, *args, mesh=mesh)
    bound = partial(program.fn.func, *map(_without_the_run, program.fn.args), **program.fn.keywords)
    bare = dataclasses.replace(program, fn=bound)
    leaves, structure = jax.tree.flatten(args)
    options = _looked_into(compiling._compiler_options.get(), {})
    compiler = (jax.stages.Lowered.compile, options, jax.config.jax_default_matmul_precision)
    settings = tuple(jax.config.values.items())
    key = (_looked_into(bare, {}), structure, tuple(map(_abstract, leaves)), mesh, compiler, settings)
    if key not in _kept:
        _kept[key] = plain_compile(bare, *args, mesh=mesh)
    _kept.move_to_end(key)
    if len(_kept) > _MOST:
        _kept.popitem(last=False)
    return _kept[key]


class _Unread:
    """Stands for a setting of the run: whoever reads it while a program is traced is found out."""

    def __bool__(self) -> bool:
        raise TypeError("a program depends on a setting in tests/compiled_once.py's _OF_THE_RUN")

    def __eq__(self, other: object) -> bool:
        return bool(self)

    __hash__ = None  # type: ignore[assignment]


class _Same:
    """Equal where it holds the very same object."""

    def __init__(self, value: Any):
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _without_the_run(value: Any) -> Any:
    if not isinstance(value, RunConfig):
        return value
    config = copy.copy(value)
    for name in {*_OF_THE_RUN} & {field.name for field in dataclasses.fields(config)}:
        object.__setattr__(config, name, _Unread())
    return config


def _abstract(leaf: Any) -> Any:
    """What compiling sees of an argument."""
    facts = (leaf.shape, leaf.dtype, getattr(leaf, "weak_type", None), getattr(leaf, "sharding", None))
    return type(leaf), *facts, getattr(leaf, "committed", None)


def _looked_into(value: Any, seen: dict[int, int]) -> Any:
    """Something hashable that is equal for equal values, and for functions that do the same."""
    if id(value) in seen:  # a function may have closed over itself
        return "seen", seen[id(value)]
    if isinstance(value, _Unread):
        return "unread"
    if isinstance(value, types.FunctionType):
        seen = {**seen, id(value): len(seen)}
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        rest = _looked_into((value.__defaults__, value.__kwdefaults__, cells), seen)
        return value.__code__, _Same(value.__globals__), rest
    if isinstance(value, types.MethodType):
        return "method", _looked_into((value.__func__, value.__self__), seen)
    if isinstance(value, partial):
        return "partial", _looked_into((value.func, value.args, value.keywords), seen)
    if isinstance(value, (np.ndarray, jax.Array)):
        return "array", value.shape, str(value.dtype), np.asarray(value).tobytes()
    if isinstance(value, (dict, types.MappingProxyType)):
        return "dict", tuple((_looked_into(k, seen), _looked_into(v, seen)) for k, v in value.items())
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_looked_into(each, seen) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return type(value), _looked_into(tuple(fields), seen)
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return type(value), value
