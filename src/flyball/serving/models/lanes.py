"""The threads on which a worker runs models too expensive for its event loop: few, shared by all versions.

One thread is used as long as one is enough; another is started when a job finds none idle, up to `limit`. Each version
has at most one batch here at a time, so the queue takes turns between versions by itself. The surprise: a thread that
has been in one call for `stuck` seconds no longer counts, so that models that hang can not use the lanes up; threads
are daemons, because nothing else ends one that hangs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Lanes", "shared_lanes"]

T = TypeVar("T")
_IDLE = 30.0  # seconds after which a thread without work ends
_MOST = 64  # threads, stuck ones included


class _Thread:
    __slots__ = ("since",)

    def __init__(self) -> None:
        self.since = 0.0  # monotonic start of the call under way, 0 between calls


class Lanes:
    """Run calls on at most `limit` threads, first come first served."""

    def __init__(self, *, limit: int = 4, stuck: float = 10.0) -> None:
        """Leave a thread out of account that has been in one call for `stuck` seconds."""
        self._limit = limit
        self._stuck = stuck
        self._jobs: deque[Callable[[], None]] = deque()
        self._threads: list[_Thread] = []
        self._idle = 0
        self._change = threading.Condition()

    @property
    def waiting(self) -> int:
        """Calls that no thread has taken up."""
        return len(self._jobs)

    @property
    def threads(self) -> int:
        """Threads alive."""
        return len(self._threads)

    def run(self, call: Callable[..., T], *given: Any) -> asyncio.Future[T]:
        """Run `call(*given)` on a thread; cancelling the future before a thread took it up withdraws it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            if future.cancelled():
                return
            try:
                result = call(*given)
            except BaseException as error:
                _tell(loop, _fail, future, error)
            else:
                _tell(loop, _settle, future, result)

        with self._change:
            self._jobs.append(job)
            taken = self._take_up()
        if not taken:
            loop.call_later(self._stuck, self._look, loop, job)
        return future

    def _look(self, loop: asyncio.AbstractEventLoop, job: Callable[[], None]) -> None:
        """See whether the threads are stuck, as long as a job waits."""
        with self._change:
            if job not in self._jobs or self._take_up():
                return
        loop.call_later(self._stuck, self._look, loop, job)

    def _take_up(self) -> bool:
        """Have an idle or a new thread take the newest job up, if there may be one; the lock is held."""
        if self._idle >= len(self._jobs):
            self._change.notify()
            return True
        if self._counted() < self._limit and len(self._threads) < _MOST:
            self._start()
            return True
        return False

    def _counted(self) -> int:
        late = time.monotonic() - self._stuck
        return sum(1 for thread in self._threads if not thread.since or thread.since > late)

    def _start(self) -> None:
        mine = _Thread()
        self._threads.append(mine)
        threading.Thread(target=self._work, args=(mine,), name="flyball-model", daemon=True).start()

    def _work(self, mine: _Thread) -> None:
        while True:
            with self._change:
                mine.since = 0.0
                if self._counted() > self._limit:  # back from a call that was stuck, and replaced meanwhile
                    self._threads.remove(mine)
                    return
                self._idle += 1
                found = self._change.wait_for(lambda: bool(self._jobs), timeout=_IDLE)
                self._idle -= 1
                if not found:
                    self._threads.remove(mine)
                    return
                job = self._jobs.popleft()
                mine.since = time.monotonic()
            job()
            del job


_shared: Lanes | None = None


def shared_lanes() -> Lanes:
    """Return the lanes of this process."""
    global _shared
    if _shared is None:
        _shared = Lanes()
    return _shared


def _tell(loop: asyncio.AbstractEventLoop, how: Callable[..., None], *given: Any) -> None:
    try:
        loop.call_soon_threadsafe(how, *given)
    except RuntimeError:  # the loop was closed meanwhile: nobody waits
        return


def _settle(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        plain = isinstance(error, Exception) and not isinstance(error, StopIteration)  # which no future takes
        future.set_exception(error if plain else RuntimeError(repr(error)))
