"""The host's side of its connections: one thread that waits for frames, answers them, and does nothing else.

There is no event loop and no second thread between a frame and the model, because each hand-over would cost as much as
a small model. The surprise: a process that user code forked off must not go on answering here, so a fork closes every
connection in the child and leaves those of the parent alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flyball.adapters.local.ring import Frame, Frames, Kind, Memory, fits, inline, pack, pack_error
from flyball.errors import IntegrityError

__all__ = ["Ask", "RingServer"]

_CHUNK = 1 << 18
_UNSENT = 1 << 27  # bytes that a worker may leave unread before it is hung up on


class _Peer:
    """One worker's connection."""

    __slots__ = ("frames", "memory", "out", "socket")

    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self.frames = Frames()
        self.memory: Memory | None = None
        self.out = bytearray()


@dataclass(slots=True)
class Ask:
    """One request; `matrix` is a read-only view of shared memory until it is answered."""

    peer: _Peer
    kind: int
    slot: int
    number: int
    matrix: np.ndarray
    until: float

    def begin(self) -> None:
        """Say that the model begins with it: from now on it may be blamed for this process's death."""
        if self.peer.memory is not None:
            self.peer.memory.take(self.slot, self.number)


class RingServer:
    """Listen on `path` for the node's workers; `life` tells them one run of the host from the next."""

    def __init__(self, path: Path) -> None:
        """Remember where to listen; `start` does."""
        self._path = path
        self._peers: dict[int, _Peer] = {}
        self._poll = select.epoll()
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        os.set_blocking(self._wake, False)
        self._poll.register(self._wake, select.EPOLLIN)
        self._life = int.from_bytes(os.urandom(8), "little") | 1
        self._pid = os.getpid()
        os.register_at_fork(after_in_child=self._forked)

    @property
    def waker(self) -> int:
        """A file descriptor; a byte written there ends a `wait`."""
        return self._waker

    @property
    def alive(self) -> bool:
        """Whether this is the process that listens, not one that was forked off it."""
        return os.getpid() == self._pid

    def start(self) -> None:
        """Begin to listen; only this user may connect."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen(64)
        self._poll.register(self._listener, select.EPOLLIN)

    def wait(self, seconds: float) -> list[Ask]:
        """Return the requests that have come, after at most `seconds`; an empty list when woken for another reason."""
        asks: list[Ask] = []
        for fd, events in self._poll.poll(seconds):
            if fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            elif fd == self._listener.fileno():
                self._accept()
            elif (peer := self._peers.get(fd)) is not None:
                if events & select.EPOLLOUT:
                    self._flush(peer)
                if events & ~select.EPOLLOUT:
                    self._read(peer, asks)
        return asks

    def answer(self, ask: Ask, values: np.ndarray) -> None:
        """Send an array; through the slot where it fits."""
        memory = ask.peer.memory
        if memory is None:
            return
        if fits(values.shape) and values.size:
            memory.answer(ask.slot, values.shape)[...] = values
            memory.finish(ask.slot, ask.number)
            self._send(ask.peer, pack(Kind.MATRIX, ask.slot, ask.number, values.shape))
            return
        memory.finish(ask.slot, ask.number)
        data = np.ascontiguousarray(values, dtype=np.float64).tobytes()
        self._send(ask.peer, pack(Kind.MATRIX, ask.slot, ask.number, values.shape, size=len(data)) + data)

    def reply(self, ask: Ask, payload: bytes) -> None:
        """Send bytes."""
        self._send(ask.peer, pack(Kind.BYTES, ask.slot, ask.number, size=len(payload)) + payload)

    def fail(self, ask: Ask, error: BaseException) -> None:
        """Send a failure."""
        self._send(ask.peer, pack_error(ask.slot, ask.number, error))

    def close(self) -> None:
        """Hang up and stop listening."""
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._listener.close()
        self._poll.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._wake)
        os.close(self._waker)

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        peer.setblocking(False)
        self._peers[peer.fileno()] = _Peer(peer)
        self._poll.register(peer, select.EPOLLIN)

    def _read(self, peer: _Peer, asks: list[Ask]) -> None:
        try:
            if peer.memory is None:
                data, fds, _, _ = socket.recv_fds(peer.socket, _CHUNK, 4)
                self._greet(peer, fds)
            else:
                data = peer.socket.recv(_CHUNK)
            if not data:
                self._drop(peer)
                return
            asks += [self._ask(peer, f) for f in peer.frames.feed(data) if f.kind != Kind.HELLO]
        except BlockingIOError:
            return
        except (OSError, IntegrityError):
            self._drop(peer)

    def _greet(self, peer: _Peer, fds: list[int]) -> None:
        for fd in fds[1:]:
            os.close(fd)
        if not fds:
            return
        try:
            peer.memory = Memory(fds[0])
        except (OSError, IntegrityError):
            os.close(fds[0])
            raise
        self._send(peer, pack(Kind.HELLO, 0, self._life))

    def _ask(self, peer: _Peer, frame: Frame) -> Ask:
        if peer.memory is None or frame.kind not in (Kind.PREDICT, Kind.EXPLAIN) or len(frame.shape) != 2:
            raise IntegrityError(f"a frame of kind {frame.kind} is no request")
        if frame.payload:
            matrix = inline(frame)
        elif fits(frame.shape):
            matrix = peer.memory.request(frame.slot, frame.shape)
            matrix.flags.writeable = False
        else:
            raise IntegrityError(f"a matrix of shape {frame.shape} does not fit its slot")
        return Ask(peer, frame.kind, frame.slot, frame.number, matrix, frame.deadline)

    def _send(self, peer: _Peer, data: bytes) -> None:
        if peer.memory is None:
            return
        if peer.out:
            peer.out += data
            if len(peer.out) > _UNSENT:
                self._drop(peer)
            return
        try:
            sent = peer.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(peer)
            return
        if sent < len(data):
            peer.out += memoryview(data)[sent:]
            self._poll.modify(peer.socket, select.EPOLLIN | select.EPOLLOUT)

    def _flush(self, peer: _Peer) -> None:
        try:
            del peer.out[: peer.socket.send(peer.out)]
        except BlockingIOError:
            return
        except OSError:
            self._drop(peer)
            return
        if not peer.out:
            self._poll.modify(peer.socket, select.EPOLLIN)

    def _drop(self, peer: _Peer) -> None:
        fd = peer.socket.fileno()
        if self._peers.pop(fd, None) is None:
            return
        with contextlib.suppress(OSError):
            self._poll.unregister(fd)
        peer.socket.close()
        if peer.memory is not None:
            peer.memory.close()
            peer.memory = None

    def _forked(self) -> None:
        for peer in self._peers.values():
            peer.socket.close()
            peer.memory = None
        listener = getattr(self, "_listener", None)
        if listener is not None:
            listener.close()
