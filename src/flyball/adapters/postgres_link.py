"""One connection to PostgreSQL with prepared statements, asked and read without cursors.

The surprise: a connection that missed its time is closed, not reused. The server would still send the answer, and it
would be taken for the answer to the next question.
"""

from __future__ import annotations

import select
import time
from dataclasses import dataclass
from typing import Any

from flyball.errors import ConflictError, FlyballError, MissingExtra, Unavailable

try:
    import psycopg
    from psycopg import pq
except ImportError as error:
    raise MissingExtra.of("the online store on PostgreSQL", "postgres") from error

__all__ = ["Link", "Statement", "failure"]

_SETTINGS = b"SET enable_seqscan = off; SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan"
_CONFLICTS = {"40001", "40P01", "55P03"}  # serialization, deadlock, lock not available
_CONNECT = 3  # seconds; libpq knows no finer


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement with `parameters` binary parameters; prepared when a connection meets it first."""

    sql: str
    parameters: int


class Link:
    """A connection; not for several threads at once."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._names: dict[Statement, bytes] = {}
        self._results: list[Any] = []
        self.broken = False
        self._pg.nonblocking = 1
        self.socket = self._pg.socket
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)

    @classmethod
    def open(cls, url: str) -> Link:
        """Connect.

        Raises:
            Unavailable: the server cannot be reached or refuses.
        """
        try:
            connection = psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT, prepare_threshold=None)
        except psycopg.ProgrammingError:  # it repeats the address, and the password in it
            raise Unavailable(
                "online.url is no address of PostgreSQL; write postgresql://USER:PASSWORD@HOST:PORT/NAME, with %25 for "
                "a % of the password and %40 for an @"
            ) from None
        except psycopg.Error as error:
            raise _away(error) from error
        link = cls(connection)
        link.script(_SETTINGS.decode())
        return link

    def script(self, sql: str, *, timeout: float = 30.0) -> None:
        """Run statements without parameters, in one transaction."""
        self._results = []
        self._guard(self._pg.send_query, sql.encode())
        self._wait(timeout)
        self.rows()

    def run(self, statement: Statement, arguments: list[bytes], *, timeout: float) -> list[Any]:
        """Return the rows as tuples of bytes.

        Raises:
            Unavailable: no answer in time, or the server failed.
            ConflictError: another writer was in the way; the same again may succeed.
        """
        self.send(statement, arguments, timeout=timeout)
        self._wait(timeout)
        return self.rows()

    def send(self, statement: Statement, arguments: list[bytes], *, timeout: float) -> None:
        """Send a question; `advance` until it says 0, then take `rows`. A new statement is prepared first."""
        name = self._names.get(statement)
        if name is None:
            name = self.prepare(statement, timeout=timeout)
        self._results = []
        self._guard(self._pg.send_query_prepared, name, arguments, [1] * len(arguments), 1)

    def advance(self) -> int:
        """Move on without waiting; return the poll events to wait for, 0 when the answer is whole."""
        pg = self._pg
        try:
            if pg.flush():
                return select.POLLIN | select.POLLOUT
            pg.consume_input()
            while not pg.is_busy():
                result = pg.get_result()
                if result is None:
                    return 0
                self._results.append(result)
        except psycopg.Error as error:
            self.close()
            raise _away(error) from error
        return select.POLLIN

    def rows(self) -> list[Any]:
        """Return the rows of the answer, or raise what the server said."""
        result = self._results[-1]
        for one in self._results:
            if one.status not in {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}:
                raise self._failed(one)
        get, width = result.get_value, result.nfields
        if width == 2:
            return [(get(i, 0), get(i, 1)) for i in range(result.ntuples)]
        return [tuple(get(i, k) for k in range(width)) for i in range(result.ntuples)]

    def late(self, timeout: float) -> Unavailable:
        """Close, and return the error that says why."""
        self.close()
        return Unavailable(f"PostgreSQL, the online store, gave no answer within {timeout:g} s; is it overloaded?")

    def ended(self) -> bool:
        """Whether the other side has hung up on this idle connection."""
        return self.broken or bool(self._poll.poll(0))  # nobody asked anything: what comes now is a farewell

    def close(self) -> None:
        """Hang up."""
        self.broken = True
        self._pg.finish()

    def prepare(self, statement: Statement, *, timeout: float) -> bytes:
        """Prepare a statement, which waits for the server; return its name."""
        name = b"f%d" % len(self._names)
        self._results = []
        self._guard(self._pg.send_prepare, name, statement.sql.encode())
        self._wait(timeout)
        self.rows()
        self._names[statement] = name
        return name

    def _wait(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        while True:
            wanted = self.advance()
            if wanted == 0:
                return
            left = until - time.monotonic()
            if left <= 0:
                raise self.late(timeout)
            self._poll.modify(self.socket, wanted)
            self._poll.poll(left * 1000)
            self._poll.modify(self.socket, select.POLLIN)

    def _guard(self, send: Any, *arguments: Any) -> None:
        try:
            send(*arguments)
        except psycopg.Error as error:
            self.close()
            raise _away(error) from error

    def _failed(self, result: Any) -> FlyballError:
        error = failure(result)
        if self._pg.status != pq.ConnStatus.OK:
            self.close()
        return error


def failure(result: Any) -> FlyballError:
    """Return the error that a failed result means."""
    code = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    text = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message or b"").decode().strip()
    if code in _CONFLICTS:
        return ConflictError(f"PostgreSQL, the online store, took another writer first: {text}")
    if code == "42P01":
        return Unavailable(
            "the online store's table is not there yet; ingest makes it, run flyball apply or flyball up"
        )
    return Unavailable(f"PostgreSQL, the online store, failed: {text}")


def _away(error: Exception) -> Unavailable:
    lines = str(error).strip().splitlines()
    return Unavailable(
        f"PostgreSQL, the online store, cannot be reached: {lines[0] if lines else type(error).__name__}"
    )
