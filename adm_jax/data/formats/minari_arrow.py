"""Minari's Arrow and Parquet layouts: a folder of files an episode, a table with a row for each observation.

Columns are lists of numbers, a dictionary's keys the fields of a struct. What belongs to a step has a value
too many, which pads the last row. Read with pyarrow, and not through Minari, which takes the batches that a
table is read in for episodes: from 131,072 steps on an episode has several.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from adm_jax.types import InputError

FORMATS = ("arrow", "parquet")  # as metadata.json calls them


def require_pyarrow(data_format: str, source: str) -> None:
    """Raises InputError where pyarrow, which nothing else needs, is not installed."""
    try:
        import pyarrow.dataset  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"{source}: is stored as {data_format}, which needs pyarrow ({error}); pip install "
            "'adm_jax[arrow]'"
        ) from error


def read_episode(folder: Path, data_format: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Those columns of an episode's table that it has, less the padding.

    Observations are [T + 1, D], a dictionary of such or of dictionaries, the others [T, ...].
    """
    import pyarrow.dataset  # pyright: ignore[reportMissingImports]

    table = pyarrow.dataset.dataset(
        folder, format=data_format, ignore_prefixes=["_", ".", "metadata.json"]
    ).to_table()
    columns = {name: _values(table[name].combine_chunks()) for name in names if name in table.column_names}
    return {name: values if name == "observations" else values[:-1] for name, values in columns.items()}


def read_attributes(folder: Path) -> dict[str, Any]:
    """What is kept of an episode beside its table, as seed and options of its reset; lists as arrays."""

    def arrays(table: dict[str, Any]) -> dict[str, Any]:
        return {name: np.asarray(x) if isinstance(x, list) else x for name, x in table.items()}

    path = folder / "metadata.json"
    return json.loads(path.read_bytes(), object_hook=arrays) if path.exists() else {}


def _values(column: Any) -> Any:
    """A column as an array [T, ...], or a dictionary of them; missing values are NaN, or no numbers."""
    import pyarrow  # pyright: ignore[reportMissingImports]

    if pyarrow.types.is_struct(column.type):
        fields = [column.type.field(i).name for i in range(column.type.num_fields)]
        return dict(zip(fields, map(_values, column.flatten()), strict=True))
    if not pyarrow.types.is_fixed_size_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    values = column.flatten()  # leaves out what a row lacks: the count tells
    return values.to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
