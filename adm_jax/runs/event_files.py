"""TensorBoard's event files: the numbers of metrics.jsonl and eval.jsonl once more, a scalar per member."""

import math
import os
import shutil
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from adm_jax import files


class EventLog:
    """The event file of one run. Lines may be added from several threads; a failure raises where it happens.

    The writer is tensorboardX's synchronous one: its ``SummaryWriter`` hands events to a thread, whose death
    (a full disk) nobody would hear of. A line is one event and is flushed, well below a millisecond.
    """

    def __init__(self, folder: str | os.PathLike[str], *tags: Sequence[str]):
        """``tags`` name the members, and their seeds; nothing is written before the first line."""
        self._folder = Path(folder)
        self._tags = {len(names): names for names in tags}
        self._writer: EventsWriter | None = None
        self._close: weakref.finalize | None = None
        self._lock = threading.Lock()  # that one file is begun; the writer has a lock of its own

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a line of metrics.jsonl or eval.jsonl, at its ``steps``, else ``updates``, else its epoch.

        Raises:
          OSError: the file cannot be written.
        """
        with files.naming(self._folder, len(str(row))):
            self._write(row).flush()

    def rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces everything written so far by these lines.

        TensorBoard can be told to forget what lies behind a step, but in all phases at once, and other
        readers would still find the points of the future that a resumed run has abandoned.
        """
        self.close()
        if self._folder.exists():
            shutil.rmtree(self._folder)
        for row in rows:
            self._write(row)
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Closes the file; a further line would begin another one."""
        if self._close is not None:
            self._close()
        self._writer = self._close = None

    def _write(self, row: Mapping[str, Any]) -> EventsWriter:
        with self._lock:
            if self._writer is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._writer = EventsWriter(os.fspath(self._folder / "events"))
                self._close = weakref.finalize(self, self._writer.close)  # a run may end anywhere
            writer = self._writer
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(row, self._tags)]
        step = row.get("steps", row.get("updates", row["epoch"]))
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        writer.write_event(event)
        return writer


def scalars(row: Mapping[str, Any], tags: Mapping[int, Sequence[str]]) -> Iterator[tuple[str, float]]:
    """``(tag, value)`` of every member's numbers in a line.

    ``tags`` holds the names of a population by its size: there are arrays over all members, and arrays over
    their seeds, of which there are fewer if a setting is swept.

    ``critic/loss`` [P] becomes ``critic/loss/seed0`` and so on; an evaluation's episodes [P, E] are averaged;
    arrays per length or step are left to metrics.jsonl, and so is what no member has. Behaviour cloning's
    evaluation is tagged ``bc/eval/...``: its steps are not those of the policies that are trained later. What
    is not finite (null) is NaN.
    """
    prefix = "bc/" if row["phase"] == "bc" else ""
    for name, values in row.items():
        if "/" not in name or "_per_" in name:
            continue
        if np.ndim(values) and all(value is None for value in values):  # a score without references
            continue
        array = np.asarray(values, np.float64)  # None becomes NaN
        if array.ndim == 2:
            array = array.mean(axis=1)
        tag = name if name.startswith(prefix) else prefix + name
        if array.ndim == 0:
            yield tag, float(array)
            continue
        for member, value in enumerate(array):
            label = tags[len(array)][member] if len(array) in tags else f"member{member}"
            yield f"{tag}/{label}", float(value) if math.isfinite(value) else math.nan
