"""``module:name`` references to a user's own functions and tasks."""

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from adm_jax.types import InputError

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(text: str) -> bool:
    """Whether a text means something of a module, and not a name that is known here."""
    return ":" in text


def named_in(flat: Mapping[str, Any]) -> dict[str, str]:
    """The references among the settings of a flat configuration, by the setting's name."""
    texts = {name: value for name, value in flat.items() if isinstance(value, str) and name != "workdir"}
    return {name: text for name, text in texts.items() if is_reference(text)}


def import_module(name: str, field: str) -> ModuleType:
    """The module of that dotted name, as ``my_robot.tasks``, installed or in the current folder.

    Raises InputError: there is no such module, or importing it fails; ``field`` is what named it.
    """
    try:
        with _current_folder_importable():
            return importlib.import_module(name)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        where = "" if error.name and name.split(".")[0] == error.name.split(".")[0] else f": {error}"
        raise InputError(
            f"{field}: module {name!r} cannot be imported{where}; it must lie in the current folder or be "
            "installed"
        ) from error
    except Exception as error:  # whatever a user's module does while it is imported
        raise InputError(f"{field}: importing {name!r} fails: {_one_line(error)}") from error


def import_named(reference: str, field: str) -> str:
    """The name in ``module:name``, once the module that makes it known is imported; a name alone is itself.

    Raises InputError: see ``import_module``.
    """
    module, _, name = reference.rpartition(":")
    if is_reference(reference):
        import_module(module, field)
    return name


def source_digest(reference: str | None, field: str) -> str | None:
    """SHA-256 of the file that a reference's module is; None of a name that is known here, or of none.

    What is kept of results depends on it: they are other ones when that file is edited.
    """
    if reference is None or not is_reference(reference):
        return None
    file = import_module(reference.partition(":")[0], field).__file__
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def import_function(reference: str, field: str) -> Any:
    """The callable that ``module:function`` names.

    Raises InputError: the reference is malformed, or there is no such module or function.
    """
    if not _REFERENCE.fullmatch(reference):
        raise InputError(f"{field}: {reference!r} is malformed; must be module:function, as my_robot:{field}")
    module_name, _, name = reference.partition(":")
    function = getattr(import_module(module_name, field), name, None)
    if not callable(function):
        raise InputError(f"{field}: module {module_name!r} has no function {name!r}")
    return function


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """``python -m`` looks into the current folder by itself; a script or a notebook elsewhere does not."""
    folder = os.getcwd()
    importlib.invalidate_caches()  # a file may be newer than the import system's listing of the folder
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
