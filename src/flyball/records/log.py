"""Follow all workers' log segments from a cursor, in an order that does not depend on timing of the reader.

A cursor maps a segment (path relative to the log root) to the offset read so far. It is plain data: keep it, and a
later reader goes on where this one stopped, or reads the same ranges again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flyball.records.segment import read_frames
from flyball.records.types import Record, decode

__all__ = ["Batch", "Cursor", "follow", "read_range"]

Cursor = dict[str, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one frame and where it lies."""

    segment: str
    start: int
    end: int
    records: list[Record]


def follow(root: Path, cursor: Cursor) -> list[Batch]:
    """Return what was appended to any segment below `root` since `cursor`, and move the cursor.

    Segments are read in the order of their relative paths, frames in file order.
    """
    batches: list[Batch] = []
    for path in sorted(root.glob("*/*.seg")):
        name = path.relative_to(root).as_posix()
        begin = cursor.get(name, 0)
        if path.stat().st_size <= begin:
            continue
        batches += [Batch(name, f.start, f.end, decode(f.payload)) for f in read_frames(path, begin)]
        if batches and batches[-1].segment == name:
            cursor[name] = batches[-1].end
    return batches


def read_range(root: Path, segment: str, start: int, end: int) -> list[Batch]:
    """Return the frames of one segment within bytes [start, end)."""
    return [Batch(segment, f.start, f.end, decode(f.payload)) for f in read_frames(root / segment, start, end)]
