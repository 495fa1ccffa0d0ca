"""History of any number of requests, from Parquet to Parquet in bounded memory.

The surprise: requests are read twice, once for their keys and times, once to stand beside their answers; that costs
less than carrying their columns through the buckets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flyball.errors import InputError, first_line
from flyball.features.answers import STATUS, keys_and_times
from flyball.features.offline import Progress, check_clashes, picked_features, request_times
from flyball.features.ports import OfflineEngine
from flyball.features.spec import FeatureSpec, Join, ViewSpec
from flyball.features.table import to_requests

__all__ = ["write_history"]

_ROWS = 1 << 18


def write_history(
    engine: OfflineEngine,
    requests: Any,
    views: Sequence[ViewSpec],
    names: Sequence[str] | None,
    *,
    at: str,
    out: Path | str,
    join: Join = "as_known",
    statuses: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Answer features for requests as of each one's time, into a Parquet file.

    Args:
        engine: Moves the rows.
        requests: As for `to_requests`; a Parquet file, or a folder of them in order of their names, is read in pieces.
        views: The views that are known.
        names: "view" or "view:feature", in the order wanted; None for every feature of every view.
        at: The requests' time column; times without an offset count as UTC.
        out: The file to write; it appears whole or not at all.
        join: "as_known" or "as_corrected".
        statuses: Also write `__status_NAME` (uint8 of `Status`) per feature.
        progress: Told (done, total) in requests times views.

    Returns:
        `out`: the requests' rows and columns in their order, then the features.

    Raises:
        UnknownName: no such view, feature or column.
        DuplicateName: two features, or a feature and a request column, share a name.
        InputError: requests that cannot be read, a wrong key or time column, or `join` is neither.
    """
    source = _Requests(requests)
    picked = picked_features(views, names)
    check_clashes(picked, source.schema.names)
    if join not in {"as_known", "as_corrected"}:
        raise InputError(f"join {join!r} is neither as_known nor as_corrected")
    wanted = {v.name: (v, [f for w, f in picked if w.name == v.name]) for v, _ in picked}
    told = _telling(progress, source.rows * len(wanted))
    answers = {
        name: engine.answers(_asked(source, view, at), view, mine, join=join, expected=source.rows, done=told)
        for name, (view, mine) in wanted.items()
    }
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _write(draft, source, picked, answers, statuses)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


class _Requests:
    """Requests that can be gone through again and again, in pieces."""

    def __init__(self, requests: Any) -> None:
        self._files = _parquet_files(requests)
        self._table: pa.Table | None = None
        try:
            if self._files:
                self.schema = pq.read_schema(self._files[0])
                self.rows = sum(pq.read_metadata(f).num_rows for f in self._files)
                return
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"the requests cannot be read: {first_line(error)}") from error
        self._table = to_requests(requests)
        self.schema, self.rows = self._table.schema, self._table.num_rows

    def pieces(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Return the rows in order."""
        if self._table is not None:
            table = self._table if columns is None else self._table.select(list(columns))
            yield from (table.slice(begin, _ROWS) for begin in range(0, max(table.num_rows, 1), _ROWS))
            return
        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(n) for n in names])
        for path in self._files:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_ROWS, columns=names):
                    yield pa.Table.from_batches([batch]).select(names).cast(schema)


def _parquet_files(requests: Any) -> list[Path]:
    if not isinstance(requests, str | Path):
        return []
    path = Path(requests)
    if path.is_dir():
        return sorted(path.glob("*.parquet"))
    return [path] if path.suffix in {".parquet", ".pq"} and path.exists() else []


def _asked(source: _Requests, view: ViewSpec, at: str) -> Iterator[pa.Table]:
    needed = list(dict.fromkeys([*(k.name for k in view.entity.keys if k.name in source.schema.names), at]))
    for piece in source.pieces([n for n in needed if n in source.schema.names]):
        yield keys_and_times(piece, view.entity, request_times(piece, at))


def _telling(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    return tell


def _write(
    path: Path,
    source: _Requests,
    picked: Sequence[tuple[ViewSpec, FeatureSpec]],
    answers: dict[str, Iterator[pa.Table]],
    statuses: bool,
) -> None:
    """Put requests and the answers of all views side by side."""
    held = {name: _Rows(pieces) for name, pieces in answers.items()}
    writer: pq.ParquetWriter | None = None
    try:
        for piece in source.pieces():
            mine = {name: rows.next(piece.num_rows) for name, rows in held.items()}
            for view, feature in picked:
                piece = piece.append_column(feature.name, mine[view.name].column(feature.name))  # noqa: PLW2901
            for view, feature in picked if statuses else ():
                name = STATUS + feature.name
                piece = piece.append_column(name, mine[view.name].column(name))  # noqa: PLW2901
            writer = writer or pq.ParquetWriter(path, piece.schema, compression="zstd")
            writer.write_table(piece, row_group_size=1 << 17)
    finally:
        if writer is not None:
            writer.close()
        for pieces in answers.values():
            close = getattr(pieces, "close", None)
            if close is not None:
                close()


class _Rows:
    """Pieces of any size, taken by number of rows."""

    def __init__(self, pieces: Iterator[pa.Table]) -> None:
        self._pieces = pieces
        self._left: pa.Table | None = None

    def next(self, count: int) -> pa.Table:
        """Return the next `count` rows."""
        parts: list[pa.Table] = []
        while count or not parts:
            if self._left is None or (not self._left.num_rows and count):
                self._left = next(self._pieces)
            part = self._left.slice(0, count)
            parts.append(part)
            self._left = self._left.slice(part.num_rows)
            count -= part.num_rows
        return pa.concat_tables(parts)
