"""The files of a node's prediction log as they lie there, and the journal of what was shipped of them.

The surprise: nothing here needs Arrow, so that the process that only looks whether there is work stays small.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from flyball.disk import write_atomically
from flyball.errors import IntegrityError
from flyball.records.shipping import Segment, Shipped

__all__ = ["Needed", "read_needed", "read_shipped", "segments_of", "write_needed", "write_shipped"]

_JOURNAL = "shipped.json"
_NEEDED = "needed.json"


def segments_of(root: Path) -> list[Segment]:
    """Return the segments below the log's folder; one is closed when a newer one took its place or its writer died."""
    found: list[Segment] = []
    for folder in sorted(p for p in root.glob("*") if p.is_dir()):
        paths = sorted(folder.glob("*.seg"))
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                closed = path is not paths[-1] or not _alive(path)
                name = path.relative_to(root).as_posix()
                found.append(Segment(name, stat.st_size, stat.st_mtime_ns // 1000, closed))
    return found


def read_shipped(root: Path) -> Shipped:
    """Return what was shipped of the log below `root`.

    Raises:
        IntegrityError: the journal is damaged.
    """
    try:
        return msgspec.json.decode((root / _JOURNAL).read_bytes(), type=Shipped)
    except FileNotFoundError:
        return Shipped()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{root / _JOURNAL} is damaged ({error}); move it away, and everything is shipped again"
        ) from error


def write_shipped(root: Path, shipped: Shipped) -> None:
    """Replace the journal, durably."""
    write_atomically(root / _JOURNAL, msgspec.json.encode(shipped), durable=True)


class Needed(msgspec.Struct, frozen=True):
    """What readers of segments still need: everything written from `since` (µs) on."""

    since: int


def read_needed(root: Path) -> Needed | None:
    """Return what control said last of the log below `root`, None when it never did."""
    try:
        return msgspec.json.decode((root / _NEEDED).read_bytes(), type=Needed)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_needed(root: Path, needed: Needed) -> None:
    """Say what is still needed."""
    write_atomically(root / _NEEDED, msgspec.json.encode(needed))


def _alive(segment: Path) -> bool:
    """Whether the process that made a segment may still append to it."""
    _, _, pid = segment.stem.rpartition("-")
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
