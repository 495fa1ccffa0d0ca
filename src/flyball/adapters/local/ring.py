"""Matrices between a worker and a host through shared memory; the socket between them only wakes the other side.

Each connection brings its own sealed memory file: slots for a request's matrix and for its answer, written by one side
at a time. What travels on the socket is one 48-byte frame. The surprise: the worker trusts nothing that a host writes.
The file cannot shrink under it (it is sealed), a frame is judged before a byte of the slot is read, and an answer is
copied out before anybody looks at its numbers; a host that talks nonsense is hung up on, and that is all.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import msgspec
import numpy as np

from flyball.errors import DeadlineExceeded, FlyballError, IntegrityError, Untrusted, said

__all__ = [
    "FRAME", "MAX_INLINE", "SLOTS", "SLOT_BYTES", "Frame", "Frames", "Kind", "Memory", "error_of", "fits", "inline",
    "pack", "pack_error", "send_hello",
]  # fmt: skip

SLOTS = 64
SLOT_BYTES = 1 << 20  # of a request, and of an answer; only pages that were touched are real memory
MAX_INLINE = 1 << 28  # bytes of a matrix too large for a slot
_MAX_ERROR = 8192
_WORDS = 8  # words of a slot's head: what was taken, what was answered
_HEAD = SLOTS * _WORDS * 8
_HEAD_BYTES = (_HEAD + 4095) & ~4095
_SIZE = _HEAD_BYTES + 2 * SLOTS * SLOT_BYTES
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_TOLD: dict[str, type[FlyballError]] = {c.__name__: c for c in (DeadlineExceeded, IntegrityError, Untrusted)}
FRAME = struct.Struct("<BBHIQIIIId")  # kind, dimensions, slot, bytes that follow, number, shape (3), spare, deadline


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1  # host: number is its life
    PREDICT = 2
    EXPLAIN = 3
    MATRIX = 10  # an answer in the slot, or in the bytes that follow
    BYTES = 11  # an answer in the bytes that follow
    ERROR = 12  # msgpack [class, sentence] follows


@dataclass(slots=True)
class Frame:
    """One message; `payload` is what followed it on the socket."""

    kind: int
    slot: int
    number: int
    shape: tuple[int, ...]
    deadline: float
    payload: bytes


class Memory:
    """The shared file of one connection, seen from either side."""

    __slots__ = ("_map", "_numbers", "_words", "fd")

    def __init__(self, fd: int) -> None:
        """Map a file that `create` made or the peer sent.

        Raises:
            IntegrityError: it has another size, or may still be resized.
        """
        if os.fstat(fd).st_size != _SIZE or fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise IntegrityError("the shared memory of a connection is not of this layout, or may still be resized")
        self.fd = fd
        self._map = mmap.mmap(fd, _SIZE)
        self._words = memoryview(self._map)[:_HEAD].cast("Q")
        self._numbers = np.frombuffer(self._map, dtype=np.float64, offset=_HEAD_BYTES)

    @classmethod
    def create(cls) -> Memory:
        """Make a file without a name, which ends with the last process that maps it."""
        fd = os.memfd_create("flyball-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _SIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def request(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return the view of a request's matrix; the caller has checked that it fits."""
        return self._view(2 * slot, shape)

    def answer(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return the view of an answer's matrix; the caller has checked that it fits."""
        return self._view(2 * slot + 1, shape)

    def _view(self, half: int, shape: tuple[int, ...]) -> np.ndarray:
        start = half * (SLOT_BYTES >> 3)
        size = 1
        for n in shape:
            size *= n
        return self._numbers[start : start + size].reshape(shape)

    def take(self, slot: int, number: int) -> None:
        """Say that the model has begun with a request."""
        self._words[slot * _WORDS] = number

    def taken(self, slot: int) -> int:
        """Return the number of the request that the model began with last."""
        return int(self._words[slot * _WORDS])

    def finish(self, slot: int, number: int) -> None:
        """Say that the slot holds the answer to a request."""
        self._words[slot * _WORDS + 1] = number

    def finished(self, slot: int) -> int:
        """Return the number of the request that the slot's answer belongs to."""
        return int(self._words[slot * _WORDS + 1])

    def close(self) -> None:
        """Close the file; the mapping goes with its last view."""
        with contextlib.suppress(OSError):
            os.close(self.fd)
        self._words.release()
        del self._numbers


class Frames:
    """Cut a byte stream into frames.

    Args:
        largest: Bytes that may follow one frame.
    """

    __slots__ = ("_buffer", "largest")

    def __init__(self, *, largest: int = MAX_INLINE) -> None:
        self._buffer = bytearray()
        self.largest = largest

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete now.

        Raises:
            IntegrityError: the bytes are no frame that either side sends.
        """
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        try:
            while end - at >= FRAME.size:
                kind, ndim, slot, length, number, a, b, c, _, deadline = FRAME.unpack_from(buffer, at)
                if ndim > 3 or slot >= SLOTS or length > self.largest or (kind == Kind.ERROR and length > _MAX_ERROR):
                    raise IntegrityError(f"a frame of kind {kind}, slot {slot} and {length} bytes is none of ours")
                stop = at + FRAME.size + length
                if end < stop:
                    return
                payload = bytes(memoryview(buffer)[stop - length : stop]) if length else b""
                at = stop
                yield Frame(kind, slot, number, (a, b, c)[:ndim], deadline, payload)
        finally:
            del buffer[:at]


def fits(shape: tuple[int, ...]) -> bool:
    """Whether a float64 array of this shape has room in a slot."""
    size = 8
    for n in shape:
        size *= n
    return size <= SLOT_BYTES


def pack(
    kind: Kind, slot: int, number: int, shape: tuple[int, ...] = (), *, deadline: float = 0.0, size: int = 0
) -> bytes:
    """Return a frame that announces `size` bytes after it."""
    a, b, c = (*shape, 0, 0, 0)[:3]
    return FRAME.pack(kind, len(shape), slot, size, number, a, b, c, 0, deadline)


def pack_error(slot: int, number: int, error: BaseException) -> bytes:
    """Return the frame of a failure, as class and sentence."""
    known = isinstance(error, FlyballError)
    name = type(error).__name__ if known else "FlyballError"
    text = said(error) if known else f"{type(error).__name__}: {said(error)}"
    payload = msgspec.msgpack.encode([name, text[:2000]])
    return pack(Kind.ERROR, slot, number, size=len(payload)) + payload


def error_of(payload: bytes) -> FlyballError:
    """Return the failure that a host told; a nonsense one is a failure too.

    Only what means the same here keeps its class: a model that raises Unavailable or BadRequest has failed, no more.
    """
    try:
        name, text = msgspec.msgpack.decode(payload, type=tuple[str, str])
    except msgspec.DecodeError:
        return FlyballError("the host failed and could not say why")
    return _TOLD.get(name, FlyballError)(text)


def inline(frame: Frame) -> np.ndarray:
    """Return the matrix that followed a frame.

    Raises:
        IntegrityError: the bytes do not fill the shape.
    """
    size = 8
    for n in frame.shape:
        size *= n
    if len(frame.payload) != size:
        raise IntegrityError(f"a matrix of shape {frame.shape} came with {len(frame.payload)} bytes instead of {size}")
    return np.frombuffer(frame.payload, dtype=np.float64).reshape(frame.shape)


def send_hello(peer: socket.socket, memory: Memory) -> None:
    """Hand the connection's memory to the host."""
    socket.send_fds(peer, [pack(Kind.HELLO, 0, 0)], [memory.fd])
