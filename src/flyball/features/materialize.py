"""Bring history into the online store: everything (full), what arrived since the last time, or a range once more.

The surprise: it works by entity, in the order of their keys, a few hundred to a transaction, and each transaction
says in the view's checkpoint how far it came. So a killed run goes on where it stopped, and ingest may apply pushes
between two chunks. During a rebuild pushes to that view wait in the log; values are overwritten one by one, so a
reader sees an entity's old value until it sees its new one.

Rows of a file that appears after the first run become known when this run makes them readable, not when they say:
their stamp is planned a little ahead of the end, readers leave out what is not known at T, and the stamp is recorded as
the file's publication, so that history tells what online serving answered.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec

from flyball import units
from flyball.clock import Clock
from flyball.errors import InputError
from flyball.features.arrival import Arrivals, Run, arrivals_key
from flyball.features.bulk import Loaded, Packed, load, pack
from flyball.features.cells import WindowLayout
from flyball.features.history_rows import collect, plan, touched
from flyball.features.packing import SPAN, Checkpoint, RowLayout, checkpoint_key, namespace
from flyball.features.ports import OfflineEngine, OnlineStore
from flyball.features.publication import is_simulated
from flyball.features.spec import ViewSpec
from flyball.features.stale import Written
from flyball.features.upkeep import NoUpkeep, Upkeep

__all__ = ["Detail", "MaterializeResult", "Progress", "Step", "materialize"]

_KEYS = 4_096  # entities in one transaction, so that ingest never waits long for its turn
_BYTES = 2 << 20  # bytes in one transaction, unless one entity has more
_SLICE = 32_768  # rows packed together, unless one entity has more
_WORKERS = 1  # the writer is the other one
_AHEAD = 4  # packed slices that may wait for the writer
_RATE = 150_000  # rows/s that a publication is planned with
_LEAD = 200_000  # µs that it is planned ahead at least


class Step(NamedTuple):
    """How far a run is: entities and rows done, rows per second, seconds to go as far as one can tell."""

    keys: int
    all_keys: int
    rows: int
    all_rows: int
    rows_per_second: float
    eta: float


Progress = Callable[[int, int], None]
Detail = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class MaterializeResult:
    """What a materialization did; `until` is the known time (µs) up to which files are in now.

    `mode` is "full", "arrival" (what came since the last time) or "range"; `reason` says why it was not the one asked
    for. `files` arrived since the last time and are readable from `published` (µs) on; `overrun` says that they became
    readable later than planned. `quarantined` rows were left out, `warnings` are checks that failed with policy "warn".
    """

    view: str
    digest: str
    rows: int
    keys: int
    until: int | None
    full: bool
    resumed: bool
    seconds: float
    mode: str = "full"
    reason: str = ""
    files: tuple[str, ...] = ()
    published: int | None = None
    overrun: bool = False
    quarantined: int = 0
    warnings: tuple[str, ...] = ()


def materialize(
    engine: OfflineEngine,
    store: OnlineStore,
    view: ViewSpec,
    *,
    until: datetime | None,
    full: bool = False,
    start: datetime | None = None,
    end: datetime | None = None,
    progress: Progress | None = None,
    detail: Detail | None = None,
    lock: AbstractContextManager[object] | None = None,
    upkeep: Upkeep | None = None,
    clock: Clock | None = None,
) -> MaterializeResult:
    """Bring a view's online values up to `until`.

    Args:
        engine: Where history is.
        store: The online store; this must be its only writing process.
        view: What to bring.
        until: Rows of files known later than this stay out; None takes every row there is.
        full: Rebuild the namespace; the first time, and when a file was rewritten, is always full.
        start: Rebuild only entities with an event at or after this; what arrived since the last run stays out.
        end: ... and before this.
        progress: Called with (entities done, entities in all) after each transaction.
        detail: Called with a `Step` after each transaction.
        lock: Held for each transaction, not between them; ingest gives its own.
        upkeep: Remembers publications, quarantine and reports, and who is at it.
        clock: Domain time, from which freshness is measured and publications are planned; None is `until`.

    Returns:
        What was done. Calling it again with the same `until` does nothing.

    Raises:
        CheckFailed: a data check with policy "stop" failed; nothing changed online.
        ConflictError: another process is materializing this view.
        InputError: a range of a view that was never materialized, or one that ends before it starts.
    """
    keep = upkeep or NoUpkeep()
    with keep.claim(view):
        bounds = _bounds(start, end)
        asked = _Asked(None if until is None else units.to_micros(until), full, bounds)
        work = _Work(engine, store, view, asked, lock or nullcontext(), keep, clock, progress, detail)
        if bounds is not None and work.pending is not None and work.pending.mode != "range":
            rest = _Asked(asked.until, False, None)  # what was begun ends first
            _Work(engine, store, view, rest, work.guard, keep, clock, None, None).run()
            work = _Work(engine, store, view, asked, work.guard, keep, clock, progress, detail)
        return work.run()


@dataclass(frozen=True, slots=True)
class _Asked:
    until: int | None
    full: bool
    bounds: tuple[int | None, int | None] | None


def _bounds(start: datetime | None, end: datetime | None) -> tuple[int | None, int | None] | None:
    if start is None and end is None:
        return None
    if start is not None and end is not None and end <= start:
        raise InputError(f"the range ends at {end}, not after its start {start}; give a later end")
    return tuple(None if t is None else units.to_micros(t) for t in (start, end))  # type: ignore[return-value]


class _Work:
    """One run."""

    def __init__(
        self, engine: OfflineEngine, store: OnlineStore, view: ViewSpec, asked: _Asked,
        guard: AbstractContextManager[object], keep: Upkeep, clock: Clock | None, progress: Progress | None,
        detail: Detail | None,
    ) -> None:  # fmt: skip
        self.engine, self.store, self.view, self.asked = engine, store, view, asked
        self.guard, self.keep, self.clock, self.progress, self.detail = guard, keep, clock, progress, detail
        keys = [checkpoint_key(view.digest), arrivals_key(view.digest)]
        checkpoint, arrivals = store.get_many(keys)
        self.before = Checkpoint.from_bytes(checkpoint)
        self.arrivals = Arrivals.from_bytes(arrivals)
        self.layout = WindowLayout(view) if view.is_window else RowLayout(view)
        self.prefix = namespace(view.digest)
        self.written: Written | None = None  # only what may leave values behind needs to know
        self.rows = self.keys = 0
        self.all_keys = self.all_rows = 0
        self.told = (0, 0, 0)
        self.started = time.monotonic()

    @property
    def pending(self) -> Run | None:
        """The run that was under way when its process ended."""
        return self.arrivals.run if self.before.target is not None else None

    def run(self) -> MaterializeResult:
        """Do it all."""
        planned = plan(
            self.engine, self.view, self.before, self.arrivals, self.keep.published(self.view),
            until=self.asked.until, full=self.asked.full, bounds=self.asked.bounds,
            clean=not self.store.keys(self.prefix, limit=1),
        )  # fmt: skip
        with collect(self.engine, self.view, planned, self.before, self.keep, self._now(planned.target)) as rows:
            self.planned, self.collected = planned, rows
            self.full = planned.run.mode != "arrival"
            self.target = rows.target
            self.touched = touched(self.engine, self.view, planned.run) if planned.run.mode == "range" else None
            stamp = self._stamp()
            self._begin(stamp)
            with self._noting():
                for packed in self._packed(stamp):
                    self._write(packed)
                self._tell(rows.parts.count - 1)
                overrun = self._finish(stamp)
        rows.keep_reports(self.keep, self.view)
        return MaterializeResult(
            self.view.name, self.view.digest, self.rows, self.keys, self.until, planned.run.mode == "full",
            planned.resumed, time.monotonic() - self.started, planned.run.mode, planned.run.reason,
            planned.run.new if stamp is not None else (), stamp, overrun, rows.quarantined, rows.warnings,
        )  # fmt: skip

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Note what is written, where values of before may be left over."""
        if self.planned.run.mode != "full" or self.planned.run.clean:
            yield
            return
        self.written = Written(self.keep.spill(self.view), self.collected.parts.count)
        try:
            yield
        finally:
            self.written.close()

    # -- times ----------------------------------------------------------------------------------------------------

    def _now(self, target: int | None) -> int:
        if self.clock is not None:
            return units.to_micros(self.clock.now())
        return target or 0

    def _stamp(self) -> int | None:
        """Return when files that are new to the view shall count as known; None when there are none."""
        if self.planned.first or not self.planned.run.new:
            return None
        now = self._now(self.target)
        if self.clock is None or is_simulated(self.clock):
            return now
        return now + _LEAD + self.collected.rows * 1_000_000 // _RATE

    @property
    def until(self) -> int:
        """The known time up to which files are in when the run is done; a range does not move it."""
        before = self.before.until
        if self.planned.run.mode == "range" and before is not None:
            return before
        return self.target if before is None else max(self.target, before)

    # -- the run's record -----------------------------------------------------------------------------------------

    def _begin(self, stamp: int | None) -> None:
        """Record that the run began, so that a kill is noticed and pushes wait if it replaces values."""
        if stamp is not None:
            self.keep.publish(self.view, dict.fromkeys(self.planned.run.new, stamp))
        if self.planned.resumed:
            return
        run = self.planned.run
        changes: dict[str, object] = {"target": self.target, "full": self.full, "done": b"", "part": 0}
        if self.full:
            changes["sequence"] = self.collected.watermark
        with self.guard:
            state = Arrivals(self.arrivals.files, run)
            self.store.write(puts=[self._noted(**changes), (arrivals_key(self.view.digest), state.to_bytes())])

    def _finish(self, stamp: int | None) -> bool:
        """Remove what a full rebuild did not write, and record the end; return whether the publication came late."""
        self._remove_stale()
        files = self.collected.seen(stamp)
        with self.guard:
            note = self._noted(until=self.until, target=None, full=False, done=b"", part=0)
            self.store.write(puts=[note, (arrivals_key(self.view.digest), Arrivals(files).to_bytes())])
        if stamp is None or self.clock is None or is_simulated(self.clock):
            return False
        rest = stamp - units.to_micros(self.clock.now())
        if rest < 0:
            self.keep.publish(self.view, dict.fromkeys(self.planned.run.new, stamp - rest))
        else:
            time.sleep(rest / 1e6)  # who asks after this run finds what it brought
        return rest < 0

    def _remove_stale(self) -> None:
        if self.written is None:
            return
        for some in self.written.stale(self.store, self.prefix):
            with self.guard:
                self.store.write(puts=[(key, None) for key in some])

    def _noted(self, **changes: object) -> tuple[bytes, bytes]:
        key = checkpoint_key(self.view.digest)
        present = Checkpoint.from_bytes(self.store.get_many([key])[0])  # pushes may have moved it since the last chunk
        return key, msgspec.structs.replace(present, **changes).to_bytes()

    # -- rows to values -------------------------------------------------------------------------------------------

    def _packed(self, stamp: int | None) -> Iterator[Packed]:
        """Read and pack on another thread, `_AHEAD` slices before the writer at most, by part and key."""
        first = self.before.part if self.planned.resumed else 0
        count = self.collected.parts.count
        for number in range(first if self.written is not None else 0):  # written before the kill: not stale
            self._note_written(self._load(number, None).rows.keys)
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="pack") as pool:
            loading = pool.submit(self._load, first, stamp)
            for number in range(first, count):
                loaded = loading.result()
                if number + 1 < count:
                    loading = pool.submit(self._load, number + 1, stamp)
                self._note_written(loaded.rows.keys)
                if self.planned.resumed and number == first and self.before.done:
                    loaded = loaded.after(self.prefix + self.before.done)
                self.all_keys += len(loaded.counts)
                self.all_rows += int(loaded.counts.sum())
                queue: deque[Future[Packed]] = deque()
                for piece in loaded.slices(_SLICE):
                    queue.append(pool.submit(self._pack, number, piece))
                    if len(queue) > _AHEAD:
                        yield queue.popleft().result()
                while queue:
                    yield queue.popleft().result()

    def _load(self, number: int, stamp: int | None) -> Loaded:
        return load(self.view, self.collected.part(number, stamp), self.target - SPAN, self.touched)

    def _pack(self, part: int, piece: Loaded) -> Packed:
        return pack(self.layout, part, piece, self.target - SPAN, whole=self.full)

    def _note_written(self, keys: Sequence[bytes]) -> None:
        if self.written is not None:
            self.written.add(keys)

    # -- values to the store --------------------------------------------------------------------------------------

    def _write(self, packed: Packed) -> None:
        """Write a slice in transactions of bounded size, each with how far that is."""
        for begin, end in packed.cuts(_KEYS, _BYTES):
            items = packed.items[packed.first[begin] : packed.first[end]]
            with self.guard:
                note = self._noted(part=packed.part, done=items[-1][0][len(self.prefix) :])
                if self.full:
                    self.store.write(puts=[*items, note])
                elif self.view.is_window:
                    self.store.write(cells=items, puts=[note])
                else:
                    self.store.write(newer=items, puts=[note])
            self.keys += end - begin
            self.rows += int(packed.counts[begin:end].sum())
            self._tell(packed.part)

    def _tell(self, part: int) -> None:
        """Report; the number of entities is exact from the last part on, until then it is guessed."""
        read, count = part + 1, self.collected.parts.count
        total = self.all_keys * count // max(read, 1) if read < count else self.all_keys
        rows = max(self.collected.rows, self.all_rows) if read < count else self.all_rows
        if (part, self.keys, total) == self.told:
            return
        self.told = part, self.keys, total
        if self.progress is not None:
            self.progress(self.keys, max(total, self.keys))
        if self.detail is not None:
            spent = max(time.monotonic() - self.started, 1e-9)
            rate = self.rows / spent
            self.detail(Step(self.keys, total, self.rows, rows, rate, max(rows - self.rows, 0) / max(rate, 1e-9)))
