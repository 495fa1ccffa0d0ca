"""Read sources and answer requests with Spark: files by its readers, entities by its shuffle, features by the kernel.

    Parquet                 Spark's reader, raw columns, mapInArrow: accept, cut into blocks by bucket of the entity
    other files             one task a file, read as one machine reads it, cut the same way
    pushes, tables, SQL     read here, cut the same way
    requests                numbered, cut by bucket; cogroup by bucket, applyInArrow: the kernel; back by number

The surprise: Spark evaluates no expression and no window. Rows are accepted by the function that accepts pushed rows
and answered by the kernel that serves, so an answer cannot depend on Spark's version, ANSI mode or time zone.

Workers need flyball installed, and the project's folder at the same path (shared storage, or one machine).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from flyball.adapters.spark_session import start, translated
from flyball.adapters.spark_tasks import (
    FILE,
    POSITION,
    ROW,
    Answer,
    Cut,
    Prepare,
    ReadFiles,
    TakeRows,
    blocks_of,
    in_tasks,
    joined,
    local_path,
    unpacked,
)
from flyball.errors import SourceError, UnknownName
from flyball.features import types
from flyball.features.answers import answer_rows, row_columns
from flyball.features.chunks import buckets_for
from flyball.features.kernel.timeline import row_order
from flyball.features.ports import FileInfo, OfflineEngine
from flyball.features.reading import files as listing
from flyball.features.reading.files import Shape, SourceFile
from flyball.features.reading.schema import needed, needed_steps, quarantine_columns
from flyball.features.spec import ColumnType, FeatureSpec, Join, SourceSpec, ViewSpec
from flyball.units import to_micros

__all__ = ["LocalEngine", "SparkEngine"]

LOT = 4_000_000
"""Requests answered together; more than these are answered lot by lot, in bounded memory here."""
_TIMES = ("__event", "__created", "__known", "__sequence")
_PLAIN_NAME = re.compile(r"/(?:[^/*?\[\]{}\\%:,#\n]+/)*[^/*?\[\]{}\\%:,#\n._][^/*?\[\]{}\\%:,#\n]*")
_BLOCK = "bucket int, block binary"


class LocalEngine(OfflineEngine, Protocol):
    """What one machine does for Spark: know the files and their types, read what is no plain Parquet."""

    def types(self, source: SourceSpec, *, fresh: bool = False) -> dict[str, ColumnType]:
        """Return the types of a source's raw and derived columns."""
        ...

    def pin(self, source: SourceSpec) -> dict[str, ColumnType]:
        """Pin a source's raw types as they are now."""
        ...

    def report(self, source: SourceSpec) -> Any:
        """Count what reading the whole source meets."""
        ...

    def forget(self, source: str) -> None:
        """Forget the pushed rows that are held in memory."""
        ...

    def count(self, source: SourceSpec) -> int:
        """Return about how many rows a source has."""
        ...


class SparkEngine:
    """Move rows with Spark.

    Args:
        root: The project's root; sources' paths are relative to it.
        local: The engine of this machine, which knows the log of pushed rows.
        reader: Makes an engine without a log in a worker; must pickle.
        master: Where Spark runs, such as "local[2]", "yarn" or "spark://HOST:7077".
        options: Further Spark options; they count when Spark is started by this process's first engine.
        state: Where pinned types and frames lie; `.flyball` in the root by default.
        published: When the files of a view's source became readable online (path -> µs), for `answer`.
        prepare: Called in each worker's tasks, to let it find the project's Python functions; must pickle.
        buckets: Into how many buckets entities are dealt; by size by default.
    """

    def __init__(
        self,
        root: Path,
        local: LocalEngine,
        *,
        reader: Callable[[], OfflineEngine],
        master: str = "local[*]",
        options: Mapping[str, str] | None = None,
        state: Path | None = None,
        published: Callable[[ViewSpec], Mapping[str, int]] | None = None,
        prepare: Prepare | None = None,
        buckets: int | None = None,
    ) -> None:
        self._root = Path(root)
        self._local = local
        self._reader = reader
        self._master, self._options = master, dict(options or {})
        self._state = self._root / ".flyball" if state is None else Path(state)
        self._published = published
        self._prepare = prepare
        self._buckets = buckets
        self._lock = threading.Lock()

    @cached_property
    def session(self) -> Any:
        """Our Spark session; Spark starts with its first use."""
        with self._lock:
            return self.__dict__.get("session") or start(self._master, self._options)

    # -------------------------------------------------------------------------------------------- what there is

    def types(self, source: SourceSpec, *, fresh: bool = False) -> dict[str, ColumnType]:
        """Return the types of a source's raw and derived columns."""
        return self._local.types(source, fresh=fresh)

    def pin(self, source: SourceSpec) -> dict[str, ColumnType]:
        """Pin a source's raw types as they are now; done at apply."""
        return self._local.pin(source)

    def files(self, source: SourceSpec) -> list[FileInfo]:
        """Return a source's files in order of their names."""
        return self._local.files(source)

    def rejected(self, source: SourceSpec) -> int:
        """Return how many rows were left out."""
        return self._local.rejected(source)

    def report(self, source: SourceSpec) -> Any:
        """Count what reading the whole source meets."""
        return self._local.report(source)

    def forget(self, source: str) -> None:
        """Forget the rows pushed to a source that are held in memory."""
        self._local.forget(source)

    def count(self, source: SourceSpec) -> int:
        """Return about how many rows a source has, without reading them."""
        return self._local.count(source)

    # -------------------------------------------------------------------------------------------- rows

    def scan(
        self,
        source: SourceSpec,
        *,
        columns: Sequence[str],
        start: datetime | None = None,
        end: datetime | None = None,
        files: Sequence[str] | None = None,
        pushed: bool = True,
        published: Mapping[str, int] | None = None,
    ) -> pa.Table:
        """Return accepted rows as Arrow, sorted by (event, created, sequence); see `OfflineEngine.scan`.

        Raises:
            SourceError: there is no file and nothing was pushed, a file cannot be read, a column is missing or has
                another type than it had.
        """
        cut = self._cut(source, columns, start=start, end=end)
        found = self._collect(self._blocks(source, cut, files, pushed, published or {}), source)
        table = joined(found.column("block"))
        if table is None:
            return cut.schema.empty_table()
        order = row_order(*(table.column(n).to_numpy() for n in ("__event", "__created", "__sequence")))
        return table if order is None else table.take(pa.array(order))

    def batches(
        self,
        source: SourceSpec,
        *,
        columns: Sequence[str],
        start: datetime | None = None,
        end: datetime | None = None,
        files: Sequence[str] | None = None,
        pushed: bool = True,
        published: Mapping[str, int] | None = None,
    ) -> Iterator[pa.Table]:
        """Return the rows of `scan` in pieces of bounded size, in no order."""
        cut = self._cut(source, columns, start=start, end=end)
        found = False
        for block in self._each(self._blocks(source, cut, files, pushed, published or {}), source):
            found = True
            yield block
        if not found:
            yield cut.schema.empty_table()

    def answer(self, requests: pa.Table, view: ViewSpec, features: Sequence[FeatureSpec], *, join: Join) -> pa.Table:
        """Answer one view's features; see `OfflineEngine.answer`."""
        return pa.concat_tables(self.answers(iter([requests]), view, features, join=join, expected=requests.num_rows))

    def answers(
        self,
        requests: Iterator[pa.Table],
        view: ViewSpec,
        features: Sequence[FeatureSpec],
        *,
        join: Join,
        expected: int,
        done: Callable[[int], None] | None = None,
    ) -> Iterator[pa.Table]:
        """Answer requests of any number; see `OfflineEngine.answers`. Lot by lot, over rows that are read once."""
        source = view.source
        keys = tuple(k.name for k in view.entity.keys)
        published = None if self._published is None else self._published(view)
        outputs = self._local.types(source)
        fits = all(outputs.get(k.name) == k.type for k in view.entity.keys)  # else the kernel says what is wrong
        buckets = self._buckets_for(source, expected) if fits else 1
        cut = self._cut(source, row_columns(view, features), keys=keys, buckets=buckets)
        work = Answer(view, tuple(features), join, cut.schema, self._prepare)
        rows: Any = None
        try:
            for lot, is_last in _lots(requests):
                if not lot.num_rows:
                    yield answer_rows(cut.schema.empty_table(), lot, view, features, join=join)
                    continue
                if rows is None:
                    rows = self._blocks(source, cut, None, True, published or {})
                    rows = rows if is_last else rows.persist()
                yield self._answered(rows, lot, cut, work)
                if done is not None:
                    done(lot.num_rows)
        finally:
            if rows is not None and rows.is_cached:
                rows.unpersist()

    def _answered(self, rows: Any, requests: pa.Table, cut: Cut, work: Answer) -> pa.Table:
        numbered = requests.append_column(POSITION, pa.array(np.arange(requests.num_rows)))
        asked = self._frame(list(blocks_of(numbered, cut.keys, cut.buckets)))
        answered = rows.groupBy("bucket").cogroup(asked.groupBy("bucket")).applyInArrow(in_tasks(work), "block binary")
        found = joined(self._collect(answered, work.view.source).column("block"))
        assert found is not None
        place = np.empty(requests.num_rows, dtype=np.int64)
        place[found.column(POSITION).to_numpy()] = np.arange(requests.num_rows)
        return found.drop_columns([POSITION]).take(pa.array(place)).combine_chunks()

    # -------------------------------------------------------------------------------------------- blocks of rows

    def _cut(
        self,
        source: SourceSpec,
        columns: Sequence[str],
        *,
        keys: tuple[str, ...] = (),
        buckets: int = 1,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Cut:
        outputs = self._local.types(source)
        columns = list(dict.fromkeys(columns))
        for name in columns:
            if name not in outputs:
                raise SourceError(f"source {source.name!r}: {UnknownName.of('column', name, outputs)}")
        fields = [pa.field(n, types.to_arrow(outputs[n])) for n in columns]
        schema = pa.schema([*fields, *(pa.field(n, pa.int64()) for n in _TIMES)])
        return Cut(schema, keys, buckets, start, end)

    def _buckets_for(self, source: SourceSpec, requests: int) -> int:
        if self._buckets is not None:
            return self._buckets
        parallel = int(self.session.sparkContext.defaultParallelism)
        return max(parallel, buckets_for(self._local.count(source), requests))

    def _blocks(
        self,
        source: SourceSpec,
        cut: Cut,
        files: Sequence[str] | None,
        pushed: bool,
        published: Mapping[str, int],
    ) -> Any:
        """Return the accepted rows of files, tables and pushes as a frame of blocks."""
        listed = listing.source_files(self._root, source, self._state)
        wanted = [f for f in listed if files is None or f.name in files]
        native: list[tuple[list[SourceFile], Shape]] = []
        others, kinds = wanted, {}
        if source.kind in {"parquet", "frame"} and wanted:
            kinds = self._kinds(source, listed, cut)
            native, others = self._divided(source, wanted, kinds)
        frames = [self._taken(source, group, shape, kinds, published, cut) for group, shape in native]
        if others:
            frames.append(self._read(source, others, published, cut))
        if pushed or source.kind in {"table", "query"}:
            columns = [n for n in cut.schema.names if not n.startswith("__")]
            here = self._local.batches(source, columns=columns, start=cut.start, end=cut.end, files=(), pushed=pushed)
            blocks = list(cut.blocks(here))
            frames += [self._frame(blocks)] if blocks else []
        if not frames:
            return self._frame([])
        whole = frames[0]
        for frame in frames[1:]:
            whole = whole.unionAll(frame)
        return whole

    def _divided(
        self, source: SourceSpec, files: Sequence[SourceFile], kinds: Mapping[str, ColumnType]
    ) -> tuple[list[tuple[list[SourceFile], Shape]], list[SourceFile]]:
        """Group the files that Spark's reader reads as what they are; the others are read file by file."""
        groups: dict[tuple[tuple[str, str], ...], list[SourceFile]] = {}
        others = []
        for file in files:
            fields = listing.parquet_shape(source, file).fields
            mine = {n: fields[n] for n in sorted(kinds) if n in fields}
            fits = all(_spark_type(kind) is not None for kind in mine.values()) and mine
            same = all(
                types.from_arrow(k) == kinds[n] or (k, kinds[n]) == (pa.float32(), "float64") for n, k in mine.items()
            )
            if fits and same and _PLAIN_NAME.fullmatch(file.place) and "_metadata" not in fields:
                groups.setdefault(tuple((n, str(k)) for n, k in mine.items()), []).append(file)
            else:
                others.append(file)
        return [(group, listing.parquet_shape(source, group[0])) for group in groups.values()], others

    def _kinds(self, source: SourceSpec, listed: Sequence[SourceFile], cut: Cut) -> dict[str, ColumnType]:
        """Return the raw columns that are read and their types, after holding every file of the source to them."""
        shapes = {f.name: listing.parquet_shape(source, f) for f in listed}
        ref = listing.reference(source, shapes, listing.read_pin(self._root, source, self._state))
        columns = {n for n in cut.schema.names if not n.startswith("__")}
        _, must = needed_steps(source, columns | quarantine_columns(source))
        for name, shape in shapes.items():
            listing.check_file(source, name, shape, ref, must | {c.name for c in source.schema})
        return {n: k for n, k in ref.types.items() if n in needed(source) | columns}

    def _taken(
        self,
        source: SourceSpec,
        files: Sequence[SourceFile],
        shape: Shape,
        kinds: Mapping[str, ColumnType],
        published: Mapping[str, int],
        cut: Cut,
    ) -> Any:
        """Read Parquet files with Spark: raw columns, the file and the row's number in it."""
        from pyspark.sql import functions
        from pyspark.sql.types import StructField, StructType

        mine = [n for n in sorted(kinds) if n in shape.fields]
        schema = StructType([StructField(n, _spark_type(shape.fields[n]), True) for n in mine])
        frame = self.session.read.schema(schema).parquet(*(f"file://{f.place}" for f in files))
        at = shape.fields.get(source.event_time)
        if (
            at is not None
            and pa.types.is_timestamp(at)
            and at.tz
            and source.event_time not in {n for n, _ in source.derive}
        ):
            event = functions.col(_quoted(source.event_time))
            if cut.start is not None:
                frame = frame.where(event >= functions.timestamp_micros(functions.lit(to_micros(cut.start))))
            if cut.end is not None:
                frame = frame.where(event < functions.timestamp_micros(functions.lit(to_micros(cut.end))))
        frame = frame.select(
            *(functions.col(_quoted(n)) for n in mine),
            functions.col("_metadata.file_path").alias(FILE), functions.col("_metadata.row_index").alias(ROW),
        )  # fmt: skip
        places = {local_path(f.place): (f.index, published.get(f.name)) for f in files}
        work = TakeRows(source, dict(kinds), places, cut, self._prepare)
        return frame.mapInArrow(in_tasks(work), _BLOCK)

    def _read(self, source: SourceSpec, files: Sequence[SourceFile], published: Mapping[str, int], cut: Cut) -> Any:
        """Read files one a task, as one machine does."""
        names = tuple(f.name for f in files)
        work = ReadFiles(source, names, dict(published), self._reader, cut, self._prepare)
        return self.session.range(0, len(names), 1, len(names)).mapInArrow(in_tasks(work), _BLOCK)

    # -------------------------------------------------------------------------------------------- to and from Spark

    def _frame(self, blocks: Sequence[pa.RecordBatch]) -> Any:
        schema = pa.schema([("bucket", pa.int32()), ("block", pa.large_binary())])
        return self.session.createDataFrame(pa.Table.from_batches(blocks, schema=schema), schema=_BLOCK)

    def _collect(self, frame: Any, source: SourceSpec) -> pa.Table:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            return frame.toArrow()
        except (PySparkException, Py4JError) as error:
            raise translated(error, source.name) from error

    def _each(self, frame: Any, source: SourceSpec) -> Iterator[pa.Table]:
        """Return blocks one by one; a partition at a time is here."""
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            for row in frame.select("block").toLocalIterator():
                yield unpacked(pa.py_buffer(bytes(row[0])))
        except (PySparkException, Py4JError) as error:
            raise translated(error, source.name) from error


def _lots(requests: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, bool]]:
    """Gather pieces into lots of about `LOT` rows; says of each whether it is the last."""
    held: list[pa.Table] = []
    ready: pa.Table | None = None
    for piece in requests:
        if ready is not None:
            yield ready, False
            ready = None
        held.append(piece)
        if sum(p.num_rows for p in held) >= LOT:
            ready, held = pa.concat_tables(held), []
    if held:
        if ready is not None:
            yield ready, False
        ready = pa.concat_tables(held)
    if ready is not None:
        yield ready, True


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _spark_type(kind: pa.DataType) -> Any:
    """Return the Spark type that holds a Parquet column of this Arrow type without a change, None for none."""
    from pyspark.sql import types as spark

    if pa.types.is_dictionary(kind):
        return _spark_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        plain = spark.TimestampType() if kind.tz else spark.TimestampNTZType()
        return plain if kind.unit in {"us", "ms"} else None
    if pa.types.is_decimal128(kind):
        return spark.DecimalType(kind.precision, kind.scale) if kind.scale >= 0 else None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        element = _spark_type(kind.value_type)
        return None if element is None or pa.types.is_timestamp(kind.value_type) else spark.ArrayType(element)
    plain_types = {
        pa.bool_(): spark.BooleanType(), pa.int8(): spark.ByteType(), pa.int16(): spark.ShortType(),
        pa.int32(): spark.IntegerType(), pa.int64(): spark.LongType(), pa.uint8(): spark.ShortType(),
        pa.uint16(): spark.IntegerType(), pa.uint32(): spark.LongType(), pa.float32(): spark.FloatType(),
        pa.float64(): spark.DoubleType(), pa.string(): spark.StringType(), pa.large_string(): spark.StringType(),
        pa.binary(): spark.BinaryType(), pa.large_binary(): spark.BinaryType(), pa.date32(): spark.DateType(),
    }  # fmt: skip
    return plain_types.get(kind)
