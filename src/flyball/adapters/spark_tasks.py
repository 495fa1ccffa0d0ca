"""What runs in Spark's Python workers: read, accept, cut into blocks, answer. Arrow in, Arrow out; no Spark in here.

The surprise: rows do not cross Spark as rows. Each task cuts its accepted rows by bucket of their entity and hands over
blocks, one Arrow stream per bucket, in a binary column. So shuffles move few large values, and no type of Spark's
(no nanoseconds, no fixed-size lists, times of a session's zone) ever comes between a source and the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from flyball.features import reading
from flyball.features.answers import answer_rows
from flyball.features.kernel.buckets import bucket_of
from flyball.features.reading.files import FIRST_SEQUENCE
from flyball.features.spec import ColumnType, FeatureSpec, Join, SourceSpec, ViewSpec
from flyball.units import to_micros

__all__ = ["Answer", "Cut", "FILE", "POSITION", "ROW", "ReadFiles", "TakeRows", "blocks_of", "in_tasks", "joined"]

FILE, ROW, POSITION = "__file", "__row", "__position"
_ROWS = 1 << 18  # rows that a task gathers before it cuts them
_BLOCKS = pa.schema([("bucket", pa.int32()), ("block", pa.large_binary())])
Prepare = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Cut:
    """How accepted rows are handed over: which columns, and by which keys into how many buckets (no keys: one)."""

    schema: pa.Schema
    keys: tuple[str, ...] = ()
    buckets: int = 1
    start: datetime | None = None
    end: datetime | None = None

    def blocks(self, tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
        """Return record batches of (bucket, block), of about `_ROWS` rows each."""
        held: list[pa.Table] = []
        for table in tables:
            held.append(_between(table, self.start, self.end).select(self.schema.names).cast(self.schema))
            if sum(t.num_rows for t in held) >= _ROWS:
                yield from blocks_of(pa.concat_tables(held), self.keys, self.buckets)
                held = []
        if held:
            yield from blocks_of(pa.concat_tables(held), self.keys, self.buckets)


@dataclass(frozen=True, slots=True)
class TakeRows:
    """Accept the raw rows that Spark read from Parquet files, exactly as pushed rows are accepted.

    `places` gives each file's place among all files of the source and, where it is known, when it was published.
    """

    source: SourceSpec
    kinds: Mapping[str, ColumnType]
    places: Mapping[str, tuple[int, int | None]]
    cut: Cut
    prepare: Prepare | None = None

    def run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Return blocks of the accepted rows of these batches."""
        if self.prepare is not None:
            self.prepare()
        return self.cut.blocks(self._accepted(pa.Table.from_batches([b])) for b in batches)

    def _accepted(self, table: pa.Table) -> pa.Table:
        files = table.column(FILE).combine_chunks().dictionary_encode()
        known = [self.places[local_path(f)] for f in files.dictionary.to_pylist()]
        which = files.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        places = np.array([place for place, _ in known], dtype=np.int64)[which]
        sequence = FIRST_SEQUENCE + (places << 32) + table.column(ROW).to_numpy()
        raw = table.drop_columns([FILE, ROW]).append_column("__sequence", pa.array(sequence, pa.int64()))
        kept, _ = reading.accept(self.source, raw, self.kinds)
        if all(at is None for _, at in known):
            return kept
        published = dict(known)
        place = (kept.column("__sequence").to_numpy() - FIRST_SEQUENCE) >> 32
        floor = np.array([published[p] or _NEVER for p in place.tolist()], dtype=np.int64)
        late = np.maximum(kept.column("__known").to_numpy(), floor)
        return kept.set_column(kept.schema.get_field_index("__known"), "__known", pa.array(late, pa.int64()))


_NEVER = -(2**63)


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """Read whole files, one a task, with the reader that one machine uses: what Spark's would read otherwise.

    `reader` makes an engine of features' port in the worker; rows of a task are places in `names`.
    """

    source: SourceSpec
    names: tuple[str, ...]
    published: Mapping[str, int]
    reader: Callable[[], Any]
    cut: Cut
    prepare: Prepare | None = None

    def run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Return blocks of the accepted rows of these files."""
        if self.prepare is not None:
            self.prepare()
        return self.cut.blocks(self._tables(batches))

    def _tables(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        engine = self.reader()
        columns = [n for n in self.cut.schema.names if not n.startswith("__")]
        for batch in batches:
            files = [self.names[i] for i in batch.column(0).to_pylist()]
            yield from engine.batches(
                self.source, columns=columns, files=files, pushed=False, published=dict(self.published)
            )


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer one bucket's requests from its rows with the kernel."""

    view: ViewSpec
    features: tuple[FeatureSpec, ...]
    join: Join
    schema: pa.Schema
    prepare: Prepare | None = None

    def run(self, rows: pa.Table, requests: pa.Table) -> pa.Table:
        """Return blocks of answers with their `__position`, as plain binary here; none where nobody asks."""
        asked = joined(requests.column("block"))
        if asked is None:
            return pa.table({"block": pa.array([], pa.binary())})
        if self.prepare is not None:
            self.prepare()
        held = joined(rows.column("block"))
        asked = asked.take(pa.array(np.argsort(asked.column(POSITION).to_numpy(), kind="stable")))
        held = self.schema.empty_table() if held is None else held
        found = answer_rows(held, asked, self.view, self.features, join=self.join)
        found = found.append_column(POSITION, asked[POSITION])
        packed = [_packed(found.slice(begin, _ROWS)) for begin in range(0, found.num_rows, _ROWS)]
        return pa.table({"block": pa.array(packed, pa.binary())})


def in_tasks(work: TakeRows | ReadFiles | Answer) -> Callable[..., Any]:
    """Return a plain function that runs `work` in a worker: Spark counts a function's arguments."""
    if isinstance(work, Answer):
        answer = work

        def of_two(rows: pa.Table, requests: pa.Table) -> pa.Table:
            return answer.run(rows, requests)

        return of_two
    reader = work

    def of_one(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return reader.run(batches)

    return of_one


def blocks_of(table: pa.Table, keys: Sequence[str], buckets: int) -> Iterator[pa.RecordBatch]:
    """Cut a table into blocks by bucket of its keys, rows in their order; nothing of an empty one."""
    if not table.num_rows:
        return
    if not keys or buckets == 1:
        yield pa.record_batch([pa.array([0], pa.int32()), pa.array([_packed(table)], pa.large_binary())], _BLOCKS)
        return
    place = bucket_of([table.column(k) for k in keys], buckets)
    order = np.argsort(place, kind="stable")
    dealt = table.take(pa.array(order)).combine_chunks()
    edges = np.searchsorted(place[order], np.arange(buckets + 1))
    filled = np.flatnonzero(np.diff(edges))
    packed = [_packed(dealt.slice(int(edges[b]), int(edges[b + 1] - edges[b]))) for b in filled.tolist()]
    yield pa.record_batch([pa.array(filled, pa.int32()), pa.array(packed, pa.large_binary())], _BLOCKS)


def joined(blocks: pa.ChunkedArray) -> pa.Table | None:
    """Return the rows of blocks, in the blocks' order; None when there are none."""
    tables = [t for chunk in blocks.chunks for b in chunk for t in [unpacked(b.as_buffer())]]
    return pa.concat_tables(tables) if tables else None


def unpacked(block: Any) -> pa.Table:
    """Return a block's rows."""
    with pa.ipc.open_stream(block) as reader:
        return reader.read_all()


def local_path(address: str) -> str:
    """Return what names a file, however Spark wrote its address: "file:///a%20b" and "file:/a b" are "/a b"."""
    if address.startswith("file:"):
        return "/" + unquote(address[5:]).lstrip("/")
    return unquote(address)


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _between(table: pa.Table, start: datetime | None, end: datetime | None) -> pa.Table:
    if start is None and end is None:
        return table
    event = table.column("__event").to_numpy()
    keep = np.ones(len(event), dtype=bool)
    keep &= event >= to_micros(start) if start is not None else True
    keep &= event < to_micros(end) if end is not None else True
    return table.filter(pa.array(keep))
