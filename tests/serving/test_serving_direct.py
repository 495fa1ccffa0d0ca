"""A request that came whole is answered without a task; what it is answered is what ASGI would have answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from serving_kit import Kit, double, infer_body, table
from test_serving_bad_input import BODIES, INFER, PAIR, TWO, binary

from flyball.node.connection import Limits
from flyball.node.http import GracefulServer
from flyball.serving.http.access import AccessFile
from flyball.serving.http.front import Front

KEY = b"secret"
GOOD = json.dumps(infer_body()).encode()


class Servers:
    """One gateway behind two sockets: `direct` as in a worker, `asgi` with nothing but ASGI between."""

    def __init__(self, kit: Kit, folder: Path, **options: Any) -> None:
        front = Front(key=KEY, access=AccessFile(folder / "none"), origins=("https://shop.example",))
        self.gateway = kit.gateway(front=front, **options)
        self.kit = kit
        self.ways: list[str] = []  # how each request came to the gateway
        self.left = 0
        respond = self.gateway.respond

        def seen(scope: Any, arrives: Any) -> Any:
            self.ways.append("direct" if isinstance(arrives, bytes) else "asgi")
            return respond(scope, arrives)

        self.gateway.respond = seen  # type: ignore[method-assign]
        self._socks = {name: socket.create_server(("127.0.0.1", 0)) for name in ("direct", "asgi")}
        self.address = {name: sock.getsockname() for name, sock in self._socks.items()}
        self._ready = threading.Barrier(2)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.wait(20)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self.gateway.swap(table(1, self.kit.ref("v1"), deadline=9.0))

        async def plain(scope: Any, receive: Any, send: Any) -> None:
            await self.gateway(scope, receive, send)

        limits = Limits(cancel=True, left=self._leave)
        self.servers = [GracefulServer(app, drain=2.0, limits=limits) for app in (self.gateway, plain)]
        started = [asyncio.Event() for _ in self.servers]
        runs = []
        for server, sock, event in zip(self.servers, self._socks.values(), started, strict=True):
            sock.setblocking(False)
            server.when_started(event.set)
            runs.append(asyncio.create_task(server.run(sock)))
        for event in started:
            await event.wait()
        self._ready.wait(20)
        await asyncio.gather(*runs)
        await self.gateway.close(drain=1.0)

    def _leave(self) -> None:
        self.left += 1

    def close(self) -> None:
        for server in self.servers:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(server.end)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def connect(self, way: str = "direct") -> socket.socket:
        return socket.create_connection(self.address[way], timeout=10)


def soon(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "the condition did not come true in time"
        time.sleep(0.001)


def sent(body: bytes, headers: dict[str, str] | None = None, path: str = INFER, method: str = "POST") -> bytes:
    given = {"host": "x", "content-type": "application/json", "authorization": f"Bearer {KEY.decode()}"}
    given |= {"content-length": str(len(body))} | (headers or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def answer(sock: socket.socket, rest: bytearray | None = None) -> bytes:
    """Return one answer's bytes; ids that differ from request to request are made equal."""
    data = bytearray() if rest is None else rest
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        assert part, bytes(data)
        data += part
    end = data.index(b"\r\n\r\n") + 4
    found = re.search(rb"content-length: (\d+)", bytes(data[:end]))
    assert found is not None, bytes(data)
    while len(data) < end + int(found[1]):
        data += sock.recv(65536)
    whole = bytes(data[: end + int(found[1])])
    del data[: len(whole)]
    whole = re.sub(rb'("prediction_id":|"id":)"[^"]*"', rb'\1"-"', whole)
    return re.sub(rb"(x-request-id: )[0-9a-f]{32}", rb"\1-", whole)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("direct")
    made = Servers(Kit(folder, v1=double), folder, max_body=400_000, max_rows=50)
    yield made
    made.close()


def both(servers: Servers, request: bytes, *, way: str = "direct") -> bytes:
    """Return the answer to a request, which is the same both ways, and after which the connection still serves."""
    found = {}
    for name in ("direct", "asgi"):
        with servers.connect(name) as sock:
            servers.ways.clear()
            sock.sendall(request)
            found[name] = answer(sock)
            assert servers.ways in ([way if name == "direct" else "asgi"], [])
            sock.sendall(sent(GOOD))
            assert b'"data":[4.0]' in answer(sock)
    assert found["direct"] == found["asgi"]
    return found["direct"]


@pytest.mark.parametrize("body", [b[1] for b in BODIES], ids=[b[0] for b in BODIES])
def test_a_bad_body_is_answered_alike_both_ways(servers: Servers, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = {}
    for way in ("direct", "asgi"):  # a body of several packets goes either way, as it arrives
        with servers.connect(way) as sock:
            sock.sendall(sent(content))
            found[way] = answer(sock)
            sock.sendall(sent(GOOD))
            assert b'"data":[4.0]' in answer(sock)
    assert found["direct"] == found["asgi"]
    assert found["direct"].startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 "))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (sent(GOOD), 200),
        (sent(GOOD, path="/v2/models/eta/versions/v1/infer"), 200),
        (sent(json.dumps(infer_body(unit="u-1")).encode(), {"x-request-id": "mine"}), 200),
        (sent(GOOD, {"x-request-id": "m\tine", "origin": "https://shop.example"}), 200),
        (sent(GOOD, {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}), 200),
        (sent(GOOD, {"authorization": "Bearer no"}), 401),
        (sent(GOOD, {"content-type": "text/plain"}), 415),
        (sent(GOOD, {"content-encoding": "gzip"}), 415),
        (sent(binary(PAIR, *TWO)[0], binary(PAIR, *TWO)[1]), 200),
        (sent(json.dumps(infer_body() | {"outputs": [{"name": "prediction", "parameters": {"binary_data": True}}]})
              .encode()), 200),
        (sent(b"17\r\n" + GOOD[:23] + b"\r\n%x\r\n" % len(GOOD[23:]) + GOOD[23:] + b"\r\n0\r\n\r\n",
              {"transfer-encoding": "chunked"}).replace(b"content-length", b"x-length"), 200),
    ],
)  # fmt: skip
def test_every_form_is_answered_alike_both_ways(servers: Servers, request_: bytes, status: int) -> None:
    assert both(servers, request_).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (sent(GOOD, path=INFER + "?a=b"), 200),
        (sent(GOOD, path="/v2/models/%65ta/infer"), 200),
        (sent(GOOD, path="/v2/models/none/infer"), 404),
        (sent(b"", method="GET"), 405),
        (sent(b"", method="GET", path="/v2/health/live"), 200),
    ],
)
def test_what_is_not_plain_goes_through_asgi(servers: Servers, request_: bytes, status: int) -> None:
    assert both(servers, request_, way="asgi").startswith(b"HTTP/1.1 %d " % status)


def test_a_body_in_parts_goes_through_asgi(servers: Servers) -> None:
    whole = sent(GOOD)
    with servers.connect() as sock:
        servers.ways.clear()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(whole[:-30])
        soon(lambda: bool(servers.ways))  # it has begun before the body is whole
        sock.sendall(whole[-30:])
        assert b'"data":[4.0]' in answer(sock)
        assert servers.ways == ["asgi"]
        sock.sendall(whole)
        assert b'"data":[4.0]' in answer(sock)
        assert servers.ways == ["asgi", "direct"]


def test_requests_sent_together_are_answered_in_order_and_leave_turns_to_others(servers: Servers) -> None:
    with servers.connect() as sock:
        servers.ways.clear()
        sock.sendall(b"".join(sent(json.dumps(infer_body(float(k))).encode()) for k in range(6)))
        rest = bytearray()
        assert [b'"data":[%.1f]' % (2.0 * k) in answer(sock, rest) for k in range(6)] == [True] * 6
        assert servers.ways == ["direct"] + ["asgi"] * 5  # one directly for each read


def test_who_asks_to_be_left_or_to_be_told_to_go_on_gets_that(servers: Servers) -> None:
    with servers.connect() as sock:
        sock.sendall(sent(GOOD, {"connection": "close"}))
        assert b"connection: close" in answer(sock)
        assert sock.recv(10) == b""
    with servers.connect() as sock:
        sock.sendall(sent(GOOD, {"expect": "100-continue"}))
        assert sock.recv(9) == b"HTTP/1.1 "


def test_a_request_that_has_to_wait_is_answered_by_a_task_and_cancelled_when_its_caller_leaves(tmp_path: Path) -> None:
    go, asked = threading.Event(), threading.Event()

    def slow(matrix: np.ndarray) -> np.ndarray:
        if matrix[0, 0] == 9.0:
            asked.set()
            assert go.wait(10)
        return matrix[:, 0] * 2.0

    servers = Servers(Kit(tmp_path, v1=slow), tmp_path)
    try:
        batcher = servers.gateway.plans["eta"].champion.loaded.batcher
        batcher.costs.a = 0.002  # an expensive model runs on a thread, so its request suspends
        waits = sent(json.dumps(infer_body(9.0)).encode())
        with servers.connect() as sock, servers.connect() as gone:
            sock.sendall(waits)
            assert asked.wait(10)
            gone.sendall(waits)
            soon(lambda: len(servers.ways) == 2)
            gone.close()
            soon(lambda: servers.left == 1)
            go.set()
            assert b'"data":[18.0]' in answer(sock)
            sock.sendall(waits)
            assert b'"data":[18.0]' in answer(sock)
        assert servers.ways == ["direct"] * 3
    finally:
        go.set()
        servers.close()


def test_a_fault_below_the_gateway_is_a_500_and_the_next_request_is_answered(servers: Servers) -> None:
    respond = servers.gateway.respond

    async def fails(scope: Any, arrives: Any) -> Any:
        servers.gateway.respond = respond  # type: ignore[method-assign]
        raise RuntimeError("a fault")

    for way in ("direct", "asgi"):
        servers.gateway.respond = fails  # type: ignore[method-assign]
        with servers.connect(way) as sock:
            sock.sendall(sent(GOOD))
            assert b" 500 " in answer(sock)
        with servers.connect(way) as sock:
            sock.sendall(sent(GOOD))
            assert b'"data":[4.0]' in answer(sock)
