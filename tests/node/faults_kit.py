"""Clients of a node that faults are tried on: many at once on one event loop, and short ways to ask one thing.

The surprise: the clients speak HTTP/1.1 by hand over asyncio streams. 64 threads would measure their own switching, and
what a library repairs in silence (a reset connection tried again) is just what must be seen here.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flyball.adapters.local.running import Running

PATH = "/v2/models/eta/infer"


def body_of(miles: float, **parameters: Any) -> bytes:
    """Return a V2 request for one row."""
    inputs = [{"name": "miles", "shape": [1], "datatype": "FP64", "data": [miles]}]
    return json.dumps({"inputs": inputs, "parameters": parameters}).encode()


def request_of(body: bytes, path: str = PATH, *headers: str) -> bytes:
    """Return a POST as it goes over the line."""
    more = "".join(f"{line}\r\n" for line in headers)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{more}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def ask(
    running: Running, path: str, body: Any = None, *, control: bool = False, timeout: float = 20.0
) -> tuple[int, Any]:
    """GET, or POST where there is a body; return status and the JSON document (or text)."""
    host, port = (running.control_host, running.control_port) if control else (running.host, running.port)
    there = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        there.request("GET" if data is None else "POST", path, data, {"content-type": "application/json"})
        answer = there.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text.decode()
    finally:
        there.close()


def health(running: Running) -> str:
    """Return what the gateway's health says, "" when it cannot be reached."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return str(ask(running, "/health")[1]["status"])
    return ""


def metrics(running: Running) -> dict[str, float]:
    """Return all samples of /metrics by name and labels."""
    lines = [line for line in ask(running, "/metrics")[1].splitlines() if line and line[0] != "#"]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def totals(running: Running) -> dict[str, float]:
    """Return the samples that may only grow."""
    ends = ("_total", "_count", "_bucket", "_sum")
    return {k: v for k, v in metrics(running).items() if k.partition("{")[0].endswith(ends)}


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read one answer: status, headers, body; IncompleteReadError when the connection ended first."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
    return int(head[0].split(" ")[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


@dataclass
class Callers:
    """So many callers on kept connections, each asking again as soon as it was answered; `wrong` keeps what is odd.

    A caller that is told `connection: close` connects again, which is no fault. One answered less is: a reset, an end
    of the connection in the middle, a refused connection.
    """

    running: Running
    count: int = 64
    make: Callable[[float, str], bytes] = lambda miles, unit: body_of(miles, unit=unit)
    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[tuple[str, float]] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)  # of the features: "", "stale", "defaulted"
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    retry_after: int = 0  # refusals that said when to come again
    asked: int = 0
    slowest: float = 0.0
    closed: int = 0  # connections that the server closed in good order

    async def __aenter__(self) -> Callers:
        self._ending = False
        self._tasks = [asyncio.create_task(self._caller(k)) for k in range(self.count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        await asyncio.gather(*self._tasks)

    @property
    def answered(self) -> int:
        """Answers so far."""
        return self.statuses.total()

    async def more(self, count: int, seconds: float = 60.0) -> None:
        """Wait for that many more answers."""
        goal, end = self.answered + count, time.monotonic() + seconds
        while self.answered < goal:
            assert time.monotonic() < end, f"{self.answered} of {goal} answers; {self.statuses} {self.wrong[:3]}"
            await asyncio.sleep(0.005)

    async def _caller(self, k: int) -> None:
        while not self._ending:
            try:
                reader, writer = await asyncio.open_connection(self.running.host, self.running.port)
            except OSError as error:
                self.wrong.append(f"connect: {error!r}")
                return
            try:
                await self._talk(reader, writer, k)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.wrong.append(f"request: {error!r}")
            finally:
                writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, k: int) -> None:
        while not self._ending:
            self.asked += 1
            miles = float(self.asked)
            started = time.monotonic()
            writer.write(request_of(self.make(miles, f"u{k}-{self.asked}")))
            status, headers, data = await answer_of(reader)
            self.slowest = max(self.slowest, time.monotonic() - started)
            self._note(status, headers, data, miles)
            if headers.get("connection") == "close":
                self.closed += 1
                return

    def _note(self, status: int, headers: dict[str, str], data: bytes, miles: float) -> None:
        self.statuses[status] += 1
        if status == 200:
            answer = json.loads(data)
            self.versions[answer["model_version"], round(answer["outputs"][0]["data"][0] / miles, 9)] += 1
            self.states[answer["parameters"].get("features", "")] += 1
            return
        self.errors[json.loads(data)["error"]] += 1
        after = headers.get("retry-after", "0")
        self.retry_after += after.isdigit() and int(after) > 0


class PostgresServer:
    """A PostgreSQL of one's own, to be stopped and started again on its data."""

    def __init__(self) -> None:
        pytest.importorskip("psycopg")
        pgserver = pytest.importorskip("pgserver")
        self._folder = tempfile.TemporaryDirectory(prefix="fb-pg-", ignore_cleanup_errors=True)
        self._server = pgserver.get_server(self._folder.name, cleanup_mode=None)
        self.url = str(self._server.get_uri())

    def stop(self) -> None:
        """End it as a crash would: connections are cut."""
        from pgserver._commands import pg_ctl

        pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=self._server.pgdata, user=self._server.system_user)

    def start(self) -> None:
        """Start it on the data it had."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """End it and remove its data."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.stop()
        self._folder.cleanup()


class Up:
    """`flyball up` as a user runs it, with what it says on stderr."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-c", "from flyball.cli import main; main()", "up", "-p", str(folder), *arguments]
        self._said = (folder / "up.log").open("w+")
        self.process = subprocess.Popen(command, stdout=self._said, stderr=self._said, env=env)

    @property
    def said(self) -> str:
        """What it has said so far."""
        self._said.seek(0)
        return self._said.read()

    def end(self) -> int:
        """End it by SIGTERM; return its exit code."""
        self.process.terminate()
        code = self.process.wait(40)
        self._said.close()
        return code
