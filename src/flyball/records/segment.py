"""Append-only segment files: frames of length, checksum and payload.

A frame is `<u32 length><u64 xxh3 of payload><payload>`, little-endian. A process never appends to another's segment:
after a crash the torn tail is simply where the old file ends. Readers stop before an incomplete or corrupt frame.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

__all__ = ["HEADER", "Frame", "SegmentWriter", "read_frames", "salvage_frames", "torn_bytes"]

HEADER = struct.Struct("<IQ")
_MAX_FRAME = 1 << 30


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame's payload and where it lies: bytes [start, end) of its segment file."""

    payload: bytes
    start: int
    end: int


class SegmentWriter:
    """Append frames to rotating segment files in one folder; one writer per folder and process.

    `append` hands the bytes to the kernel (survives kill -9); `sync` waits for the disk (survives power loss).
    A segment is closed once it has `rotate_bytes`, or is `rotate_after` seconds old when the next frame comes.
    """

    def __init__(self, folder: Path, *, rotate_bytes: int = 64 << 20, rotate_after: float = float("inf")) -> None:
        self._folder = folder
        self._rotate = rotate_bytes
        self._after = rotate_after
        self._until = 0.0
        self._fd = -1
        self._offset = 0
        self._dirty = False
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> Path | None:
        """The segment written last."""
        return self._path if self._fd >= 0 else None

    def append(self, payload: bytes) -> tuple[str, int]:
        """Write one frame; return (segment file name, end offset).

        Raises:
            OSError: the disk is full or gone; a partly written frame is cut off again.
        """
        if self._fd < 0 or self._offset >= self._rotate or time.monotonic() >= self._until:
            self._open()
        frame = HEADER.pack(len(payload), xxhash.xxh3_64_intdigest(payload)) + payload
        view = memoryview(frame)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            try:
                os.ftruncate(self._fd, self._offset)
            except OSError:
                self.abandon()  # what was half written stays a torn tail, nothing is appended to it
            raise
        self._offset += len(frame)
        self._dirty = True
        return self._path.name, self._offset

    def sync(self) -> None:
        """Wait until everything appended is on the disk."""
        if self._dirty and self._fd >= 0:
            self._dirty = False
            os.fdatasync(self._fd)

    def abandon(self) -> None:
        """Close without a sync; the next append begins a new segment."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._dirty = False
            os.close(fd)

    def close(self) -> None:
        """Sync and close."""
        if self._fd >= 0:
            self.sync()
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self.close()
        self._path = self._folder / f"{self._stamp():020d}-{os.getpid()}.seg"
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._offset = 0
        self._until = time.monotonic() + self._after

    def _stamp(self) -> int:
        """Return the time in ns, or what follows the newest segment's: names are in order when the clock jumps back."""
        stamps = [int(name[:20]) for name in os.listdir(self._folder) if name.endswith(".seg") and name[:20].isdigit()]
        return max(time.time_ns(), max(stamps, default=0) + 1)


def read_frames(path: Path, start: int = 0, end: int | None = None) -> Iterator[Frame]:
    """Yield the complete, uncorrupted frames within bytes [start, end); stop at the first that is neither."""
    for frame in _frames(path, start, end):
        if frame is None:
            return
        yield frame


def salvage_frames(path: Path) -> Iterator[Frame]:
    """Yield the complete, uncorrupted frames of a closed segment, also those behind a damaged one.

    Not for a segment that is written to: a frame that is not whole yet would be passed over for good.
    """
    return (frame for frame in _frames(path, 0, None) if frame is not None)


def _frames(path: Path, start: int, end: int | None) -> Iterator[Frame | None]:
    """Yield frames, None for one whose payload is not what its checksum says."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read() if end is None else file.read(end - start)
    at = 0
    while at + HEADER.size <= len(data):
        length, checksum = HEADER.unpack_from(data, at)
        after = at + HEADER.size + length
        if length > _MAX_FRAME or after > len(data):
            return
        payload = data[at + HEADER.size : after]
        good = xxhash.xxh3_64_intdigest(payload) == checksum
        yield Frame(payload, start + at, start + after) if good else None
        at = after


def torn_bytes(path: Path) -> int:
    """Return how many bytes of a closed segment belong to no complete, uncorrupted frame."""
    return path.stat().st_size - sum(frame.end - frame.start for frame in salvage_frames(path))
