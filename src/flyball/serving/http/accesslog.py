"""The access log: one JSON line per request, written by a thread, with nothing personal in it.

A line says when, what was asked (the path's template, never the path or its query), what was answered and how long it
took, which model and version, the name of the key and the ids. The surprise: it gives way. When the disk does not keep
up, lines are dropped and counted, for a request must not wait for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from flyball.serving.http.handlers.routes import Routes

__all__ = ["AccessLog", "Line", "template"]

_WAITING = 20_000  # lines in memory at most
_EVERY = 0.2  # seconds between two writes
_ROTATE = 64 << 20  # bytes of a file; one older file is kept
_routes = Routes()


class Line(NamedTuple):
    """One request: `at` in ns since 1970, `took` in ns."""

    at: int
    method: str
    path: str
    status: int
    took: int
    received: int
    sent: int
    model: str = ""
    version: str = ""
    key: str = ""
    request: str = ""
    trace: str = ""


class AccessLog:
    """Take lines from one event loop and write them beside it.

    Args:
        path: The file; it is appended to, and moved aside when it is large.
        dropped: Called with the number of lines that were not written.
    """

    def __init__(self, path: Path, dropped: Callable[[int], None] = lambda n: None) -> None:
        self._path = path
        self._dropped = dropped
        self._lines: list[Line] = []
        self._end = threading.Event()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name="flyball-access-log", daemon=True)
        self._thread.start()

    def put(self, line: Line) -> None:
        """Take a line; never waits."""
        lines = self._lines
        if len(lines) >= _WAITING:
            self._dropped(1)
            return
        lines.append(line)

    def close(self) -> None:
        """Write what waits."""
        self._end.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._end.wait(_EVERY):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = self._lines
        count = len(lines)
        if not count:
            return
        taken = lines[:count]
        try:
            self._rotate()
            with self._path.open("ab") as file:
                file.write(b"".join(_text(line) for line in taken))
        except OSError:
            self._dropped(count)
        del lines[:count]  # one step of the interpreter, as append is: no lock is needed

    def _rotate(self) -> None:
        with suppress(FileNotFoundError):
            if self._path.stat().st_size > _ROTATE:
                self._path.replace(self._path.with_suffix(".log.1"))


def _text(line: Line) -> bytes:
    fields = {
        "at": datetime.fromtimestamp(line.at / 1e9, UTC).isoformat(timespec="milliseconds"),
        "method": line.method,
        "path": line.path,
        "status": line.status,
        "ms": round(line.took / 1e6, 3),
        "received": line.received,
        "sent": line.sent,
    }
    named = {"model": line.model, "version": line.version, "key": line.key, "request": line.request,
             "trace": line.trace}  # fmt: skip
    fields |= {name: value for name, value in named.items() if value}
    return msgspec.json.encode(fields) + b"\n"


def template(path: str) -> str:
    """Return a path with names in place of what callers chose: "/v2/models/{model}/infer"; "other" for unknown ones."""
    found = _routes.find(path)
    return "other" if found is None else next(iter(found[0].values())).path
