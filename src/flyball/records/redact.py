"""Take records out of log segments for good, in place: each frame keeps its length, so every offset stays true.

Cursors of collectors, ranges of evidence and writers that still append go on as if nothing had happened; where a record
was there is now an `Erased`. The surprise: frames are written over, not segments replaced. So what is about to be
written stands in a journal first, and a kill in the middle is mended by `recover`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import xxhash

from flyball.disk import write_atomically
from flyball.records.segment import HEADER, read_frames
from flyball.records.types import Erased, Record, decode, encode

__all__ = ["Redacted", "recover", "redact", "scan"]

_JOURNAL = "redact.journal"
_BUMPS = (0, 200, 60_000)  # ints that take 1, 2 and 3 bytes


class _Patch(msgspec.Struct, frozen=True, array_like=True):
    segment: str
    offset: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class Redacted:
    """How many records were taken out, of how many segments, and how many records were looked at."""

    records: int
    segments: int
    looked: int


def scan(root: Path, folders: str = "*/*.seg") -> Iterator[tuple[Path, int, bytes, list[Record]]]:
    """Yield (segment, offset, payload, records) of every complete frame below `root`."""
    for path in sorted(root.glob(folders)):
        for frame in read_frames(path):
            yield path, frame.start, frame.payload, decode(frame.payload)


def redact(root: Path, drop: Callable[[Record], bool]) -> Redacted:
    """Replace every record that `drop` finds by a tombstone, durably; calling it again finds nothing more.

    Args:
        root: The log's folder; segments lie one folder below.
        drop: Whether a record goes.
    """
    recover(root)
    gone, looked, touched = 0, 0, 0
    patches: list[_Patch] = []
    last: Path | None = None
    for path, offset, payload, records in scan(root):
        if path != last:
            touched += _write(root, patches)
            patches, last = [], path
        looked += sum(not isinstance(r, Erased) for r in records)
        kept = [r for r in records if isinstance(r, Erased) or not drop(r)]
        if len(kept) < len(records):
            gone += len(records) - len(kept)
            new = _same_length(kept, len(payload))
            frame = HEADER.pack(len(new), xxhash.xxh3_64_intdigest(new)) + new
            patches.append(_Patch(path.relative_to(root).as_posix(), offset, frame))
    touched += _write(root, patches)
    return Redacted(gone, touched, looked)


def recover(root: Path) -> bool:
    """Finish what a killed `redact` had begun to write; return whether there was anything."""
    journal = root / _JOURNAL
    try:
        patches = msgspec.msgpack.decode(journal.read_bytes(), type=list[_Patch])
    except FileNotFoundError:
        return False
    _over(root, patches)
    journal.unlink()
    return True


def _write(root: Path, patches: list[_Patch]) -> int:
    """Write one segment's frames over: journal, bytes, journal gone."""
    if not patches:
        return 0
    journal = root / _JOURNAL
    write_atomically(journal, msgspec.msgpack.encode(patches), durable=True)
    _over(root, patches)
    journal.unlink()
    return 1


def _over(root: Path, patches: Iterable[_Patch]) -> None:
    for patch in patches:
        fd = os.open(root / patch.segment, os.O_WRONLY)
        try:
            done = 0
            while done < len(patch.frame):
                done += os.pwrite(fd, patch.frame[done:], patch.offset + done)
            os.fsync(fd)
        finally:
            os.close(fd)


def _same_length(kept: list[Record], length: int) -> bytes:
    """Return the payload of the kept records and one tombstone that fills it up to `length` bytes."""
    spare = length - len(encode([*kept, Erased(b"", 0)]))
    for bump in _BUMPS:
        for size in range(spare, max(-1, spare - 6), -1):
            payload = encode([*kept, Erased(bytes(size), bump)])
            if len(payload) == length:
                return payload
    raise ValueError(f"no tombstone fills {spare} bytes")  # every record is longer than the smallest tombstone
