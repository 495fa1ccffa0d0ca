"""Answer more than fits into memory: rows and requests are dealt into buckets of entities on disk, bucket by bucket.

    rows and requests, dealt by bucket  ->  each bucket answered, two at a time  ->  read back in the requests' order

The surprise: nothing is sorted by request. Every bucket keeps its requests in their order, so reading all buckets side
by side, a stretch of positions at a time, gives the order back. One entity's rows and requests must fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from flyball.features.answers import answer_rows, request_keys
from flyball.features.kernel.buckets import bucket_of
from flyball.features.spec import FeatureSpec, Join, ViewSpec

__all__ = ["ROWS", "answer_in_buckets", "buckets_for"]

ROWS = 2_500_000  # rows and requests of one bucket, about
_BATCH = 1 << 16  # rows of one piece of a bucket's file
_STRETCH = 1 << 20  # positions read back together
_MOST = 400  # files open at a time
_POSITION = "__position"


def buckets_for(rows: int, requests: int) -> int:
    """Return how many buckets so many rows and requests take; 1 is: all at once, in memory."""
    return min(_MOST, -(-(rows + requests) // ROWS)) if rows + requests > 2 * ROWS else 1


def answer_in_buckets(
    rows: Iterable[pa.Table],
    requests: Iterable[pa.Table],
    view: ViewSpec,
    features: Sequence[FeatureSpec],
    *,
    join: Join,
    buckets: int,
    folder: Path,
    threads: int = 2,
    done: Callable[[int], None] | None = None,
) -> Iterator[pa.Table]:
    """Answer requests of any number in bounded memory.

    Args:
        rows: Accepted rows as `answer_rows` takes them, in pieces.
        requests: Key columns and `__at` (int64 µs), in pieces.
        view: The view.
        features: Which of its features.
        join: "as_known" or "as_corrected".
        buckets: How many to deal into; see `buckets_for`.
        folder: An empty folder for what is spilled; the caller takes it away.
        threads: Buckets answered at a time.
        done: Told how many requests a bucket has answered.

    Returns:
        What `answer_rows` returns, in pieces, in the requests' order.

    Raises:
        InputError: a key has a wrong type, or `join` is neither.
    """
    names = [k.name for k in view.entity.keys]
    count = _spill(_numbered(requests, view), names, buckets, folder, "requests")
    _spill(rows, names, buckets, folder, "rows")
    no_rows = _load(folder / "rows-schema")

    def one(bucket: int) -> None:
        mine = _load(folder / f"requests-{bucket}")
        if mine is None:
            return
        held = _load(folder / f"rows-{bucket}")
        found = answer_rows(no_rows if held is None else held, mine, view, features, join=join)
        _write(folder / f"answers-{bucket}", found.append_column(_POSITION, mine.column(_POSITION)))
        (folder / f"rows-{bucket}").unlink(missing_ok=True)
        (folder / f"requests-{bucket}").unlink()
        if done is not None:
            done(mine.num_rows)

    with ThreadPoolExecutor(threads, thread_name_prefix="buckets") as pool:
        for _ in pool.map(one, range(buckets)):
            pass
    yield from _in_order([folder / f"answers-{b}" for b in range(buckets)], count)


def _numbered(requests: Iterable[pa.Table], view: ViewSpec) -> Iterator[pa.Table]:
    """Number the requests; their keys get the keys' types, as another type would land in another bucket."""
    begin = 0
    for table in requests:
        keyed = table
        for key, column in zip(view.entity.keys, request_keys(table, view.entity), strict=True):
            keyed = keyed.set_column(keyed.schema.get_field_index(key.name), key.name, column)
        yield keyed.append_column(_POSITION, pa.array(np.arange(begin, begin + table.num_rows)))
        begin += table.num_rows


def _spill(pieces: Iterable[pa.Table], keys: Sequence[str], buckets: int, folder: Path, kind: str) -> int:
    """Append every piece's rows to the files of their buckets, keeping their order; return how many."""
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    count, schema = 0, None
    try:
        for piece in pieces:
            schema = schema or piece.schema
            count += piece.num_rows
            place = bucket_of([piece.column(k) for k in keys], buckets)
            order = np.argsort(place, kind="stable")
            dealt = piece.take(pa.array(order)).combine_chunks()
            edges = np.searchsorted(place[order], np.arange(buckets + 1))
            for bucket in np.flatnonzero(np.diff(edges)).tolist():
                if bucket not in writers:
                    writers[bucket] = pa.ipc.new_stream(str(folder / f"{kind}-{bucket}"), schema)
                begin = int(edges[bucket])
                writers[bucket].write_table(dealt.slice(begin, int(edges[bucket + 1]) - begin))
    finally:
        for writer in writers.values():
            writer.close()
    if schema is not None:
        with pa.ipc.new_stream(str(folder / f"{kind}-schema"), schema):
            pass
    return count


def _load(path: Path) -> pa.Table | None:
    if not path.exists():
        return None
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        return reader.read_all()


def _write(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=_BATCH)


def _in_order(paths: Sequence[Path], count: int) -> Iterator[pa.Table]:
    """Read all answers side by side, a stretch of positions at a time."""
    cursors = [_Cursor(path) for path in paths if path.exists()]
    for begin in range(0, count, _STRETCH):
        end = min(begin + _STRETCH, count)
        parts = [part for cursor in cursors for part in cursor.until(end)]
        table = pa.concat_tables(parts)
        place = np.empty(end - begin, dtype=np.int64)
        place[table.column(_POSITION).to_numpy() - begin] = np.arange(end - begin)
        yield table.drop_columns([_POSITION]).take(pa.array(place)).combine_chunks()
    for cursor in cursors:
        cursor.close()


class _Cursor:
    """One bucket's answers, read from front to back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = pa.OSFile(str(path))
        self._reader = pa.ipc.open_file(self._file)
        self._next = 0
        self._left: pa.Table | None = None

    def until(self, end: int) -> Iterator[pa.Table]:
        """Return the answers of positions below `end` that were not returned yet."""
        while True:
            if self._left is None or not self._left.num_rows:
                if self._next == self._reader.num_record_batches:
                    return
                self._left = pa.Table.from_batches([self._reader.get_batch(self._next)])
                self._next += 1
            place = int(np.searchsorted(self._left.column(_POSITION).to_numpy(), end))
            if place:
                yield self._left.slice(0, place)
            self._left = self._left.slice(place)
            if self._left.num_rows:
                return

    def close(self) -> None:
        """Let go of the file and take it away."""
        self._file.close()
        self._path.unlink(missing_ok=True)
