"""Answers that a worker gives again to equal features, for models that ask for it (`fb.Serving(cache="30s")`).

The surprise: a row is looked up after its features were read. The key is version, arm and every feature value as it was
read, so an answer never outlives the features it was made from, whatever they are and however they changed; the time
to live only bounds how long a model's own answer is believed. What is saved is the model's call, and what equal rows
under way at the same time would have cost: they are computed once.

A fault of the cache is a miss. It rests when it does not pay: when the calls that its hits saved are worth less than
the lookups, and looks again later.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flyball.errors import DeadlineExceeded
from flyball.rollout.routing import ModelRoute
from flyball.serving.models.batcher import Batcher, Item
from flyball.serving.models.outputs import Values
from flyball.serving.shared.slots import Counter, Slot

__all__ = ["AnswerCache", "Worth", "randomised"]

log = logging.getLogger("flyball.serving")
Value = float | list[float]
_PRICE = 6e-6  # seconds that a lookup and what goes with it costs, measured (3 to 5 µs) and rounded up
_WINDOW, _LONGEST_WINDOW = 512, 8_192  # lookups before its worth is judged
_NAP, _LONGEST_NAP = 4_096, 262_144  # rows that pass by before it is tried again
_ENTRY = 272  # bytes of an entry beyond key and value: places in the ordered dict, the pair, the float of its time


class Worth:
    """Whether looking up pays for one version; pure."""

    __slots__ = ("_asleep", "_hits", "_lookups", "_nap", "_window")

    def __init__(self) -> None:
        """Begin awake."""
        self._lookups = self._hits = self._asleep = 0
        self._nap, self._window = _NAP, _WINDOW

    @property
    def asleep(self) -> bool:
        """Whether rows pass by."""
        return self._asleep > 0

    def admits(self, rows: int) -> bool:
        """Return whether to look these rows up; those that are not bring the next trial closer."""
        if self._asleep <= 0:
            return True
        self._asleep -= rows
        return False

    def note(self, rows: int, hits: int, saved: float) -> None:
        """Take a lookup of `rows` with so many `hits`, each of which saved `saved` seconds."""
        self._lookups += rows
        self._hits += hits
        if self._lookups < self._window:
            return
        if self._hits * saved < self._lookups * _PRICE:
            self._asleep = self._nap
            self._nap = min(self._nap * 2, _LONGEST_NAP)
            self._window = min(self._window * 2, _LONGEST_WINDOW)  # a large population needs longer to fill it
        else:
            self._nap, self._window = _NAP, _WINDOW
        self._lookups = self._hits = 0


@dataclass(slots=True)
class _Version:
    """One version in one arm: what its keys begin with, and whether looking up pays."""

    prefix: bytes
    worth: Worth


class AnswerCache:
    """Keep at most `limit` bytes of answers, the least recently used go first.

    Args:
        limit: Bytes, counted with keys and bookkeeping.
        slot: Counts hits, misses, evictions, and rows that passed by.
        now: Monotonic seconds.
    """

    def __init__(self, limit: int, *, slot: Slot | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._slot = slot
        self._now = now
        self._entries: OrderedDict[bytes, tuple[Value, float]] = OrderedDict()
        self._flying: dict[bytes, asyncio.Future[Value | None]] = {}
        self._versions: dict[tuple[str, str], _Version] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def answer(
        self, version: tuple[str, str], batcher: Batcher, matrix: np.ndarray, *, ttl: float, deadline: float
    ) -> Item:
        """Answer rows from the cache, from equal rows under way, or from the model.

        Args:
            version: (digest, arm): rows of another version or arm are other rows.
            batcher: Asks the model.
            matrix: float64 (n, k), the features as read.
            ttl: Seconds for which an answer is kept.
            deadline: Monotonic seconds.

        Returns:
            An item as the batcher makes it; `cached` are the positions that the model was not asked for.
        """
        try:
            found = self._versions.get(version) or self._meet(version)
            keys = _keys(found.prefix, matrix) if found.worth.admits(len(matrix)) else None
        except Exception:
            log.exception("the cache failed; the model answers")
            keys = None
        if keys is None:
            self._count(Counter.CACHE_BYPASSES, len(matrix))
            return batcher.now(matrix) or await batcher.submit(matrix, deadline)
        known = self._known(keys)
        if len(known) < len(keys):
            item = await self._completed(keys, known, batcher, matrix, ttl, deadline)
        else:
            item = Item.answered(matrix, [known[k] for k in range(len(keys))])
        hits = item.cached = frozenset(known)
        self._count(Counter.CACHE_HITS, len(hits))
        self._count(Counter.CACHE_MISSES, len(keys) - len(hits))
        found.worth.note(len(keys), len(hits), batcher.costs.at(1))
        return item

    async def _completed(
        self,
        keys: list[bytes],
        known: dict[int, Value],
        batcher: Batcher,
        matrix: np.ndarray,
        ttl: float,
        deadline: float,
    ) -> Item:
        """Return all rows' answers; `known` grows by those that equal rows under way gave."""
        followed: dict[int, asyncio.Future[Value | None]] = {}
        mine: list[int] = []
        led: dict[bytes, asyncio.Future[Value | None]] = {}
        loop = asyncio.get_running_loop()
        for k, key in enumerate(keys):
            if k in known:
                continue
            flying = self._flying.get(key)
            if flying is not None and flying.get_loop() is loop:
                followed[k] = flying
            else:
                led[key] = self._flying[key] = loop.create_future()
                mine.append(k)
        item = Item.answered(matrix, [])
        try:
            asked = await _ask(batcher, matrix, mine, deadline) if mine else item
            for place, k in enumerate(mine):
                value = asked.values[place]
                if value is not None:
                    led[keys[k]].set_result(value)
                    self._keep(keys[k], value, ttl)
        finally:
            for key, future in led.items():
                if self._flying.get(key) is future:
                    del self._flying[key]
                if not future.done():
                    future.set_result(None)  # failed, or the caller left: those who follow ask themselves
        late = await self._follow(followed, known, deadline)
        again = await _ask(batcher, matrix, late, deadline) if late else item
        return _merged(item, known, (mine, asked), (late, again))

    async def _follow(
        self, followed: dict[int, asyncio.Future[Value | None]], known: dict[int, Value], deadline: float
    ) -> list[int]:
        """Wait for equal rows; return the positions for which they brought nothing."""
        waiting = {future for future in followed.values() if not future.done()}
        if waiting:
            await asyncio.wait(waiting, timeout=max(deadline - time.monotonic(), 0.0))
        nothing = []
        for k, future in followed.items():
            value = future.result() if future.done() else None
            if value is None:
                nothing.append(k)
            else:
                known[k] = value
        return nothing

    def _known(self, keys: list[bytes]) -> dict[int, Value]:
        entries, now = self._entries, self._now()
        known: dict[int, Value] = {}
        for k, key in enumerate(keys):
            found = entries.get(key)
            if found is None:
                continue
            if found[1] > now:
                entries.move_to_end(key)
                known[k] = found[0]
            else:
                self._drop(key)
        return known

    def _keep(self, key: bytes, value: Value, ttl: float) -> None:
        if key in self._entries:
            self._drop(key)
        size = _size(key, value)
        if size > self._limit:
            return
        self._entries[key] = value, self._now() + ttl
        self.bytes += size
        while self.bytes > self._limit:
            self._drop(next(iter(self._entries)))
            self._count(Counter.CACHE_EVICTIONS, 1)

    def _drop(self, key: bytes) -> None:
        value, _ = self._entries.pop(key)
        self.bytes -= _size(key, value)

    def _meet(self, version: tuple[str, str]) -> _Version:
        made = self._versions[version] = _Version(len(self._versions).to_bytes(4, "little"), Worth())
        return made

    def _count(self, counter: Counter, n: int) -> None:
        if self._slot is not None and n:
            self._slot.add(counter, n)


def randomised(route: ModelRoute) -> bool:
    """Return whether chance decides which arm answers some of a model's units."""
    return (route.candidate is not None and route.candidate_cut > 0) or any(v.end > v.start for v in route.variants)


def _keys(prefix: bytes, matrix: np.ndarray) -> list[bytes]:
    if len(matrix) == 1:
        return [prefix + matrix.tobytes()]
    return [prefix + row.tobytes() for row in matrix]


def _size(key: bytes, value: Value) -> int:
    size = _ENTRY + sys.getsizeof(key)
    return size + (sys.getsizeof(value) + 24 * len(value) if isinstance(value, list) else 24)


async def _ask(batcher: Batcher, matrix: np.ndarray, rows: list[int], deadline: float) -> Item:
    part = matrix if len(rows) == len(matrix) else matrix[rows]
    if deadline <= time.monotonic():
        item = Item.answered(part, [None] * len(rows))
        item.errors = dict.fromkeys(range(len(rows)), f"{DeadlineExceeded.__name__}: no answer before the deadline")
        return item
    return batcher.now(part) or await batcher.submit(part, deadline)


def _merged(item: Item, known: dict[int, Value], *parts: tuple[list[int], Item]) -> Item:
    """Put answers of several origins into one item, in the order of its rows."""
    values: Values = [known.get(k) for k in range(len(item.matrix))]
    errors: dict[int, str] = {}
    for rows, answered in parts:
        for place, k in enumerate(rows):
            values[k] = answered.values[place]
            if answered.errors is not None and place in answered.errors:
                errors[k] = answered.errors[place]
        if rows:
            item.wait, item.run = item.wait + answered.wait, item.run + answered.run
            item.gone, item.absent = item.gone or answered.gone, answered.absent
    item.values, item.errors = values, errors or None
    return item
