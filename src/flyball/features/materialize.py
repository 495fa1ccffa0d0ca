"""Bring history into the online store: everything (full), or what became known since the last time.

The surprise: it works by entity, in the order of their keys, a few hundred to a transaction, and each transaction
says in the view's checkpoint how far it came. So a killed run goes on where it stopped, and ingest may apply pushes
between two chunks. During a full rebuild pushes to that view wait in the log; values are overwritten one by one, so a
reader sees an entity's old value until it sees its new one. Files that appear later with rows known before the last
`until` are not picked up by an incremental run; that takes `full`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime

import msgspec
import numpy as np

from flyball import units
from flyball.features.cells import WindowLayout, merge_windows
from flyball.features.packing import (
    SPAN,
    Checkpoint,
    RowLayout,
    Rows,
    checkpoint_key,
    merge_rows,
    namespace,
    read_rows,
)
from flyball.features.ports import OfflineEngine, OnlineStore
from flyball.features.spec import ViewSpec

__all__ = ["MaterializeResult", "Progress", "materialize"]

Progress = Callable[[int, int], None]
_KEYS = 256  # entities in one transaction
_ROWS = 8_192  # rows in one transaction, unless one entity has more


@dataclass(frozen=True, slots=True)
class MaterializeResult:
    """What a materialization did; `until` is the known time (µs) up to which files are in now."""

    view: str
    digest: str
    rows: int
    keys: int
    until: int | None
    full: bool
    resumed: bool
    seconds: float


def materialize(
    engine: OfflineEngine,
    store: OnlineStore,
    view: ViewSpec,
    *,
    until: datetime | None,
    full: bool = False,
    progress: Progress | None = None,
    lock: AbstractContextManager[object] | None = None,
) -> MaterializeResult:
    """Bring a view's online values up to `until`.

    Args:
        engine: Where history is.
        store: The online store; this must be its only writing process.
        view: What to bring.
        until: Rows of files known later than this stay out; None takes every row there is.
        full: Rebuild the namespace; the first time is always full.
        progress: Called with (entities done, entities in all) after each transaction.
        lock: Held for each transaction, not between them; ingest gives its own.

    Returns:
        What was done. Calling it again with the same `until` does nothing.
    """
    started = time.monotonic()
    guard = lock or nullcontext()
    before = Checkpoint.from_bytes(store.get_many([checkpoint_key(view.digest)])[0])
    limit = None if until is None else units.to_micros(until)
    work = _plan(engine, view, before, limit, full=full)
    with guard:
        work.begin(store)
    done = 0
    for keys in work.chunks():
        with guard:
            work.write(store, keys)
        done += len(keys)
        if progress is not None:
            progress(done, len(work.order))
    with guard:
        work.finish(store)
    return MaterializeResult(view.name, view.digest, len(work.rows), len(work.order), work.target, work.full,
                             before.target is not None, time.monotonic() - started)  # fmt: skip


@dataclass(slots=True)
class _Work:
    """One run: `order` are the entities (indices into rows.keys) still to write, by key."""

    view: ViewSpec
    rows: Rows
    order: np.ndarray
    starts: np.ndarray  # per entry of `order`, its rows in `rows` (sorted by owner)
    ends: np.ndarray
    target: int
    full: bool
    watermark: int
    resumed: bool

    def begin(self, store: OnlineStore) -> None:
        """Record that the run began, so that a kill is noticed."""
        if not self.resumed:
            self._note(store, sequence=self.watermark if self.full else None, target=self.target, full=self.full)

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield positions in `order`, few enough for one transaction."""
        sizes = np.cumsum(self.ends - self.starts)
        begin = 0
        while begin < len(self.order):
            spent = int(sizes[begin - 1]) if begin else 0
            end = min(begin + _KEYS, max(begin + 1, int(np.searchsorted(sizes, spent + _ROWS, "right"))))
            yield np.arange(begin, end)
            begin = end

    def write(self, store: OnlineStore, positions: np.ndarray) -> None:
        """Write these entities and how far that is, in one transaction."""
        which = np.concatenate([np.arange(self.starts[p], self.ends[p]) for p in positions])
        prefix, rows = namespace(self.view.digest), self.rows.take(which)
        layout = WindowLayout(self.view) if self.view.is_window else RowLayout(self.view)
        items = [(prefix + key, value) for key, value in layout.pack(rows, self.target - SPAN)]
        last = self.rows.keys[self.order[positions[-1]]]
        note = self._noted(store, done=last)
        if self.full:
            whole = merge_windows([(None, v) for _, v in items]) if self.view.is_window else None
            puts = _chains(items) if whole is None else [(k, v) for (k, _), v in zip(items, whole, strict=True)]
            store.write(puts=[*puts, note])
        elif self.view.is_window:
            store.write(cells=items, puts=[note])
        else:
            store.write(newer=items, puts=[note])

    def finish(self, store: OnlineStore) -> None:
        """Remove what a full rebuild did not write, and record the end."""
        if self.full:
            prefix = namespace(self.view.digest)
            kept = {prefix + key for key in self.rows.keys}
            stale = [key for key in store.keys(prefix) if key not in kept]
            for i in range(0, len(stale), 10_000):
                store.write(puts=[(key, None) for key in stale[i : i + 10_000]])
        self._note(store, until=self.target, target=None, full=False, done=b"")

    def _note(self, store: OnlineStore, **changes: object) -> None:
        store.write(puts=[self._noted(store, **changes)])

    def _noted(self, store: OnlineStore, **changes: object) -> tuple[bytes, bytes]:
        key = checkpoint_key(self.view.digest)
        present = Checkpoint.from_bytes(store.get_many([key])[0])  # pushes may have moved it since the last chunk
        given = {name: value for name, value in changes.items() if value is not None or name == "target"}
        return key, msgspec.structs.replace(present, **given).to_bytes()


def _chains(items: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    chains: dict[bytes, bytes] = {}
    for key, record in items:
        chains[key] = merge_rows(chains.get(key), record) or chains[key]
    return list(chains.items())


def _plan(engine: OfflineEngine, view: ViewSpec, before: Checkpoint, until: int | None, *, full: bool) -> _Work:
    resumed = before.target is not None and (before.full or not full)
    full = before.full if resumed else full or before.until is None
    rows = read_rows(view, engine.scan(view.source, columns=view.columns))
    pushed = rows.sequence > 0
    watermark = before.sequence if resumed else int(rows.sequence.max(initial=0))
    target = before.target if resumed else until
    if target is None:
        target = int(rows.known.max(initial=before.until or 0))
    if full:
        rows = rows.take(np.where(pushed, rows.sequence <= watermark, rows.known <= target))
    else:
        since = before.until if before.until is not None else np.iinfo(np.int64).min
        rows = rows.take(~pushed & (rows.known > since) & (rows.known <= target))
    rows = _compact(rows.take(np.argsort(rows.owner, kind="stable")))
    starts = np.flatnonzero(np.r_[True, rows.owner[1:] != rows.owner[:-1]]) if len(rows) else np.empty(0, np.int64)
    ends = np.append(starts[1:], len(rows))[: len(starts)]
    order = np.array(sorted(range(len(rows.keys)), key=rows.keys.__getitem__), np.int64)
    if resumed and before.done:
        order = order[[rows.keys[i] > before.done for i in order]] if len(order) else order
    return _Work(view, rows, order, starts[order], ends[order], max(target, before.until or target), full,
                 watermark, resumed)  # fmt: skip


def _compact(rows: Rows) -> Rows:
    """Renumber sorted owners from 0 without gaps, so that keys without rows are gone."""
    used, owner = np.unique(rows.owner, return_inverse=True)
    return Rows([rows.keys[i] for i in used], owner, rows.event, rows.created, rows.known, rows.sequence, rows.columns)
