"""The ingest log in files: segments that are appended to, and Parquet made of those that are closed.

The surprise: opening it takes no lock. Any process may read; the first append (or `acquire`) makes a process the only
writer until it ends. A closed segment NAME.seg becomes the folder NAME.parts with one Parquet file per source. The
folder appears by one rename and the segment goes after it, so where both exist the folder counts.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flyball.errors import ConflictError
from flyball.features.raw import concat_raw, raw_table
from flyball.records.segment import SegmentWriter, read_frames, torn_bytes
from flyball.records.types import Event, decode, encode

__all__ = ["FileIngestLog"]

Row = dict[str, Any]
_MARKS = pa.schema([("__sequence", pa.int64()), ("__arrival", pa.int64())])


@dataclass(slots=True)
class _Segment:
    """What was decoded of one segment or parts folder so far."""

    offset: int = 0
    last: int = 0
    tables: dict[str, list[pa.Table]] = field(default_factory=dict)


class FileIngestLog:
    """Keep pushed rows in a folder.

    Args:
        folder: Where; made by the first append.
        rotate_bytes: A segment is closed when it is larger, and may then be compacted.
    """

    def __init__(self, folder: Path, *, rotate_bytes: int = 8_000_000) -> None:
        self._folder = Path(folder)
        self._rotate = rotate_bytes
        self._lock = -1
        self._writer: SegmentWriter | None = None
        self._cache: dict[str, _Segment] = {}
        self._next = 0
        self.torn = 0  # bytes at the ends of segments that belong to no complete frame, as found by `acquire`

    def acquire(self) -> None:
        """Become the only writer.

        Raises:
            ConflictError: another log object, here or in another process, writes to this folder.
        """
        if self._writer is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / "writer.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ConflictError(
                f"the ingest log {self._folder} already has a writer; push through the process that holds it "
                "(flyball up), or end that process"
            ) from error
        self._lock = lock
        self._clean()
        self.torn = sum(torn_bytes(path) for path in self._folder.glob("*.seg"))
        self._next = self.last() + 1
        self._writer = SegmentWriter(self._folder, rotate_bytes=self._rotate)

    def append(self, source: str, rows: list[Row], *, arrival: int) -> int:
        """Append durably and return the first row's sequence number."""
        return self.append_many([(source, rows, arrival)])[0]

    def append_many(self, batches: Sequence[tuple[str, list[Row], int]]) -> list[int]:
        """Append (source, rows, arrival) batches as one frame and one sync; return each one's first sequence."""
        self.acquire()
        assert self._writer is not None
        sequence, events = self._next, []
        for source, rows, arrival in batches:
            events.append(Event(source, sequence, arrival, rows))
            sequence += len(rows)
        self._writer.append(encode(list(events)))
        self._next = sequence  # even when the sync fails: the rows are in the file
        self._writer.sync()
        return [event.sequence for event in events]

    def read(self, source: str, *, after: int = 0) -> pa.Table:
        """Return rows with sequence > `after`: raw columns plus `__sequence`, `__arrival` (int64), in sequence."""
        self._refresh()
        tables = [t for name in sorted(self._cache) for t in self._cache[name].tables.get(source, ())
                  if t.column("__sequence")[-1].as_py() > after]  # fmt: skip
        if not tables:
            return _MARKS.empty_table()
        table = concat_raw(tables)
        if after and table.column("__sequence")[0].as_py() <= after:
            table = table.filter(pc.greater(table.column("__sequence"), after))
        return table

    def last(self) -> int:
        """Return the highest sequence in the log, 0 when it is empty."""
        if self._writer is not None:
            return self._next - 1
        self._refresh()
        return max((s.last for s in self._cache.values()), default=0)

    def sources(self) -> list[str]:
        """Return the names of the sources that have rows."""
        self._refresh()
        return sorted({source for segment in self._cache.values() for source in segment.tables})

    def compact(self) -> int:
        """Turn closed segments into Parquet; return how many. Only the writer does it."""
        self.acquire()
        assert self._writer is not None
        open_now = self._writer.path
        done = 0
        for path in sorted(self._folder.glob("*.seg")):
            if path != open_now:
                self._compact(path)
                done += 1
        return done

    def close(self) -> None:
        """Sync, close and let another writer in."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            os.close(self._lock)
            self._lock = -1

    def _compact(self, path: Path) -> None:
        segment = _follow(path, _Segment())
        parts, making = path.with_suffix(".parts"), path.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        names = {f"{i}.parquet": source for i, source in enumerate(sorted(segment.tables))}
        for name, source in names.items():
            pq.write_table(concat_raw(segment.tables[source]), making / name, compression="zstd")
        (making / "index.json").write_text(json.dumps({"last": segment.last, "files": names}))
        for file in making.iterdir():
            _sync(file)
        making.rename(parts)
        _sync(self._folder)
        path.unlink()

    def _clean(self) -> None:
        """Finish what a killed compaction left."""
        for making in self._folder.glob("*.making"):
            shutil.rmtree(making)
        for parts in self._folder.glob("*.parts"):
            parts.with_suffix(".seg").unlink(missing_ok=True)

    def _refresh(self) -> None:
        parts = {p.stem for p in self._folder.glob("*.parts")}
        for stem in parts:
            if stem not in self._cache or self._cache[stem].offset >= 0:
                self._cache[stem] = _load(self._folder / f"{stem}.parts")
        for path in sorted(self._folder.glob("*.seg")):
            if path.stem in parts:
                continue
            try:
                self._cache[path.stem] = _follow(path, self._cache.get(path.stem) or _Segment())
            except FileNotFoundError:  # compacted since we looked
                self._cache[path.stem] = _load(path.with_suffix(".parts"))


def _load(parts: Path) -> _Segment:
    index = json.loads((parts / "index.json").read_text())
    tables = {source: [pq.read_table(parts / name)] for name, source in index["files"].items()}
    return _Segment(offset=-1, last=index["last"], tables=tables)


def _follow(path: Path, known: _Segment) -> _Segment:
    """Decode what was appended to a segment since."""
    if path.stat().st_size <= known.offset:
        return known
    fresh: dict[str, list[Event]] = {}
    for frame in read_frames(path, known.offset):
        for event in decode(frame.payload):
            if isinstance(event, Event) and event.rows:
                fresh.setdefault(event.source, []).append(event)
                known.last = max(known.last, event.sequence + len(event.rows) - 1)
        known.offset = frame.end
    for source, events in fresh.items():
        mine = known.tables.setdefault(source, [])
        mine.append(_table(events))
        if len(mine) > 16:
            mine[:] = [concat_raw(mine)]
    return known


def _table(events: Sequence[Event]) -> pa.Table:
    rows = [row for event in events for row in event.rows]
    table = raw_table(rows)
    sequence = [event.sequence + k for event in events for k in range(len(event.rows))]
    arrival = [event.arrival for event in events for _ in event.rows]
    for name, marks in zip(_MARKS.names, (sequence, arrival), strict=True):
        table = table.append_column(name, pa.array(marks, pa.int64()))
    return table


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
