"""What a worker makes of a host that dies, lies or talks nonsense: an error for the caller, never a crash."""

import asyncio
import contextlib
import os
import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.adapters.local.ipc import PeerGone
from flyball.adapters.local.ring import FRAME, SLOTS, Frames, Kind, Memory, error_of, pack, pack_error
from flyball.adapters.local.ring_client import RingClient
from flyball.adapters.local.ring_server import RingServer
from flyball.errors import BadRequest, DeadlineExceeded, FlyballError, IntegrityError


def soon(seconds=5.0):
    return time.monotonic() + seconds


@contextlib.contextmanager
def liar(path, lie):
    """A host that greets like one and then does `lie(peer, memory, frame)` to the first request."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def run():
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    data, fds, _, _ = socket.recv_fds(peer, 1 << 16, 1)
                    memory = Memory(fds[0])
                    peer.send(pack(Kind.HELLO, 0, 77))
                    frames = Frames()
                    asked = [f for f in frames.feed(data) if f.kind == Kind.PREDICT]
                    while not asked:
                        asked = list(frames.feed(peer.recv(1 << 16)))
                    lie(peer, memory, asked[0])
                    memory.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def asked(path, lie, matrix=None):
    """Return what one worker gets for a row, and then a second one with a connection of its own."""

    async def main():
        results = []
        for _ in range(2):
            client = RingClient(path, name="the host")
            try:
                results.append(await client.ask(Kind.PREDICT, np.ones((1, 3)) if matrix is None else matrix, soon(0.5)))
            except Exception as error:
                results.append(error)
            client.close()
        return results

    with liar(path, lie):
        return asyncio.run(main())


def hang_up(peer, memory, frame):
    """Return after the caller's end was closed or a while."""
    with contextlib.suppress(OSError):
        peer.settimeout(2.0)
        peer.recv(1)


LIES = {
    "a length beyond all bounds": lambda f: FRAME.pack(Kind.MATRIX, 2, f.slot, 1 << 31, f.number, 1, 1, 0, 0, 0.0),
    "a slot that is none": lambda f: FRAME.pack(Kind.MATRIX, 1, SLOTS, 0, f.number, 1, 0, 0, 0, 0.0),
    "another slot": lambda f: FRAME.pack(Kind.MATRIX, 1, 3, 0, f.number, 1, 0, 0, 0, 0.0),
    "nine dimensions": lambda f: FRAME.pack(Kind.MATRIX, 9, f.slot, 0, f.number, 1, 1, 1, 0, 0.0),
    "a shape that does not fit": lambda f: pack(Kind.MATRIX, f.slot, f.number, (1, 4_000_000_000)),
    "another number of rows": lambda f: pack(Kind.MATRIX, f.slot, f.number, (7,)),
    "no rows at all": lambda f: pack(Kind.MATRIX, f.slot, f.number, ()),
    "an answer that is not there": lambda f: pack(Kind.MATRIX, f.slot, f.number, (1,)),
    "bytes that do not fill the shape": lambda f: pack(Kind.MATRIX, f.slot, f.number, (1, 5), size=8) + bytes(8),
    "an error that is no message": lambda f: pack(Kind.ERROR, f.slot, f.number, size=3) + b"\xc1\xc1\xc1",
    "an unknown kind": lambda f: pack(Kind.PREDICT, f.slot, f.number, (1,)),
    "noise": lambda f: bytes(range(256)) * 4,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_host_that_talks_nonsense_costs_an_error_and_nothing_else(tmp_path, lie):
    def tell(peer, memory, frame):
        peer.sendall(lie(frame))
        hang_up(peer, memory, frame)

    for result in asked(tmp_path / "h", tell):
        assert isinstance(result, FlyballError), result


def test_the_memory_of_a_connection_cannot_be_cut_off_under_the_worker(tmp_path):
    tried = []

    def shrink(peer, memory, frame):
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(memory.fd, 0)
        tried.append(memory.request(frame.slot, frame.shape).tolist())
        peer.sendall(pack_error(frame.slot, frame.number, FlyballError("cannot")))

    assert [str(r) for r in asked(tmp_path / "h", shrink)] == ["cannot", "cannot"]
    assert tried == [[[1.0, 1.0, 1.0]]] * 2


def test_one_death_is_one_failure_of_the_node_and_only_of_a_row_the_model_had_begun(tmp_path):
    def die(peer, memory, frame):
        memory.take(frame.slot, frame.number)

    first, second = asked(tmp_path / "h", die)
    assert isinstance(first, PeerGone)
    assert isinstance(second, PeerGone)
    assert (first.sent, second.sent) == (True, False)


def test_rows_that_only_queued_say_nothing_about_the_model_when_its_host_dies(tmp_path):
    results = asked(tmp_path / "h", lambda *_: None)
    assert [r.sent for r in results] == [False, False]


def test_a_worker_that_went_away_costs_the_host_nothing(tmp_path):
    server = RingServer(tmp_path / "h")
    server.start()

    async def leave():
        client = RingClient(tmp_path / "h", name="the host")
        asking = asyncio.create_task(client.ask(Kind.PREDICT, np.ones((2, 2)), soon()))
        asks = []
        while not asks:
            asks = await asyncio.to_thread(server.wait, 1.0)
        client.close()
        with pytest.raises(PeerGone):
            await asking
        return asks

    asks = asyncio.run(leave())
    server.wait(0.1)
    server.answer(asks[0], np.ones(2))
    server.fail(asks[0], FlyballError("late"))
    server.close()


def test_too_many_unanswered_requests_are_an_error_at_once(tmp_path):
    server = RingServer(tmp_path / "h")
    server.start()

    async def main():
        client = RingClient(tmp_path / "h", name="the host")
        for _ in range(SLOTS):
            with pytest.raises(DeadlineExceeded):
                await client.ask(Kind.PREDICT, np.ones((1, 1)), soon(0.001))
        with pytest.raises(DeadlineExceeded, match="earlier requests"):
            await client.ask(Kind.PREDICT, np.ones((1, 1)), soon(30))
        client.close()

    asyncio.run(main())
    server.close()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=120), max_size=8))
def test_any_bytes_are_frames_or_an_error(chunks):
    frames = Frames(largest=1 << 16)
    with contextlib.suppress(IntegrityError):
        for chunk in chunks:
            for frame in frames.feed(chunk):
                assert frame.slot < SLOTS
                assert len(frame.shape) <= 3


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, SLOTS - 1), st.binary(max_size=50)), max_size=10), st.integers(1, 70))
def test_frames_come_whole_however_the_bytes_are_cut(messages, step):
    sent = b"".join(
        pack(Kind.BYTES, slot, k, size=len(payload)) + payload for k, (slot, payload) in enumerate(messages)
    )
    frames, got = Frames(), []
    for at in range(0, len(sent), step):
        got += frames.feed(sent[at : at + step])
    assert [(f.slot, f.payload) for f in got] == messages
    assert [f.number for f in got] == list(range(len(messages)))


def test_only_what_means_the_same_here_keeps_its_class():
    def told(error):
        (frame,) = Frames().feed(pack_error(0, 1, error))
        return error_of(frame.payload)

    assert type(told(DeadlineExceeded("late"))) is DeadlineExceeded
    assert type(told(IntegrityError("changed"))) is IntegrityError
    assert type(told(BadRequest("no"))) is FlyballError
    assert str(told(ZeroDivisionError("x"))) == "ZeroDivisionError: x"


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize("error, told", [
    (Unspeakable(), "Unspeakable: "), (ValueError("half \ud800 a letter"), "ValueError: half ? a letter"),
])  # fmt: skip
def test_an_error_that_cannot_be_said_is_told_all_the_same(error, told):
    (frame,) = Frames().feed(pack_error(0, 1, error))
    assert str(error_of(frame.payload)) == told
