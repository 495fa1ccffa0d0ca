"""Connections that are held, torn, slow or too large: each ends, and the server goes on answering."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest
import uvloop

from flyball.node.connection import Limits
from flyball.node.http import GracefulServer
from flyball.serving.http.asgi import error_response, read_body, send_response
from flyball.serving.http.asgi import json as as_json

GOOD = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
MOST = 1_000_000


class Site:
    """An application on a real socket; `counts` are slow callers and callers who left."""

    def __init__(self, app, **limits) -> None:
        self.slow = self.left = 0
        self.cancelled = 0
        self._app = app
        self._limits = limits
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.address = self._sock.getsockname()
        self._sock.setblocking(False)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        options = {"slow": 0.3, "idle": 0.5, "cancel": True, "counted": self._count, "left": self._leave}
        self.server = GracefulServer(self._app, drain=2.0, limits=Limits(**(options | self._limits)))
        self.server.when_started(self._ready.set)
        await self.server.run(self._sock)

    def _count(self) -> None:
        self.slow += 1

    def _leave(self) -> None:
        self.left += 1

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.server.end)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.end()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def connect(self) -> socket.socket:
        sock = socket.create_connection(self.address, timeout=8)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def fine(self) -> bool:
        with self.connect() as sock:
            sock.sendall(GOOD)
            return answer(sock)[0] == 200


def answer(sock: socket.socket) -> tuple[int, dict[bytes, bytes], bytes]:
    """Read one whole answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        if not part:
            return 0, {}, data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
    while len(body) < int(headers.get(b"content-length", 0)):
        body += sock.recv(65536)
    return int(lines[0].split()[1]), headers, body


def ended(sock: socket.socket) -> bool:
    """Whether the server closed the connection (waits for it)."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return True


async def echo(scope, receive, send):
    try:
        body = await read_body(scope, receive, MOST)
        response = as_json({"bytes": len(body)})
    except Exception as error:
        response = error_response(error)
    await send_response(send, response)


@pytest.fixture
def site():
    made = []

    def make(app=echo, **limits):
        made.append(Site(app, **limits))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_request_on_a_kept_connection_is_answered_again_and_again(site):
    with site().connect() as sock:
        for _ in range(3):
            sock.sendall(GOOD)
            assert answer(sock) == (200, {b"content-type": b"application/json", b"content-length": b"11"},
                                    b'{"bytes":2}')  # fmt: skip


def test_pipelined_requests_are_answered_in_order(site):
    with site().connect() as sock:
        sock.sendall(b"".join(GOOD.replace(b": 2\r", b": %d\r" % n)[:-2] + b"x" * n for n in range(1, 6)))
        seen = b""
        while seen.count(b"bytes") < 5:
            seen += sock.recv(65536)
        assert [int(part.split(b"}")[0]) for part in seen.split(b'"bytes":')[1:]] == [1, 2, 3, 4, 5]


async def headers_seen(scope, receive, send):
    body = await read_body(scope, receive, MOST)
    await send_response(send, as_json({"bytes": len(body), "seen": [name.decode() for name, _ in scope["headers"]]}))


def test_trailers_do_not_pass_for_headers(site):
    head = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
    with site(headers_seen).connect() as sock:
        sock.sendall(head + b"2\r\n{}\r\n0\r\nx-api-key: forged\r\nx-flyball-arm: candidate\r\n\r\n")
        status, _, body = answer(sock)
        assert (status, body) == (200, b'{"bytes":2,"seen":["host","transfer-encoding"]}')
        sock.sendall(b"POST / HTTP/1.1\r\nx-api-key: mine\r\ncontent-length: 0\r\n\r\n")
        assert answer(sock)[2] == b'{"bytes":0,"seen":["x-api-key","content-length"]}'


@pytest.mark.parametrize("cut", [0, 40, 105, 150])
def test_a_request_that_offers_another_protocol_is_read_whole_and_so_are_those_after_it(site, cut):
    asked = (
        b"POST / HTTP/1.1\r\nhost: h\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\ncontent-length: 5\r\n\r\n12345"
    )
    with site().connect() as sock:
        for _ in range(2):
            sock.sendall(asked[:cut])
            sock.sendall(asked[cut:] + asked + GOOD)
            seen = b""
            while seen.count(b"bytes") < 3:
                part = sock.recv(65536)
                assert part, seen
                seen += part
            assert [int(part.split(b"}")[0]) for part in seen.split(b'"bytes":')[1:]] == [5, 5, 2]


def test_headers_that_come_byte_by_byte_end_with_408(site):
    here = site()
    with here.connect() as sock:
        start = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in GOOD[:60] * 100:
                sock.send(bytes([byte]))
                if time.monotonic() - start > 1.5:
                    break
                if here.slow:
                    break
                time.sleep(0.01)
        status, headers, body = answer(sock)
        assert (status, headers[b"connection"]) == (408, b"close")
        assert "did not come within 0.3 s" in json.loads(body)["error"]
        assert ended(sock)
    assert here.slow == 1
    assert here.fine()


def test_a_stalled_body_ends_with_408(site):
    here = site()
    with here.connect() as sock:
        sock.sendall(GOOD[:-1])
        status, headers, body = answer(sock)
        assert (status, headers[b"connection"]) == (408, b"close")
        assert "error" in json.loads(body)
        assert ended(sock)
    assert here.fine()


def test_a_connection_that_sends_nothing_ends(site):
    here = site()
    with here.connect() as sock:
        assert ended(sock)
    assert here.fine()


def test_an_idle_connection_ends(site):
    with site().connect() as sock:
        sock.sendall(GOOD)
        assert answer(sock)[0] == 200
        assert sock.recv(10) == b""


def test_a_working_application_is_not_hurried(site):
    async def slow(scope, receive, send):
        await asyncio.sleep(1.0)
        await echo(scope, receive, send)

    with site(slow).connect() as sock:
        sock.sendall(GOOD)
        assert answer(sock)[0] == 200


def test_a_head_without_an_end_gets_431_before_it_is_whole(site):
    here = site(head=4096)
    for start in (b"GET /", b"GET / HTTP/1.1\r\nx-long: "):
        with here.connect() as sock:
            with contextlib.suppress(OSError):
                sock.sendall(start + b"a" * 8192)
            status, _, body = answer(sock)
            assert status == 431, body
            assert ended(sock)
    assert here.fine()


def test_trailers_without_an_end_get_431(site):
    here = site(head=4096)
    with here.connect() as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-long: ")
        with contextlib.suppress(OSError):
            for _ in range(20):  # what comes with the body in one piece is not counted
                sock.sendall(b"a" * 1024)
                time.sleep(0.005)
        assert answer(sock)[0] == 431
    assert here.fine()


def test_too_many_headers_get_431(site):
    here = site(headers=20)
    with here.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: 1\r\n" % k for k in range(30)) + b"\r\n")
        status, _, body = answer(sock)
        assert (status, json.loads(body)["error"]) == (431, "there are more than 20 headers; send fewer")
    assert here.fine()


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello\r\n\r\n",
                                  b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n", b"POST x HTTP/1.1\r\nhost: a\r\n\r\n"])  # fmt: skip
def test_what_is_no_http_gets_400_as_json(site, junk):
    here = site()
    with here.connect() as sock:
        sock.sendall(junk)
        status, _, body = answer(sock)
        assert status == 400
        assert "error" in json.loads(body)
        assert ended(sock)
    assert here.fine()


@pytest.mark.parametrize("length", [True, False])
def test_an_oversize_body_gets_413_before_it_was_sent_whole(site, length):
    here = site()
    total = 400 * MOST
    kind = b"content-length: %d" % total if length else b"transfer-encoding: chunked"
    with here.connect() as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\n" + kind + b"\r\n\r\n")
        block = b"x" * 65536 if length else b"10000\r\n" + b"x" * 65536 + b"\r\n"
        sock.setblocking(False)
        sent, seen, until = 0, b"", time.monotonic() + 5
        while b"\r\n\r\n{" not in seen and time.monotonic() < until and sent < total:
            with contextlib.suppress(BlockingIOError):
                sent += sock.send(block)
            with contextlib.suppress(BlockingIOError):
                seen += sock.recv(65536)
        assert seen.startswith(b"HTTP/1.1 413 "), seen[:100]
        assert b"connection: close" in seen
        assert sent < 30 * MOST
    assert here.fine()


def test_a_caller_who_never_reads_is_cut_off(site):
    async def much(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    here = site(much)
    with here.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(GOOD)
        until = time.monotonic() + 5
        while here.slow == 0 and time.monotonic() < until:
            time.sleep(0.02)
        assert here.slow == 1


def test_what_is_done_for_a_caller_who_left_is_cancelled(site):
    seen = []

    async def wait(scope, receive, send):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    here = site(wait)
    sock = here.connect()
    sock.sendall(GOOD)
    time.sleep(0.1)
    sock.close()
    until = time.monotonic() + 5
    while not seen and time.monotonic() < until:
        time.sleep(0.01)
    assert seen == ["cancelled"]
    assert here.left == 1


def test_a_half_closed_connection_ends(site):
    here = site()
    with here.connect() as sock:
        sock.sendall(GOOD[:-1])
        sock.shutdown(socket.SHUT_WR)
        assert ended(sock)
    assert here.fine()


def test_an_application_that_raises_gives_500_and_the_connection_may_go_on(site):
    async def broken(scope, receive, send):
        raise ValueError("no")

    with site(broken).connect() as sock:
        sock.sendall(GOOD)
        assert answer(sock)[0] == 500


def test_a_line_break_in_a_header_of_an_answer_is_refused(site):
    async def split(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nset-cookie: b")]})

    with site(split).connect() as sock:
        sock.sendall(GOOD)
        assert b"set-cookie" not in answer(sock)[2]


def test_the_end_answers_what_is_at_hand_what_comes_on_idle_connections_and_what_waits(site):
    gate = threading.Event()

    async def held(scope, receive, send):
        while not gate.is_set():
            await asyncio.sleep(0.005)
        await echo(scope, receive, send)

    here = site(held)
    idle, busy = here.connect(), here.connect()
    gate.set()
    idle.sendall(GOOD)
    assert answer(idle)[0] == 200
    gate.clear()
    busy.sendall(GOOD)
    time.sleep(0.05)
    here.end()
    late = here.connect()  # still in the queue of the kernel, or accepted just now
    late.sendall(GOOD)
    idle.sendall(GOOD)
    time.sleep(0.15)
    gate.set()
    for sock in (idle, busy, late):
        status, headers, _ = answer(sock)
        assert (status, headers.get(b"connection")) == (200, b"close")
        assert sock.recv(1) == b""
        sock.close()
