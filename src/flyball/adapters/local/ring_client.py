"""The worker's side of a host's connection: ask, wait for the frame that says the answer is there, copy it out.

The surprise: when a host dies, at most one of the requests it had gets the blame. The shared memory says which of them
the model had begun with, and the first worker of the node that leaves a claim file for that life of the host counts
the death; for everybody else, and for rows that only queued, nothing was learned about the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flyball.adapters.local.ipc import PeerGone
from flyball.adapters.local.ring import SLOTS, Frame, Frames, Kind, Memory, error_of, fits, inline, pack, send_hello
from flyball.adapters.local.tables import CLAIM
from flyball.errors import DeadlineExceeded, FlyballError, IntegrityError

__all__ = ["RingClient"]

_LARGEST_ANSWER = 1 << 26  # bytes after one frame of a host
_CHUNK = 1 << 16


@dataclass(slots=True)
class _Asked:
    future: asyncio.Future[np.ndarray | bytes]
    slot: int
    rows: int


class RingClient:
    """Ask one host many things at once; the connection is made when needed and made again when lost.

    Args:
        path: The host's socket.
        name: Names the host in errors.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self._path = path
        self._name = name
        self._peer: socket.socket | None = None
        self._next = 0
        self.when_lost: Callable[[], None] | None = None  # called when the host is seen to have gone

    @property
    def connected(self) -> bool:
        """Whether the connection stands now."""
        return self._peer is not None

    async def ask(self, kind: Kind, matrix: np.ndarray, deadline: float) -> np.ndarray | bytes:
        """Send a float64 matrix (n, k) and return what the host answers before `deadline` (monotonic seconds).

        Raises:
            PeerGone: the host is not there; `sent` is False where that says nothing about the model.
            DeadlineExceeded: no answer in time, or too many earlier requests are still without one.
            FlyballError: what the host said went wrong, or an answer that is none.
        """
        loop = asyncio.get_running_loop()
        left = deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"the deadline passed before {self._name} was asked")
        if self._peer is None:
            self._connect(loop)
        if not self._free:
            raise DeadlineExceeded(f"{self._name} still owes the answers to {SLOTS} earlier requests")
        slot = self._free.pop()
        self._next += 1
        number, shape = self._next, matrix.shape
        future: asyncio.Future[np.ndarray | bytes] = loop.create_future()
        self._asked[number] = _Asked(future, slot, len(matrix))
        if fits(shape):
            self._memory.request(slot, shape)[...] = matrix
            self._send(pack(kind, slot, number, shape, deadline=deadline))
        else:
            data = np.ascontiguousarray(matrix, dtype=np.float64).tobytes()
            self._send(pack(kind, slot, number, shape, deadline=deadline, size=len(data)) + data)
        timer = loop.call_later(left, _late, future, self._name, left)
        try:
            return await future
        finally:
            timer.cancel()

    def close(self) -> None:
        """Hang up; what is under way fails as gone."""
        self._lost(f"{self._name} was hung up on", blame=False)

    def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.setblocking(False)
        try:
            peer.connect(str(self._path))
            memory = Memory.create()
        except OSError as error:
            peer.close()
            cause = os.strerror(error.errno) if error.errno else str(error)
            raise PeerGone(f"{self._name} is not running ({cause})", sent=False) from error
        try:
            send_hello(peer, memory)
        except OSError as error:
            memory.close()
            peer.close()
            raise PeerGone(f"{self._name} went away as it was called", sent=False) from error
        self._peer, self._memory, self._loop = peer, memory, loop
        self._frames = Frames(largest=_LARGEST_ANSWER)
        self._asked: dict[int, _Asked] = {}
        self._free = list(range(SLOTS - 1, -1, -1))
        self._out = bytearray()
        self._life = 0
        loop.add_reader(peer.fileno(), self._readable)

    # -- out ----------------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        assert self._peer is not None
        if self._out:
            self._out += data
            return
        try:
            sent = self._peer.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lost(f"{self._name} went away", blame=True)
            return
        if sent < len(data):
            self._out += memoryview(data)[sent:]
            self._loop.add_writer(self._peer.fileno(), self._writable)

    def _writable(self) -> None:
        assert self._peer is not None
        try:
            sent = self._peer.send(self._out)
        except BlockingIOError:
            return
        except OSError:
            self._lost(f"{self._name} went away", blame=True)
            return
        del self._out[:sent]
        if not self._out:
            self._loop.remove_writer(self._peer.fileno())

    # -- in -----------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        peer = self._peer
        assert peer is not None
        try:
            data = peer.recv(_CHUNK)
            if not data:
                self._lost(f"{self._name} went away before it answered", blame=True)
                return
            for frame in self._frames.feed(data):
                self._received(frame)
        except BlockingIOError:
            return
        except (OSError, IntegrityError) as error:
            self._lost(f"{self._name} broke the connection: {error}", blame=True)

    def _received(self, frame: Frame) -> None:
        if frame.kind == Kind.HELLO:
            self._life = frame.number
            return
        asked = self._asked.get(frame.number)
        if asked is None:
            return  # an answer nobody waits for says nothing
        if asked.slot != frame.slot:
            raise IntegrityError(f"the answer to request {frame.number} came in slot {frame.slot}, not {asked.slot}")
        if frame.kind not in (Kind.MATRIX, Kind.BYTES, Kind.ERROR):
            raise IntegrityError(f"a frame of kind {frame.kind} is no answer")
        del self._asked[frame.number]
        self._free.append(asked.slot)
        if asked.future.done():
            return
        try:
            asked.future.set_result(self._answer(frame, asked))
        except FlyballError as error:
            asked.future.set_exception(error)

    def _answer(self, frame: Frame, asked: _Asked) -> np.ndarray | bytes:
        """Copy the answer out; its numbers are judged by whoever asked."""
        if frame.kind == Kind.ERROR:
            raise error_of(frame.payload)
        if frame.kind == Kind.BYTES:
            return frame.payload
        shape = frame.shape
        if not shape or shape[0] != asked.rows:
            raise FlyballError(f"the host answered shape {shape} to {asked.rows} rows")
        if frame.payload:
            return inline(frame)
        if not fits(shape) or self._memory.finished(asked.slot) != frame.number:
            raise FlyballError(f"the host announced an answer of shape {shape} that is not there")
        return self._memory.answer(asked.slot, shape).copy()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _lost(self, why: str, *, blame: bool) -> None:
        peer, self._peer = self._peer, None
        if peer is None:
            return
        self._loop.remove_reader(peer.fileno())
        self._loop.remove_writer(peer.fileno())
        peer.close()
        begun = [n for n, a in self._asked.items() if not a.future.done() and self._memory.taken(a.slot) == n]
        guilty = begun[0] if begun and blame and self._claim() else 0
        for number, asked in self._asked.items():
            if not asked.future.done():
                asked.future.set_exception(PeerGone(f"{why}; ask again", sent=number == guilty))
        self._asked = {}
        self._memory.close()
        if blame and self.when_lost is not None:
            self.when_lost()

    def _claim(self) -> bool:
        """Whether this worker is the one that counts this death of the host."""
        path = self._path.with_name(f"{self._path.stem}.{self._life:016x}{CLAIM}")
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            return True
        return not path.exists()  # a folder that takes no files must not hide a death


def _late(future: asyncio.Future[np.ndarray | bytes], name: str, seconds: float) -> None:
    if not future.done():
        future.set_exception(DeadlineExceeded(f"{name} did not answer within {seconds:.3g} s"))
