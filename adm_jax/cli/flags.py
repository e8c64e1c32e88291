"""A command-line flag for every field of a configuration."""

import sys
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from absl import flags

from adm_jax.config import all_leaves
from adm_jax.config.settings import Leaf, Swept, base_type, check_leaf, range_text, replace_flat
from adm_jax.types import InputError

T = TypeVar("T")


def define(
    config_class: type,
    flag_values: flags.FlagValues = flags.FLAGS,
    command: str | None = None,
    only: Callable[[Leaf], bool] = lambda leaf: True,
) -> None:
    """Defines a flag for every leaf field, or ``only`` for some; call it once.

    ``command`` is the script that ``--help`` shows them for; the one that runs when None.
    """
    command = command or sys.argv[0]
    for leaf in filter(only, all_leaves(config_class)):
        flags.DEFINE_flag(_flag(leaf), flag_values, module_name=command)


def define_compilation_cache(flag_values: flags.FlagValues = flags.FLAGS, command: str | None = None) -> None:
    """Defines ``--compilation_cache``: what ``adm_jax.population.compilation_cache.enable`` is given."""
    text = "folder that keeps compiled programs for later runs, or off; the user's cache folder when empty"
    parser, serializer = flags.ArgumentParser(), flags.ArgumentSerializer()
    flag: flags.Flag = flags.Flag(parser, serializer, "compilation_cache", None, text)
    flags.DEFINE_flag(flag, flag_values, module_name=command or sys.argv[0])


def config(config_class: type[T], flag_values: flags.FlagValues = flags.FLAGS) -> T:
    """The configuration that the command line asks for: default < explicit flag.

    Where a task's published settings lie between the two, pass ``explicit`` to
    ``adm_jax.config.config_for_task`` instead. Raises InputError: values contradict each other.
    """
    return replace_flat(config_class(), explicit(config_class, flag_values))


def explicit(config_class: type, flag_values: flags.FlagValues = flags.FLAGS) -> dict[str, Any]:
    """The fields that were given on the command line, in flat form."""
    names = [leaf.name for leaf in all_leaves(config_class) if leaf.name in flag_values]
    return {name: flag_values[name].value for name in names if flag_values[name].present}


def parse_leaf(leaf: Leaf, text: str) -> Any:
    """A field's value from the command line's text, in range.

    Raises InputError: it is not of the field's type, none of its choices or out of its range.
    """
    kind, optional = base_type(leaf.type)
    if leaf.type == Swept and "," in text:
        kind = tuple[float, ...]
    if optional and text == "":
        return None
    value: Any
    try:
        if typing.get_origin(kind) is tuple:
            value = tuple(typing.get_args(kind)[0](item) for item in text.split(","))
        elif kind in (int, float):
            value = kind(text)
        else:
            value = text
    except ValueError as error:
        raise InputError(f"{leaf.name}: {text!r} is not {_kind_text(leaf.type)}") from error
    check_leaf(leaf.name, leaf.type, value, leaf.metadata)
    return value


class _Parser(flags.ArgumentParser):
    """absl's parser of one field."""

    def __init__(self, leaf: Leaf):
        super().__init__()
        self._leaf = leaf

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):  # absl parses defaults too
            return argument
        try:
            return parse_leaf(self._leaf, argument)
        except InputError as error:  # absl puts the flag's name in front
            raise ValueError(str(error).removeprefix(f"{self._leaf.name}: ")) from error

    def flag_type(self) -> str:
        return _kind_text(self._leaf.type)


class _BooleanParser(flags.BooleanParser):
    """absl's, with a message of one line."""

    def parse(self, argument: Any) -> bool:
        try:
            return super().parse(argument)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{argument!r} is not true or false") from error


class _Serializer(flags.ArgumentSerializer):
    def serialize(self, value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _flag(leaf: Leaf) -> flags.Flag:
    bounds = range_text(*(leaf.metadata[name] for name in ("low", "high", "above")))
    text = f"{leaf.help} [{', '.join(filter(None, [_kind_text(leaf.type), bounds]))}]"
    if base_type(leaf.type)[0] is bool:
        flag: flags.Flag = flags.BooleanFlag(leaf.name, leaf.default, text)
        flag.parser = _BooleanParser()
    else:
        flag = flags.Flag(_Parser(leaf), _Serializer(), leaf.name, leaf.default, text)
    flag.group = leaf.group  # pyright: ignore[reportAttributeAccessIssue]  # read by app.help_text
    return flag


def _kind_text(annotation: Any) -> str:
    if annotation == Swept:
        return "a number, or several to be tried side by side"
    kind, _ = base_type(annotation)
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    if typing.get_origin(kind) is tuple:
        if str in typing.get_args(kind):
            return "a comma-separated list of texts"
        return f"a comma-separated list of {'whole ' * (int in typing.get_args(kind))}numbers, as 0,1,2"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]
