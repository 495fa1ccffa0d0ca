"""Take pushed rows: check, log, fold into every view of their source; the only writer of the online store.

The surprise: nothing here needs to succeed after the log has the rows. Each view's checkpoint is written in the
transaction that applied rows up to it, and a replay goes on from there; applying a row again changes nothing. So a
crash at any point loses no acknowledged row and counts none twice, and a store that is away for a while gets what it
missed before it gets anything newer.

A row counts as known from its publication on (see `publication`). Where that turns out later than planned, the log
gets a correction, which history and replay apply.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from flyball.clock import Clock
from flyball.errors import FlyballError, InputError, Unavailable
from flyball.features.attached import AttachedViews
from flyball.features.erase import RewritableLog, Stored, erase_stored, subject_of
from flyball.features.intake import Checked, Intake
from flyball.features.materialize import Detail, MaterializeResult, Progress, materialize
from flyball.features.packing import Checkpoint
from flyball.features.ports import IngestLog, OfflineEngine, OnlineStore
from flyball.features.publication import Gate, LocalGate, Publisher
from flyball.features.pushes import Batch, PushResult
from flyball.features.spec import SourceSpec, ViewSpec
from flyball.features.upkeep import Upkeep

__all__ = ["Batch", "Ingest", "PushResult"]

Row = dict[str, Any]


class Ingest:
    """Apply pushes to the online store. One at a time per project; the log's lock sees to it.

    Args:
        store: The online store, writable.
        log: The ingest log.
        views: What to apply rows to; more with `attach`.
        clock: Stamps arrivals that come without one; not held back by the gate.
        root: The project's root, so that pushed rows take the column types of the source's files.
        gate: What holds the readers' clock back while rows are published; by default one for this process's threads.
        upkeep: What materializations remember outside of the store; nothing by default.
        state: The project's state folder, where types that were pinned at apply lie; `.flyball` in the root by default.

    Raises:
        ConflictError: another process writes to the log.
    """

    def __init__(
        self,
        store: OnlineStore,
        log: IngestLog,
        views: Iterable[ViewSpec],
        *,
        clock: Clock,
        root: Path | None = None,
        gate: Gate | None = None,
        upkeep: Upkeep | None = None,
        state: Path | None = None,
    ) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._upkeep = upkeep
        self._lock = threading.RLock()
        self._intake = Intake(log, root=root, state=state)
        self._attached = AttachedViews(store, log, self._intake)
        self._publisher = Publisher(log, clock, gate or LocalGate())
        self.behind = ""  # why the store lacks logged rows, empty when it does not
        log.acquire()
        for view in views:
            self._attached.put(view)
        self._catch_up()

    @property
    def gate(self) -> Gate:
        """What holds the readers' clock back while rows are published."""
        return self._publisher.gate

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """The views that rows are applied to."""
        return self._attached.all

    def attach(self, view: ViewSpec) -> int:
        """Apply a view's source to it from its checkpoint on; returns how many logged rows were replayed.

        A view of the same name and another digest stays, until `detach`.
        """
        with self._lock:
            self._attached.put(view)
            self._intake.forget(view.source.name)
            self._intake.follow_ids(view.source)
            return self._attached.catch_up(view)

    def detach(self, digest: str, *, drop: bool = False) -> None:
        """Stop applying rows to a view; with `drop`, also remove what is stored for it."""
        with self._lock:
            self._attached.remove(digest, drop=drop)

    def push(self, source: str, rows: list[Row], arrival: int | None = None) -> PushResult:
        """Take rows of a source; when this returns they are durable and readable.

        Args:
            source: The source's name.
            rows: One mapping per row, raw columns; times as ISO text (local to the source without an offset), int µs
                or datetime.
            arrival: When they arrived, µs; None is their publication, a little after now.

        Raises:
            InputError: a row misses a column or has a wrong type; nothing was taken.
            UnknownName: no view reads such a source.
            Unavailable: the log or the store cannot take them now.
        """
        result = self.push_many([(source, rows, arrival)])[0]
        if isinstance(result, FlyballError):
            raise result
        if arrival is None:
            self._publisher.wait(result.published)
        return result

    def push_many(
        self, batches: Sequence[Batch | tuple[str, list[Row], int | None]]
    ) -> list[PushResult | FlyballError]:
        """Take many pushes at the price of one sync; a bad one gets its error and leaves the others alone.

        It does not wait for the rows' publication; whoever acknowledges waits until `published`.
        """
        results: list[PushResult | FlyballError] = [InputError("not looked at")] * len(batches)
        with self._lock:
            self.recover()
            good: list[Checked] = []
            taken: dict[bytes, int] = {}
            for place, given in enumerate(batches):
                batch = given if isinstance(given, Batch) else Batch(*given)
                try:
                    good.append(self._intake.check(place, batch, self._attached.of(batch.source), taken))
                except FlyballError as error:
                    results[place] = error
            for push, result in zip(good, self._take(good), strict=True):
                results[push.place] = result
        return results

    def recover(self) -> bool:
        """Bring the store up to the log when it is behind; return whether it was.

        Raises:
            Unavailable: it cannot be done yet; nothing is taken while that is so.
        """
        with self._lock:
            if not self.behind:
                return False
            try:
                self._catch_up()
            except FlyballError as error:
                raise Unavailable(
                    f"the online store lacks rows that the log has ({self.behind}) and cannot take them yet: {error}; "
                    "nothing of this push was kept, send it again"
                ) from error
            self.behind = ""
            return True

    def explain(self, source: str, rows: Sequence[Any]) -> dict[int, str]:
        """Return what is wrong with each row that cannot be taken, by its place."""
        with self._lock:
            return self._intake.explain(self._attached.of(source), rows)

    def positions(self, stream: str) -> dict[str, str]:
        """Return where the consumer of a stream stands in the log, by partition."""
        return self._log.positions(stream)

    def dead(self, source: str | None = None) -> list[dict[str, Any]]:
        """Return the messages that were no rows of their source, oldest first."""
        return list(self._log.dead(source).to_pylist())

    def materialize(
        self,
        engine: OfflineEngine,
        view: ViewSpec,
        *,
        until: datetime | None = None,
        full: bool = False,
        start: datetime | None = None,
        end: datetime | None = None,
        progress: Progress | None = None,
        detail: Detail | None = None,
    ) -> MaterializeResult:
        """Materialize a view while pushes go on (call it from another thread than they come from), then catch up.

        `until` None means now; see `features.materialize` for the rest.
        """
        result = materialize(
            engine, self._store, view, until=until or self._clock.now(), full=full, start=start, end=end,
            progress=progress, detail=detail, lock=self._lock, upkeep=self._upkeep, clock=self._clock,
        )  # fmt: skip
        with self._lock:
            if view.digest in self._attached:
                self._attached.catch_up(view)
        return result

    def checkpoint(self, view: ViewSpec) -> Checkpoint:
        """Return how far a view's namespace is."""
        return self._attached.checkpoint(view)

    def close(self) -> None:
        """Let another writer in; the store and the log belong to who made them, the log's lock is given back."""
        with self._lock:
            close = getattr(self._log, "close", None)
            if close is not None:
                close()

    def erase(
        self,
        subject: Mapping[str, Any],
        views: Sequence[ViewSpec],
        sources: Sequence[SourceSpec],
        known: Mapping[str, Sequence[bytes]],
    ) -> Stored:
        """Take a subject's rows out of the log and its keys out of the store, for good; see `features/erase.py`."""
        with self._lock:
            log = cast("RewritableLog", self._log)
            return erase_stored(self._store, log, views, sources, subject_of(subject, views), known=known)

    def compact(self) -> int:
        """Turn closed log segments into Parquet, where the log has any; return how many."""
        compact = getattr(self._log, "compact", None)
        with self._lock:
            return int(compact()) if compact is not None else 0

    # ------------------------------------------------------------------------------------------ taking

    def _take(self, pushes: list[Checked]) -> list[PushResult | FlyballError]:
        """Log pushes, apply them, and say from when they are readable."""
        logged = [p for p in pushes if p.rows or p.batch.origin or p.batch.dead]
        if not logged:
            following = self._log.last() + 1
            return [PushResult(0, 0, p.seen or following, p.duplicates) for p in pushes]
        try:
            with self._publisher.planned(sum(len(p.rows) for p in logged)) as stamp:
                arrivals = [stamp if p.batch.arrival is None else p.batch.arrival for p in logged]
                firsts = self._append(logged, arrivals)
                pending = self._apply(logged, arrivals, firsts)
                published = stamp if pending else self._publisher.correct(_stamped(logged, firsts), stamp)
        except Unavailable as error:
            return [error for _ in pushes]
        at = {id(p): first for p, first in zip(logged, firsts, strict=True)}
        following = self._log.last() + 1
        return [
            PushResult(p.accepted, p.rejected, at[id(p)] if p.rows else p.seen or following, p.duplicates,
                       published if p.batch.arrival is None else p.batch.arrival, pending)
            for p in pushes
        ]  # fmt: skip

    def _append(self, pushes: Sequence[Checked], arrivals: Sequence[int]) -> list[int]:
        """Log pushes and remember their event ids; return their first sequences."""
        try:
            firsts = self._log.append_many(
                [(p.batch.source, p.rows, at, p.batch.origin) for p, at in zip(pushes, arrivals, strict=True)],
                dead=[letter for p in pushes for letter in p.batch.dead],
            )
        except BaseException:
            self.behind = "the log failed"  # it may have the rows or not: whoever recovers looks
            raise
        for push, arrival, first in zip(pushes, arrivals, firsts, strict=True):
            if push.keys:
                self._log.event_ids.add(push.batch.source, push.keys, range(first, first + len(push.rows)), arrival)
        return firsts

    def _apply(self, pushes: Sequence[Checked], arrivals: Sequence[int], firsts: Sequence[int]) -> bool:
        """Write logged rows to the views; return whether the store did not take them and gets them later."""
        try:
            if self._attached.lag():
                self.behind = "it came back older than it was"
                return not self.recover()
            self._attached.apply(pushes, arrivals, firsts)
        except Unavailable as error:
            self.behind = self.behind or str(error)
            return True
        except BaseException as error:
            self.behind = repr(error)
            raise
        return False

    def _catch_up(self) -> None:
        """Replay what the views lack; readers are held until every one of them has it."""
        sources = self._attached.sources
        try:
            self._publisher.publish_unapplied({s.name: self._attached.unapplied_from(s.name) for s in sources})
            for source in sources:
                self._intake.follow_ids(source)
            for view in self.views:
                self._attached.catch_up(view)
        finally:
            self.gate.release()


def _stamped(pushes: Sequence[Checked], firsts: Sequence[int]) -> list[tuple[str, int, int]]:
    """Return (source, first, last) sequences of the pushes that carry the stamp of their commit."""
    return [
        (p.batch.source, first, first + len(p.rows) - 1)
        for p, first in zip(pushes, firsts, strict=True)
        if p.rows and p.batch.arrival is None
    ]
