"""The ingest log in files: segments that are appended to, and Parquet made of those that are closed.

The surprise: opening it takes no lock. Any process may read; the first append (or `acquire`) makes a process the only
writer until it ends. A closed segment NAME.seg becomes the folder NAME.parts with one Parquet file per source. The
folder appears by one rename and the segment goes after it, so where both exist the folder counts.

A frame holds what one commit brought: rows, where the consumers of streams stand after them, messages that were no
rows. So positions and rows cannot part. `Published` corrections move the arrival of rows that were readable later than
planned; reading applies them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flyball.adapters import ingest_parts as parts
from flyball.adapters.ingest_parts import MARKS, Part
from flyball.errors import ConflictError, IntegrityError, Unavailable
from flyball.features.raw import concat_raw
from flyball.records.segment import SegmentWriter, torn_bytes
from flyball.records.types import DeadLetter, Event, Published, Record, encode

if TYPE_CHECKING:
    from flyball.adapters.event_ids import EventIdIndex

__all__ = ["FileIngestLog", "Rewritten"]

Row = dict[str, Any]
Batch = tuple[Any, ...]  # (source, rows, arrival) or (source, rows, arrival, origin)
_ROWS = 65_536  # rows of one batch of `read_batches`


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What `rewrite` took out: rows, dead letters, and how many of the log's files it had to look at."""

    rows: int
    dead: int
    files: int


class FileIngestLog:
    """Keep pushed rows in a folder.

    Args:
        folder: Where; made by the first append.
        rotate_bytes: A segment is closed when it is larger, and may then be compacted.
        dedup: How long event ids are remembered, µs of arrival; a redelivery later than that counts as a new row.
    """

    def __init__(self, folder: Path, *, rotate_bytes: int = 8_000_000, dedup: int = 7 * 86_400_000_000) -> None:
        self._folder = Path(folder)
        self._rotate = rotate_bytes
        self._dedup = dedup
        self._lock = -1
        self._writer: SegmentWriter | None = None
        self._cache: dict[str, Part] = {}
        self._looking = threading.RLock()  # two threads that follow a segment would take its rows twice
        self._stamps: dict[str, int] = {}  # when a folder's index was written, as of the last look
        self._next = 0
        self._positions: dict[tuple[str, str], str] = {}
        self.torn = 0  # bytes at the ends of segments that belong to no complete frame, as found by `acquire`

    @cached_property
    def event_ids(self) -> EventIdIndex:
        """The index of event ids beside the log; for the writer."""
        from flyball.adapters.event_ids import EventIdIndex

        index = EventIdIndex(self._folder / "ids", horizon=self._dedup)
        if index.ahead(self.last()):
            index.clear()  # else it would refuse, as sent before, events that this log does not have
        return index

    def acquire(self) -> None:
        """Become the only writer.

        Raises:
            ConflictError: another log object, here or in another process, writes to this folder.
            Unavailable: the disk does not let it.
            IntegrityError: a file of the log is damaged.
        """
        if self._writer is not None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self._folder)
            self._clean()
            self.torn = sum(torn_bytes(path) for path in self._folder.glob("*.seg"))
            self._next = self.last() + 1
            for part in self._parts():
                self._positions |= part.positions
            self._writer = SegmentWriter(self._folder, rotate_bytes=self._rotate)
        except (OSError, IntegrityError) as error:
            self._unlock()
            if isinstance(error, IntegrityError):
                raise
            raise Unavailable(f"the ingest log {self._folder} cannot be opened for writing: {error}") from error

    def append(self, source: str, rows: list[Row], *, arrival: int) -> int:
        """Append durably and return the first row's sequence number."""
        return self.append_many([(source, rows, arrival)])[0]

    def append_many(self, batches: Sequence[Batch], dead: Sequence[DeadLetter] = ()) -> list[int]:
        """Append batches and dead letters as one frame and one sync; return each batch's first sequence.

        Args:
            batches: (source, rows, arrival µs[, origin]); origin is ((stream, partition, position), ...), where a
                consumer stands after these rows.
            dead: Messages that are no rows.

        Raises:
            Unavailable: the disk took nothing of it, or it may have taken it and could not say so. Nothing that was
                acknowledged before is touched; the next append tries again.
        """
        self.acquire()
        sequence, events = self._next, []
        for source, rows, arrival, *origin in batches:
            events.append(Event(source, sequence, arrival, rows, tuple(origin[0]) if origin else ()))
            sequence += len(rows)
        self._append([*events, *dead], sequence)
        return [event.sequence for event in events]

    def publish(self, marks: Sequence[Published]) -> None:
        """Record durably that rows could be read later than their arrival says."""
        if marks:
            self.acquire()
            self._append(list(marks), self._next)

    def _append(self, records: list[Record], following: int) -> None:
        writer = self._writer
        assert writer is not None
        try:
            writer.append(encode(records))
        except OSError as error:
            raise Unavailable(
                f"the ingest log {self._folder} took nothing of this: {error.strerror or error}. What was acknowledged "
                "is safe; make room, then send it again"
            ) from error
        self._next = following  # even when the sync fails: the rows are in the file, and the positions with them
        for record in records:
            if isinstance(record, Event):
                self._positions |= {(stream, partition): at for stream, partition, at in record.origin}
        try:
            writer.sync()
        except OSError as error:
            writer.abandon()  # a failed sync is not to be tried again on the same file
            raise Unavailable(
                f"the ingest log {self._folder} could not be brought to the disk: {error.strerror or error}; "
                "send it again"
            ) from error

    def read(self, source: str, *, after: int = 0) -> pa.Table:
        """Return rows with sequence > `after`: raw columns plus `__sequence`, `__arrival` (int64), in sequence."""
        tables = list(self.read_batches(source, after=after))
        return concat_raw(tables) if tables else MARKS.empty_table()

    def read_batches(self, source: str, *, after: int = 0, rows: int = _ROWS) -> Iterator[pa.Table]:
        """Yield what `read` returns in pieces of about `rows` rows, so that the log need not fit into memory.

        Column types are those of each piece; `features.raw.concat_raw` brings pieces together.
        """
        self._refresh()
        marks = self._marks(source)
        for name in sorted([*self._cache]):
            for table in self._read_part(name, source, after, rows):
                yield _corrected(table, marks)
                after = table.column("__sequence")[-1].as_py()

    def _read_part(self, name: str, source: str, after: int, rows: int) -> Iterator[pa.Table]:
        while True:
            try:
                for table in parts.read_part(self._cache[name], source, after, rows):
                    after = table.column("__sequence")[-1].as_py()
                    yield table
            except FileNotFoundError as error:  # rewritten since its index was read
                before, now = self._cache[name], parts.load(self._folder / f"{name}.parts")
                if now.files.get(source) == before.files.get(source) and before.offset < 0:
                    raise parts.damaged(now.path / now.files[source], "it is gone") from error
                self._cache[name] = now
                continue
            return

    def rows(self, source: str) -> int:
        """Return how many rows of a source there are, by the indices of the parts."""
        self._refresh()
        return sum(part.spans[source][2] for part in list(self._cache.values()) if source in part.spans)

    def revision(self, source: str) -> int:
        """Return a number that changes when rows that may have been read before changed: corrected or erased."""
        self._refresh()
        return sum(p.generation + sum(m.source == source for m in p.published) for p in list(self._cache.values()))

    def last(self) -> int:
        """Return the highest sequence in the log, 0 when it is empty."""
        if self._writer is not None:
            return self._next - 1
        self._refresh()
        return max((part.last for part in list(self._cache.values())), default=0)

    def count(self, source: str) -> int:
        """Return how many rows a source has in the log."""
        self._refresh()
        return sum(part.spans[source][2] for part in list(self._cache.values()) if source in part.spans)

    def sources(self) -> list[str]:
        """Return the names of the sources that have rows."""
        self._refresh()
        return sorted({source for part in list(self._cache.values()) for source in part.spans})

    def positions(self, stream: str) -> dict[str, str]:
        """Return, by partition, where the consumer of a stream stands; no partition when it never read."""
        if self._writer is None:
            self._refresh()
            for part in self._parts():
                self._positions |= part.positions
        return {partition: at for (name, partition), at in self._positions.items() if name == stream}

    def dead(self, source: str | None = None) -> pa.Table:
        """Return the messages that were no rows (of one source), oldest first, with the reason."""
        self._refresh()
        table = pa.concat_tables([parts.dead_of(p) for p in self._parts()] or [parts.DEAD.empty_table()])
        return table if source is None else table.filter(pc.equal(table.column("source"), source))

    def dead_count(self) -> int:
        """Return how many messages were no rows."""
        self._refresh()
        return sum(part.dead for part in list(self._cache.values()))

    def compact(self) -> int:
        """Turn closed segments into Parquet; return how many. Only the writer does it."""
        self.acquire()
        assert self._writer is not None
        open_now = self._writer.path
        done = 0
        for path in sorted(self._folder.glob("*.seg")):
            if path != open_now:
                self._refresh()
                part = parts.follow(path, None)
                self._cache[path.stem] = parts.load(parts.pack(part, lambda s, t: _corrected(t, self._marks(s))))
                path.unlink()
                done += 1
        return done

    def rewrite(
        self,
        source: str,
        drop: Callable[[pa.Table], Any],
        *,
        dead: Callable[[pa.Table], Any] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Rewritten:
        """Take rows out of the log for good; sequences stay. Only the writer does it.

        Each file is replaced at once; a kill leaves some done and some not, and calling again does the rest.

        Args:
            source: Whose rows.
            drop: Raw columns of some rows -> a mask, true for what goes.
            dead: The same over dead letters of the source (`source, ..., payload, error`); None leaves them.
            progress: Called with (files done, files in all).
        """
        self.acquire()
        assert self._writer is not None
        self._writer.close()  # the next append begins a new segment
        self.compact()
        rows = letters = 0
        names = sorted(self._cache)
        for i, name in enumerate(names):
            gone, gone_dead = parts.rewrite_part(self._cache[name], source, drop, dead)
            parts.clean(self._cache[name].path)  # also what a killed rewrite left here
            rows, letters = rows + gone, letters + gone_dead
            if progress is not None:
                progress(i + 1, len(names))
        return Rewritten(rows, letters, len(names))

    def close(self) -> None:
        """Sync, close and let another writer in."""
        index = self.__dict__.pop("event_ids", None)
        if index is not None:
            index.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _clean(self) -> None:
        """Finish what a killed compaction or rewrite left."""
        for making in self._folder.glob("*.making"):
            shutil.rmtree(making)
        for folder in self._folder.glob("*.parts"):
            folder.with_suffix(".seg").unlink(missing_ok=True)
            parts.clean(folder)

    def _parts(self) -> list[Part]:
        return [self._cache[name] for name in sorted(self._cache)]

    def _marks(self, source: str) -> list[Published]:
        return [m for part in list(self._cache.values()) for m in part.published if m.source == source]

    def _refresh(self) -> None:
        with self._looking:
            folders = {p.stem for p in self._folder.glob("*.parts")}
            for stem in folders:
                path = self._folder / f"{stem}.parts"
                known = self._cache.get(stem)
                if known is None or known.offset >= 0 or _stamp(path) != self._stamps.get(stem):
                    self._stamps[stem] = _stamp(path)
                    self._cache[stem] = parts.load(path)
            for path in sorted(self._folder.glob("*.seg")):
                if path.stem in folders:
                    continue
                try:
                    self._cache[path.stem] = parts.follow(path, self._cache.get(path.stem))
                except FileNotFoundError:  # compacted since we looked
                    self._cache[path.stem] = parts.load(path.with_suffix(".parts"))


def _stamp(folder: Path) -> int:
    return (folder / "index.json").stat().st_mtime_ns


def _locked(folder: Path) -> int:
    lock = os.open(folder / "writer.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ConflictError(
            f"the ingest log {folder} already has a writer; push through the process that holds it "
            "(flyball up), or end that process"
        ) from error
    return lock


def _corrected(table: pa.Table, marks: Sequence[Published]) -> pa.Table:
    """Apply corrections to `__arrival`; once or several times is the same."""
    if not marks or not table.num_rows:
        return table
    sequence = table.column("__sequence").to_numpy()
    mine = [m for m in marks if m.first <= sequence[-1] and m.last >= sequence[0]]
    if not mine:
        return table
    arrival = table.column("__arrival").to_numpy().copy()
    for mark in mine:
        begin, end = np.searchsorted(sequence, (mark.first, mark.last + 1))
        np.maximum(arrival[begin:end], mark.at, out=arrival[begin:end])
    place = table.schema.get_field_index("__arrival")
    return table.set_column(place, "__arrival", pa.array(arrival, pa.int64()))
