"""The prediction log on its way out: closed segments become Parquet in a folder or an object store.

Files are named after their segment, written whole or not at all, and only then noted in `shipped.json`; a kill at any
moment leaves at most files that the next run writes again, the same. The surprise: one process ships. A second one is
told by the lock, so that two never write the journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from flyball.adapters.local.segments import read_shipped, segments_of, write_shipped
from flyball.disk import write_atomically
from flyball.errors import Refused, Unavailable, first_line
from flyball.records.columnar import Placed, records_of, tables_of
from flyball.records.segment import Frame, read_frames, salvage_frames, torn_bytes
from flyball.records.shipping import Part, Segment, Shipped, due, file_name
from flyball.records.types import Record, decode

__all__ = ["LogShipper", "ShippedFiles", "placed"]

_LOCK = "shipper.lock"
_TIMES = {"predictions": "at", "shadows": "at", "outcomes": "received", "exposures": "at"}


class ShippedFiles:
    """The Parquet files at an address that fsspec knows: a folder, s3://BUCKET/PATH, gs://..., memory://...

    Raises:
        Unavailable: nobody serves such an address here.
    """

    def __init__(self, address: str) -> None:
        try:
            self._fs, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        except (ValueError, ImportError, OSError) as error:
            raise Unavailable(f"log.ship_to cannot be used: {first_line(error)}") from error
        self._root = str(root).rstrip("/")
        protocols = self._fs.protocol if isinstance(self._fs.protocol, tuple | list) else (self._fs.protocol,)
        self.local = "file" in protocols

    def put(self, path: str, table: pa.Table) -> int:
        """Write a table as one Parquet file, whole or not at all, and return its bytes."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", compression_level=3, write_statistics=True)
        data = buffer.getvalue()
        where = f"{self._root}/{path}"
        with self._named():
            if self.local:
                write_atomically(Path(where), data, durable=True)
            else:
                self._fs.pipe_file(where, data)  # object stores show an object only when it is whole
        return len(data)

    def read(self, path: str) -> pa.Table:
        """Return a file's table."""
        return pq.read_table(io.BytesIO(self.content(path)), partitioning=None)

    def content(self, path: str) -> bytes:
        """Return a file's bytes."""
        with self._named():
            return bytes(self._fs.cat_file(f"{self._root}/{path}"))

    def delete(self, path: str) -> None:
        """Take a file away; one that is gone already is fine."""
        with self._named(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{path}")

    def address(self, path: str) -> str:
        """Return where a file lies, for DuckDB."""
        return f"{self._root}/{path}"

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(f"the shipped log cannot be reached: {first_line(error)}; it is tried again") from error


class LogShipper:
    """Ship one node's log; hold it open as long as nobody else may.

    Args:
        root: The log's folder.
        files: Where Parquet goes.

    Raises:
        Refused: another process ships this log.
    """

    def __init__(self, root: Path, files: ShippedFiles) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._files = files
        self._lock = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise Refused(f"another process ships the log in {root}; one is enough, it goes on by itself") from error
        self.shipped = read_shipped(root)

    def ship(self, *, say: Callable[[Segment, int], None] = lambda *_: None) -> int:
        """Ship every closed segment and return how many; `say` is told each one and its rows."""
        segments = due(segments_of(self._root), self.shipped)
        for segment in segments:
            parts = self._ship(segment)
            self._keep(self.shipped.with_segment(segment.name, parts, torn_bytes(self._root / segment.name)))
            say(segment, sum(part.rows for part in parts))
        return len(segments)

    def forget(self, parts: list[Part]) -> None:
        """Delete Parquet files and strike them off."""
        for part in parts:
            self._files.delete(part.path)
        self._keep(self.shipped.without(part.path for part in parts))

    def remove(self, segments: list[Segment]) -> None:
        """Delete segments that were shipped."""
        for segment in segments:
            if segment.name in self.shipped.segments:
                (self._root / segment.name).unlink(missing_ok=True)

    def rewrite(self, drop: Callable[[Record], bool]) -> int:
        """Write every file anew without the records that `drop` finds, and return how many those were."""
        gone = 0
        for name, parts in self.shipped.segments.items():
            kept = [self._without(part, drop) for part in parts]
            if any(lost for _, lost in kept):
                gone += sum(lost for _, lost in kept)
                left = [part for part, _ in kept if part is not None]
                self._keep(self.shipped.with_segment(name, left, self.shipped.torn.get(name, 0)))
        return gone

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)

    def _ship(self, segment: Segment) -> list[Part]:
        parts = []
        for kind, table in tables_of(_placed(segment.name, salvage_frames(self._root / segment.name))).items():
            for (model, date), rows in _partitions(kind, table):
                path = file_name(kind, model, date, segment.name)
                parts.append(Part(path, len(rows), self._files.put(path, rows), _newest(kind, rows)))
        return parts

    def _without(self, part: Part, drop: Callable[[Record], bool]) -> tuple[Part | None, int]:
        kind = part.path.partition("/")[0]
        table = self._files.read(part.path)
        keep = [not drop(each.record) for each in records_of(kind, table)]
        lost = keep.count(False)
        if not lost:
            return part, 0
        rows = table.filter(pa.array(keep))
        if not len(rows):
            self._files.delete(part.path)
            return None, lost
        return Part(part.path, len(rows), self._files.put(part.path, rows), _newest(kind, rows)), lost

    def _keep(self, shipped: Shipped) -> None:
        write_shipped(self._root, shipped)
        self.shipped = shipped


def placed(root: Path, segment: str) -> Iterator[Placed]:
    """Yield the records of one segment with their places."""
    yield from _placed(segment, read_frames(root / segment))


def _placed(segment: str, frames: Iterable[Frame]) -> Iterator[Placed]:
    for frame in frames:
        for place, record in enumerate(decode(frame.payload)):
            yield Placed(segment, frame.start, place, record)


def _partitions(kind: str, table: pa.Table) -> Iterator[tuple[tuple[str, str], pa.Table]]:
    """Yield ((model, day), rows in order of time) of a table; outcomes and exposures belong to no model."""
    import pyarrow.compute as pc

    time = _TIMES[kind]
    table = table.sort_by([(time, "ascending"), ("frame", "ascending"), ("place", "ascending")])
    days = pc.strftime(table.column(time), format="%Y-%m-%d")
    named = "model" in table.schema.names
    models = table.column("model").cast(pa.string()) if named else pa.array([""] * len(table))
    keys: Any = pa.table({"model": models, "day": days})
    for model, day in sorted(
        {(r["model"], r["day"]) for r in keys.group_by(["model", "day"]).aggregate([]).to_pylist()}
    ):
        mask = pc.and_(pc.equal(keys.column("model"), model), pc.equal(keys.column("day"), day))
        yield (model, day), table.filter(mask)


def _newest(kind: str, rows: pa.Table) -> int:
    import pyarrow.compute as pc

    return int(pc.max(rows.column(_TIMES[kind]).cast(pa.int64())).as_py())
