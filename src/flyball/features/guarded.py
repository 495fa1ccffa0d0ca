"""An online store that may be slow or away, read within a budget: what then is answered is decided here, purely.

Each read has a time budget. After some failures in a row a breaker opens and reads fail at once, until after a pause
one of them tries again. What a failed read answers is the project's policy: values read a short while ago (flagged
"stale"), declared defaults (flagged "defaulted"), or an error. The surprise: the flag does not travel with the values.
`read_state` is a context variable that a read sets and the gateway looks at after it, so readers need to know nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal

from flyball.errors import ConflictError, FlyballError, Unavailable

__all__ = ["CLOSED", "Breaker", "Guard", "GuardedStore", "admit", "fall_back", "read_state", "record"]

read_state: ContextVar[str] = ContextVar("flyball_read_state", default="")
_CACHED = 50_000  # values kept for the stale limit; the oldest go first

State = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class Guard:
    """How a store is guarded: seconds a read may take, failures that open the breaker, seconds it stays open.

    `on_failure` says what a read that failed answers when no value read at most `stale_limit` seconds ago is there.
    """

    budget: float = 0.025
    failures: int = 5
    pause: float = 1.0
    on_failure: Literal["default", "error"] = "error"
    stale_limit: float = 0.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """Where the breaker stands: failures in a row, and since when it is open or its one trial is under way."""

    state: State = "closed"
    failures: int = 0
    since: float = 0.0


CLOSED = Breaker()


def admit(breaker: Breaker, guard: Guard, now: float) -> tuple[Breaker, bool]:
    """Return the breaker and whether a read may ask the store now.

    An open breaker lets one read through after the pause; should that one never report, another after one more pause.
    """
    if breaker.state == "closed":
        return breaker, True
    if now - breaker.since < guard.pause:
        return breaker, False
    return replace(breaker, state="half-open", since=now), True


def record(breaker: Breaker, guard: Guard, now: float, *, failed: bool) -> Breaker:
    """Return the breaker after a read that was let through."""
    if not failed:
        return breaker if breaker is CLOSED else CLOSED
    failures = breaker.failures + 1
    if breaker.state == "half-open" or failures >= guard.failures:
        return Breaker("open", failures, now)
    return replace(breaker, failures=failures)


def fall_back(
    keys: Sequence[bytes],
    kept: Mapping[bytes, tuple[bytes | None, float]],
    guard: Guard,
    now: float,
) -> tuple[list[bytes | None], str] | None:
    """Return what a failed read answers and its flag, or None when it is an error.

    Args:
        keys: What was asked.
        kept: Values read before, with the monotonic second they were read at.
        guard: The policy.
        now: Monotonic seconds.
    """
    held = [kept.get(key) for key in keys]
    fresh = [None if old is None or now - old[1] > guard.stale_limit else old for old in held]
    if guard.stale_limit > 0 and all(old is not None for old in fresh):
        return [old[0] if old is not None else None for old in fresh], "stale"
    if guard.on_failure == "error":
        return None
    if guard.stale_limit <= 0:
        return [None] * len(keys), "defaulted"
    return [None if old is None else old[0] for old in fresh], "defaulted"


class GuardedStore:
    """Read a store within a budget, through a breaker, with what to do when that fails. Writes go straight through.

    Args:
        store: The store; with `aget_many` when it is remote.
        guard: Budget, breaker and policy.
        monotonic: The clock of budget, pause and ages.
    """

    remote = True

    def __init__(self, store: Any, guard: Guard, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._guard = guard
        self._now = monotonic
        self._breaker = CLOSED
        self._kept: OrderedDict[bytes, tuple[bytes | None, float]] = OrderedDict()

    @property
    def breaker(self) -> Breaker:
        """Where the breaker stands."""
        return self._breaker

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, or what the policy says; `read_state` tells which.

        The store itself keeps to the budget here (its read time-out), because nothing can interrupt a blocked thread.

        Raises:
            Unavailable: the store failed and the policy is an error.
        """
        if not self._admitted(keys):
            return self._instead(keys, None)
        try:
            found = self._store.get_many(keys)
        except FlyballError as error:
            return self._failed(keys, error)
        return self._read(keys, found)

    async def aget_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return what `get_many` returns, given up when the budget is over."""
        if not self._admitted(keys):
            return self._instead(keys, None)
        try:
            async with asyncio.timeout(self._guard.budget):
                found = await self._store.aget_many(keys)
        except TimeoutError:
            error = Unavailable(f"the online store gave no answer within {self._guard.budget * 1000:g} ms")
            return self._failed(keys, error)
        except FlyballError as error:
            return self._failed(keys, error)
        except asyncio.CancelledError:
            self._breaker = record(self._breaker, self._guard, self._now(), failed=True)
            raise
        return self._read(keys, found)

    def write(self, **given: Any) -> int:
        """Write through."""
        return int(self._store.write(**given))

    def keys(self, prefix: bytes, *, limit: int | None = None) -> list[bytes]:
        """Ask the store, without a budget: nobody serves from this."""
        return list(self._store.keys(prefix, limit=limit))

    def pages(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Ask the store, without a budget."""
        return iter(self._store.pages(prefix))

    def drop(self, prefix: bytes) -> int:
        """Drop through."""
        return int(self._store.drop(prefix))

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    async def aclose(self) -> None:
        """Close what the store has in the running event loop."""
        await self._store.aclose()

    def _admitted(self, keys: Sequence[bytes]) -> bool:
        read_state.set("")
        if not keys:
            return True  # asks nobody
        self._breaker, allowed = admit(self._breaker, self._guard, self._now())
        return allowed

    def _read(self, keys: Sequence[bytes], found: list[bytes | None]) -> list[bytes | None]:
        if self._breaker is not CLOSED and keys:
            self._breaker = record(self._breaker, self._guard, self._now(), failed=False)
        if self._guard.stale_limit > 0:
            now, kept = self._now(), self._kept
            for key, value in zip(keys, found, strict=True):
                kept[key] = value, now
                kept.move_to_end(key)
            while len(kept) > _CACHED:
                kept.popitem(last=False)
        return found

    def _failed(self, keys: Sequence[bytes], error: FlyballError) -> list[bytes | None]:
        failed = isinstance(error, Unavailable | ConflictError)
        self._breaker = record(self._breaker, self._guard, self._now(), failed=failed)
        return self._instead(keys, error)

    def _instead(self, keys: Sequence[bytes], error: FlyballError | None) -> list[bytes | None]:
        decided = fall_back(keys, self._kept, self._guard, self._now())
        if decided is None:
            read_state.set("error")
            if error is not None:
                raise error
            raise Unavailable(
                f"the online store failed {self._breaker.failures} times in a row and is left alone for"
                f" {self._guard.pause:g} s; send the request again later"
            )
        read_state.set(decided[1])
        return decided[0]
