"""A worker's prediction log: one frame per event-loop turn, however many rows were answered in it.

Modes: `async` answers before the bytes are written; `durable` (default) answers after one write per turn, which
survives kill -9, and a thread makes them survive power loss every 20 ms; `sync` answers after that.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from flyball.errors import Unavailable
from flyball.records.segment import SegmentWriter
from flyball.records.types import Record, encode
from flyball.serving.shared.slots import Slot

__all__ = ["LogWriter"]

_SYNC_EVERY = 0.02  # seconds
log = logging.getLogger("flyball.serving")
_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError)


class LogWriter:
    """Write one worker's records.

    `full` says what a full disk means: "fail_open" counts the records it loses in the worker's slot,
    "fail_closed" makes `write` raise Unavailable, which callers see as 503.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["async", "durable", "sync"] = "durable",
        full: Literal["fail_open", "fail_closed"] = "fail_open",
        slot: Slot | None = None,
        rotate_bytes: int = 64 << 20,
        rotate_after: float = float("inf"),
    ) -> None:
        """Write segments into `folder` (log/w<slot>), each for `rotate_after` seconds at most."""
        self.folder = folder
        self._segments = SegmentWriter(folder, rotate_bytes=rotate_bytes, rotate_after=rotate_after)
        self._mode = mode
        self._full = full
        self._slot = slot
        self._pending: list[Record] = []
        self._turn: asyncio.Future[bool] | None = None
        self._unsynced: list[asyncio.Future[bool]] = []
        self._syncing = False
        self._thread: ThreadPoolExecutor | None = None

    def attach(self, slot: Slot) -> None:
        """Count lost records in `slot`."""
        self._slot = slot

    @property
    def pending(self) -> int:
        """Records taken and not yet written."""
        return len(self._pending)

    def put(self, records: list[Record], *, durable: bool = False, alone: bool = False) -> asyncio.Future[bool] | None:
        """Take records for this turn's frame; await the future, if there is one, before answering.

        It tells whether the records were written; False only comes with fail_open.
        `durable` asks for at least the promise of "durable" whatever the mode (outcomes). `alone` says that nobody
        else is about to write in this turn: then the frame is written here and now.
        """
        loop = asyncio.get_running_loop()
        if alone and self._mode == "durable" and self._turn is None and not self._pending:
            self._pending = records
            failure = self._append()
            if failure is not None and self._full == "fail_closed":
                raise failure
            self._sync_later(loop, failure)
            return None
        self._pending += records
        if self._turn is None or self._turn.get_loop() is not loop:
            self._turn = loop.create_future()
            loop.call_soon(self._flush, loop, self._turn)
        return self._turn if durable or self._mode != "async" else None

    def note(self, records: list[Record]) -> None:
        """Take records that nobody waits for (shadow answers); a loss is counted."""
        waited = self.put(records)
        if waited is not None:
            waited.add_done_callback(_seen)

    def close(self) -> None:
        """Write what is pending, sync, close."""
        if self._pending:
            self._append()
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
        self._segments.close()

    def _flush(self, loop: asyncio.AbstractEventLoop, turn: asyncio.Future[bool]) -> None:
        self._turn = None
        failure = self._append()
        if failure is not None and self._full == "fail_closed":
            if not turn.done():
                turn.set_exception(failure)
            turn.exception()  # in async mode nobody waits
            return
        if self._mode == "sync" and failure is None:
            self._unsynced.append(turn)
        elif not turn.done():
            turn.set_result(failure is None)
        self._sync_later(loop, failure)

    def _sync_later(self, loop: asyncio.AbstractEventLoop, failure: Unavailable | None) -> None:
        if not self._syncing and failure is None:
            self._syncing = True
            loop.call_later(_SYNC_EVERY if self._mode != "sync" else 0.0, self._start_sync, loop)

    def _append(self) -> Unavailable | None:
        records, self._pending = self._pending, []
        if not records:
            return None
        payload, failure = self._encoded(records)
        try:
            self._segments.append(payload)
        except OSError as error:
            self._dropped(len(records))
            failure = Unavailable(
                f"the prediction log took no record: {error.strerror or error}; make room on its disk"
            )
            failure.__cause__ = error
        return failure

    def _encoded(self, records: list[Record]) -> tuple[bytes, Unavailable | None]:
        """Return the frame; a record that nothing can write is left out and takes no neighbour along."""
        try:
            return encode(records), None
        except _UNWRITABLE as error:
            good = [record for record in records if _writable(record)]
            self._dropped(len(records) - len(good))
            return encode(good), Unavailable(f"a record cannot be written to the prediction log: {error}")

    def _dropped(self, records: int) -> None:
        if self._slot is not None:
            self._slot.count_log_dropped(records)

    def _start_sync(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="flyball-log")
        waiting, self._unsynced = self._unsynced, []
        loop.run_in_executor(self._thread, self._sync).add_done_callback(lambda done: self._synced(loop, waiting, done))

    def _sync(self) -> OSError | None:
        try:
            self._segments.sync()
        except OSError as error:  # the segment was rotated meanwhile: closing it has synced it
            if error.errno == errno.EBADF:
                return None
            log.error("prediction log not synced", extra={"cause": str(error)})
            return error
        return None

    def _synced(
        self,
        loop: asyncio.AbstractEventLoop,
        waiting: list[asyncio.Future[bool]],
        done: asyncio.Future[OSError | None],
    ) -> None:
        error = done.result() if not done.cancelled() else None
        for turn in waiting:
            if turn.done():
                continue
            if error is not None and self._full == "fail_closed":
                turn.set_exception(Unavailable(f"the prediction log was not synced: {error}"))
            else:
                turn.set_result(error is None)
        self._syncing = bool(self._unsynced)
        if self._syncing:
            self._start_sync(loop)


def _writable(record: Record) -> bool:
    try:
        encode([record])
    except _UNWRITABLE:
        return False
    return True


def _seen(done: asyncio.Future[bool]) -> None:
    if not done.cancelled():
        done.exception()
