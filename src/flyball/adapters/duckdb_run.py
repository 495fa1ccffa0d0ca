"""Run queries over a source's files; when one fails, say which file it was.

The surprise: DuckDB does not name the file that it could not read, so each is then read alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from flyball.adapters import duckdb_parts as parts
from flyball.adapters import duckdb_raw as raw_rows
from flyball.adapters.duckdb_sql import Part, is_local
from flyball.errors import SourceError, first_line
from flyball.features.reading import files as listing
from flyball.features.reading.files import Reference
from flyball.features.spec import SourceSpec

__all__ = ["Runner"]


class Runner:
    """Run each query on a connection of its own.

    Args:
        root: The project's root; relative paths of tables and queries are found from it.
        threads: DuckDB's threads per query.
    """

    def __init__(self, root: Path, threads: int) -> None:
        self._root = root
        self._threads = threads

    def run(self, source: SourceSpec, sql: str, part: Part, *, whole: bool) -> Iterator[pa.Table]:
        """Return a query's rows, as one table or in pieces.

        Raises:
            SourceError: a file cannot be read; it is named.
        """
        addresses = [p for p in part.places if "://" in p]
        with raw_rows.connect(source, self._root, self._threads, addresses=addresses) as connection:
            try:
                if whole:
                    yield connection.sql(sql).to_arrow_table()
                    return
                for batch in connection.sql(sql).to_arrow_reader(raw_rows.ROWS):
                    yield pa.Table.from_batches([batch])
            except (duckdb.Error, OSError, pa.ArrowException) as error:
                raise SourceError(
                    f"source {source.name!r} cannot be read: {_culprit(source, part)}"
                    f"{first_line(error)}; write that file again, or take it away"
                ) from error

    def refuse_naive(self, source: SourceSpec, part: Part, ref: Reference, raw: set[str]) -> None:
        """Raise InputError where a strict source has a time without a zone."""
        if not source.strict:
            return
        from flyball.features.reading.values import refuse_naive

        for name in sorted(raw):
            kind = part.fields.get(name)
            if ref.types.get(name) != "timestamp" or kind is None or not is_local(kind):
                continue
            for place in part.places:
                column = next(self.run(source, parts.first_times(name, place), part, whole=True)).column(0)
                refuse_naive(source.name, name, column, where=f"{place.rsplit('/', 1)[-1]}: ")


def _culprit(source: SourceSpec, part: Part) -> str:
    """Find the file that cannot be read, by reading each alone."""
    import pyarrow.parquet as pq

    for place in part.places:
        try:
            if "://" in place:
                filesystem, path = listing.open_address(source, place)
                with filesystem.open(path, "rb") as opened:
                    pq.read_table(opened)
            else:
                for _ in pq.ParquetFile(place).iter_batches(raw_rows.ROWS):
                    pass
        except (pa.ArrowException, OSError, ValueError):
            return f"{place.rsplit('/', 1)[-1]} is damaged: "
    return ""
