"""Put concurrent pushes into groups, so that many share the price of one sync.

The surprise: nothing is waited for. While one commit runs, pushes queue; the next takes what is there, up to a bound.
So one pusher gets the shortest time, and many get the largest groups.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import msgspec

from flyball.adapters.local.measures import Measures
from flyball.errors import Busy, FlyballError, Unavailable, UnknownName
from flyball.features.pushes import Batch

__all__ = ["Commits", "plain"]

_GROUP = 256  # pushes in one commit at most
_GROUP_ROWS = 16_384  # rows in one commit, unless one push has more
_MOST_ROWS = 200_000  # rows that may wait for their commit; more are refused, and asked for again later
_ROOM = 20_000  # rows that may wait while streams are polled
_POLL = 0.005  # seconds between two looks at the queue


@dataclass(slots=True)
class _Push:
    batch: Batch  # without an arrival it is stamped when it is committed, with when readers will see it
    answer: asyncio.Future[dict[str, Any]]

    @property
    def rows(self) -> int:
        return len(self.batch.rows) if isinstance(self.batch.rows, list) else 0


class Commits:
    """The queue of pushes and the loop that commits it.

    Args:
        commit: Commits a group on the writing thread; one result or error per push.
        now: Domain time in µs.
        measures: Where its numbers go.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Batch]], Awaitable[list[Any]]],
        *,
        now: Callable[[], int],
        measures: Measures,
    ) -> None:
        self._commit = commit
        self._now = now
        self._measures = measures
        self._queue: list[_Push] = []
        self._wake = asyncio.Event()
        self.waiting = 0  # rows in the queue
        self.pushes = 0
        self.groups = 0

    def __len__(self) -> int:
        """Return how many pushes wait."""
        return len(self._queue)

    async def take(self, batch: Batch) -> dict[str, Any]:
        """Return what became of a push when its rows are readable.

        Raises:
            Busy: too much waits already.
        """
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        push = _Push(batch, answer)
        if self.waiting and self.waiting + push.rows > _MOST_ROWS:
            self._measures.count("flyball_ingest_refused_total", help="Pushes refused because too much waited.")
            raise Busy(f"{self.waiting} rows wait to be written already, at most {_MOST_ROWS} may; send these later")
        self._queue.append(push)
        self.waiting += push.rows
        self._wake.set()
        return await answer

    async def room(self) -> None:
        """Return when few rows wait; streams are not polled before."""
        while self.waiting > _ROOM:
            await asyncio.sleep(_POLL)

    async def drained(self) -> None:
        """Return when every push so far is with the writing thread."""
        while self._queue:
            await asyncio.sleep(_POLL)

    async def run(self) -> None:
        """Commit group after group, for ever."""
        while True:
            await self._wake.wait()
            group = self._next_group()
            if group:
                self.groups += 1
                self.pushes += len(group)
                began = time.monotonic()
                results = await self._commit([push.batch for push in group])
                self._measure(group, results, time.monotonic() - began)
                for push, result in zip(group, results, strict=True):
                    self._settle(push, result)

    def _next_group(self) -> list[_Push]:
        end = rows = 0
        while end < min(len(self._queue), _GROUP) and (not end or rows < _GROUP_ROWS):
            rows += self._queue[end].rows
            end += 1
        group, self._queue = self._queue[:end], self._queue[end:]
        self.waiting -= rows
        if not self._queue:
            self._wake.clear()
        return group

    def _settle(self, push: _Push, result: Any) -> None:
        """Answer a push; not before its publication, so that who pushed may read."""
        left = getattr(result, "published", 0) - self._now()
        if push.batch.arrival is None and 0 < left < 1_000_000:
            asyncio.get_running_loop().call_later(left / 1e6, _answer, push.answer, result)
        else:
            _answer(push.answer, result)

    def _measure(self, group: Sequence[_Push], results: Sequence[Any], seconds: float) -> None:
        m = self._measures
        m.observe("flyball_ingest_commit_seconds", seconds, "Time to log and apply one group of pushes.")
        for push, result in zip(group, results, strict=True):
            source = push.batch.source if not isinstance(result, UnknownName) else "unknown"
            if isinstance(result, BaseException):
                m.count("flyball_ingest_failed_total", 1, "Pushes that were refused or failed.", source=source)
                continue
            for name, about in (("accepted", "Rows taken."), ("rejected", "Rows dropped by where."),
                                ("duplicates", "Rows whose event id was taken before.")):  # fmt: skip
                by = getattr(result, name, 0)
                m.count(f"flyball_ingest_{name}_total", by, about, source=source)


def plain(value: Any) -> dict[str, Any]:
    """Return a result as a dict of plain data."""
    return dict(msgspec.to_builtins(asdict(value) if is_dataclass(value) and not isinstance(value, type) else value))


def _answer(answer: asyncio.Future[dict[str, Any]], result: Any) -> None:
    if answer.done():
        return
    if isinstance(result, FlyballError):
        answer.set_exception(result)
    elif isinstance(result, BaseException):
        answer.set_exception(Unavailable(f"the rows could not be stored: {result}"))
    else:
        answer.set_result(plain(result))
