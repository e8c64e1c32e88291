"""TensorBoard's event files, read back record by record without TensorBoard."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event


def masked(data: bytes) -> int:
    """A checksum as the TFRecord format has it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def events(folder: Path) -> Iterator[Event]:
    """All events of the one file in a folder; both checksums of every record must be right."""
    (path,) = folder.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    data, at = path.read_bytes(), 0
    while at < len(data):
        header = data[at : at + 8]
        (size,) = struct.unpack("<Q", header)
        assert struct.unpack("<I", data[at + 8 : at + 12])[0] == masked(header)
        body = data[at + 12 : at + 12 + size]
        assert struct.unpack("<I", data[at + 12 + size : at + 16 + size])[0] == masked(body)
        yield Event.FromString(body)
        at += 16 + size


def points(folder: Path) -> dict[str, list[tuple[int, float | None]]]:
    """``(step, value)`` of every tag in the order they were written; None for NaN, which equals nothing."""
    found: dict[str, list[tuple[int, float | None]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            number = None if math.isnan(value.simple_value) else value.simple_value
            found.setdefault(value.tag, []).append((event.step, number))
    return found
