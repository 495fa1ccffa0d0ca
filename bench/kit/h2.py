"""A closed-loop gRPC client of one method, on bare sockets: what is measured is the server, not grpcio's client.

Each connection speaks just enough HTTP/2 (RFC 9113) for one unary call after another: headers written once as HPACK
literals, windows opened to a gibibyte at the start, pings and settings acknowledged. The surprise: the answer's headers
are never decoded. A call that failed carries no message, so a DATA frame before the end of its stream is success.

    python bench/kit/h2.py SPEC.json      {"port", "path", "message" (hex), "headers", "clients", "seconds"}
"""

from __future__ import annotations

import json
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PATH = "/inference.GRPCInferenceService/ModelInfer"
WARM = 0.3
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes((kind, flags)) + struct.pack("!I", stream) + payload


def literal(name: str, value: str) -> bytes:
    """Return a header field as an HPACK literal that no table remembers; both texts below 127 bytes."""
    a, b = name.encode(), value.encode()
    return b"\x00" + bytes((len(a),)) + a + bytes((len(b),)) + b


class Connection:
    """One HTTP/2 connection with one call under way."""

    def __init__(self, port: int, path: str, message: bytes, headers: Mapping[str, str]) -> None:
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "bench", "te": "trailers",
                  "content-type": "application/grpc", **headers}  # fmt: skip
        self.head = b"".join(literal(k, v) for k, v in fields.items())
        self.body = b"\x00" + struct.pack("!I", len(message)) + message
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        window = struct.pack("!HI", 4, 1 << 30)  # SETTINGS_INITIAL_WINDOW_SIZE
        self.sock.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, window)
            + frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", (1 << 30) - 65_535))
        )  # fmt: skip
        self.stream, self.parts, self.got, self.sent = -1, b"", False, 0

    def ask(self, now: int) -> None:
        self.stream += 2
        self.sent, self.got = now, False
        self.sock.sendall(
            frame(HEADERS, END_HEADERS, self.stream, self.head) + frame(DATA, END_STREAM, self.stream, self.body)
        )

    def take(self) -> bool | None:
        """Read what is there; return whether the call succeeded once it is over, else None."""
        got = self.sock.recv(65536)
        if not got:
            raise ConnectionError("the server closed a connection")
        buffer, at, done = self.parts + got, 0, None
        while len(buffer) - at >= 9:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            payload = buffer[at + 9 : at + 9 + length]
            at += 9 + length
            if kind == DATA:
                self.got = self.got or length > 5
            elif kind in {SETTINGS, PING} and not flags & ACK:
                self.sock.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind == GOAWAY:
                raise ConnectionError("the server said good-bye")
            if kind == RST_STREAM or (kind in {HEADERS, DATA} and flags & END_STREAM):
                done = self.got and kind == HEADERS
        self.parts = buffer[at:]
        return done


def closed(
    port: int, path: str, message: bytes, headers: Mapping[str, str], clients: int, seconds: float
) -> dict[str, Any]:
    """Ask as fast as the answers come; return calls per second, latencies in ms and failures."""
    poll, clock = select.epoll(), time.perf_counter_ns
    links = {}
    for _ in range(clients):
        link = Connection(port, path, message, headers)
        poll.register(link.sock.fileno(), select.EPOLLIN)
        links[link.sock.fileno()] = link
    begin = now = clock()
    start, end = begin + int(WARM * 1e9), begin + int((WARM + seconds) * 1e9)
    latencies, failed = [], 0
    for link in links.values():
        link.ask(now)
    while now < end:
        for fd, _ in poll.poll(0.5):
            link = links[fd]
            done = link.take()
            if done is None:
                continue
            now = clock()
            if now >= start:
                if done:
                    latencies.append(now - link.sent)
                else:
                    failed += 1
            link.ask(now)
        now = clock()
    latencies.sort()
    n = len(latencies)
    return {"rps": n / seconds, "failed": failed, "p50_ms": latencies[n // 2] / 1e6 if n else 0.0,
            "p99_ms": latencies[int(n * 0.99)] / 1e6 if n else 0.0}  # fmt: skip


# -- protobuf by hand: the few fields of ModelInferRequest ------------------------------------------------------------


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def infer(model: str, row: Sequence[float], *, output: str = "") -> bytes:
    """Return a ModelInferRequest of one FP64 tensor [1, n] as raw contents; asks for an output by name when given."""
    shape = varint(1) + varint(len(row))
    tensor = field(1, b"input") + field(2, b"FP64") + field(3, shape)
    wanted = field(6, field(1, output.encode())) if output else b""
    return field(1, model.encode()) + field(5, tensor) + wanted + field(7, struct.pack(f"<{len(row)}d", *row))


def drive(port: int, message: bytes, *, headers: Mapping[str, str], clients: int, seconds: float) -> dict[str, Any]:
    """Run the closed loop in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"port": port, "path": PATH, "message": message.hex(), "headers": dict(headers),
                   "clients": clients, "seconds": seconds}, file)  # fmt: skip
        file.flush()
        done = subprocess.run([sys.executable, str(Path(__file__).resolve()), file.name], capture_output=True,
                              text=True, check=False, timeout=60 + 4 * seconds)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the gRPC client ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    given["message"] = bytes.fromhex(given["message"])
    print(json.dumps(closed(**given)))
