"""Raw rows by DuckDB where SQL alone does not say what they mean: CSV files, tables, queries, files of other types.

What comes out goes through `reading.accept`, as pushed rows do. The surprise: a table or query has no order of its own,
so its rows are numbered in order of their content, all columns from left to right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from flyball.adapters.duckdb_sql import quoted
from flyball.errors import SourceError, first_line
from flyball.features import types
from flyball.features.reading.files import Shape, SourceFile, open_address, stamp
from flyball.features.reading.values import nulls, refuse_naive, typed, vectors
from flyball.features.spec import ColumnType, SourceSpec

__all__ = ["ROWS", "connect", "csv_rows", "csv_shape", "parquet_rows", "relation_rows", "relation_shape"]

ROWS = 1 << 18  # rows of one piece
_CSV = {"int64": "BIGINT", "float64": "DOUBLE", "float32": "FLOAT", "bool": "BOOLEAN"}
_shapes: dict[tuple[object, ...], Shape] = {}


@contextmanager
def connect(
    source: SourceSpec, root: Path, threads: int, *, addresses: Sequence[str] = ()
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection for one query: DuckDB wants one per thread, and no setting of a session may matter.

    Raises:
        SourceError: DuckDB cannot read what the source names.
    """
    try:
        with duckdb.connect(config={"threads": threads}) as connection:
            if source.kind in {"table", "query"}:  # our own SQL knows no zones
                connection.execute("SET TimeZone = 'UTC'")
                connection.execute(f"SET file_search_path = '{_text(str(root))}'")
            for scheme in {a.partition("://")[0] for a in addresses}:
                filesystem, _ = open_address(source, next(a for a in addresses if a.startswith(f"{scheme}://")))
                connection.register_filesystem(filesystem)
            yield connection
    except (duckdb.Error, OSError, pa.ArrowException) as error:
        if isinstance(error, SourceError):
            raise
        said, secret = first_line(error), _has_password(source.database or "")
        if secret:  # it may repeat the address
            said = f"{type(error).__name__}; try its address in DuckDB itself"
        raise SourceError(f"source {source.name!r} cannot be read from {_shown(source)}: {said}") from (
            None if secret else error
        )


# ------------------------------------------------------------------------------------------------ CSV


def csv_shape(source: SourceSpec, root: Path, file: SourceFile) -> Shape:
    """Sniff a CSV file's columns.

    Raises:
        SourceError: it cannot be read.
    """
    key = (file.place, *stamp(file))
    if key not in _shapes:
        with connect(source, root, 1, addresses=[file.place] if file.is_remote else []) as connection:
            found = connection.sql(f"DESCRIBE SELECT * FROM read_csv('{_text(file.place)}')").to_arrow_table()
        names, kinds = found.column("column_name").to_pylist(), found.column("column_type").to_pylist()
        _shapes[key] = Shape(-1, {n: _sniffed(k) for n, k in zip(names, kinds, strict=True)})
    return _shapes[key]


def csv_rows(
    source: SourceSpec, root: Path, file: SourceFile, kinds: Mapping[str, ColumnType], threads: int
) -> Iterator[pa.Table]:
    """Return a CSV file's rows in order, of their types.

    Raises:
        SourceError: a value is not of its column's type; names file, line, column and value.
    """
    have = csv_shape(source, root, file).fields
    mine = {n: k for n, k in kinds.items() if n in have}
    listed = ", ".join(f"'{_text(n)}': '{_CSV.get(k, 'VARCHAR')}'" for n, k in mine.items())
    columns = ", ".join(quoted(n) for n in mine)
    sql = f"SELECT {columns} FROM read_csv('{_text(file.place)}', types={{{listed}}})"
    row = 0
    with connect(source, root, threads, addresses=[file.place] if file.is_remote else []) as connection:
        try:
            for batch in connection.sql(sql).to_arrow_reader(ROWS):
                table = pa.Table.from_batches([batch])
                yield _converted(source, table, mine, f"{file.name}: ", row)
                row += table.num_rows
        except (duckdb.Error, OSError, pa.ArrowException) as error:
            raise SourceError(f"source {source.name!r}: {file.name}: {_csv_error(str(error), mine)}") from error


def _csv_error(text: str, kinds: Mapping[str, ColumnType]) -> str:
    line, value = re.search(r"Line: (\d+)", text), re.search(r'string "(.*?)" to', text)
    column = re.search(r'column "(.*?)"', text)
    if line is None or value is None or column is None:
        return f"{first_line(text, most=200)}; correct the file, or take it away"
    was = kinds.get(column[1], "another type")
    return (
        f"line {line[1]} has {column[1]} = {value[1]!r:.60}, but the column is {was}; correct the file, or declare "
        f"schema={{{column[1]!r}: str}} and run flyball apply"
    )


def _sniffed(kind: str) -> pa.DataType:
    """Return the Arrow type of what DuckDB's sniffer found; what it has no plain type for is text."""
    plain = {
        "BIGINT": pa.int64(), "INTEGER": pa.int64(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_(), "DATE": pa.date32(),
        "TIMESTAMP": pa.timestamp("us"), "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", "UTC"),
    }  # fmt: skip
    return plain.get(kind, pa.string())


# ------------------------------------------------------------------------------------------------ tables and queries


def relation_shape(source: SourceSpec, root: Path, threads: int) -> Shape:
    """Return the columns of a table or query.

    Raises:
        SourceError: there is no such table, or the query is wrong.
    """
    with connect(source, root, threads) as connection:
        schema = connection.sql(f"SELECT * FROM {_relation(source, root, connection)} LIMIT 0").to_arrow_table().schema
    return Shape(-1, {f.name: f.type for f in schema})


def relation_rows(source: SourceSpec, root: Path, kinds: Mapping[str, ColumnType], threads: int) -> Iterator[pa.Table]:
    """Return the rows of a table or query in order of their content, of their types."""
    everything = relation_shape(source, root, threads).fields
    columns = ", ".join(quoted(n) for n in kinds if n in everything)
    order = ", ".join(quoted(n) for n in everything)
    row = 0
    with connect(source, root, threads) as connection:
        sql = f"SELECT {columns} FROM {_relation(source, root, connection)} ORDER BY {order}"
        for batch in connection.sql(sql).to_arrow_reader(ROWS):
            table = pa.Table.from_batches([batch])
            yield _converted(source, table, kinds, "", row)
            row += table.num_rows


def _relation(source: SourceSpec, root: Path, connection: duckdb.DuckDBPyConnection) -> str:
    if source.database is not None:
        connection.execute(f"ATTACH '{_text(_database(source.database, root))}' AS flyball_source (READ_ONLY)")
    if source.kind == "query":
        if source.database is not None:
            connection.execute("USE flyball_source")
        return f"({_one_query(source, connection)}\n)"  # on a line of its own: a query may end with a comment
    name = ".".join(quoted(part) for part in source.path.split("."))
    return f"flyball_source.{name}" if source.database is not None else name


def _one_query(source: SourceSpec, connection: duckdb.DuckDBPyConnection) -> str:
    """Return a source's query; more than one statement would do more than read."""
    query = source.path.strip().rstrip(";")
    if len(connection.extract_statements(query)) != 1:
        raise SourceError(f"source {source.name!r}: its query is several statements; write one SELECT")
    return query


def _database(database: str, root: Path) -> str:
    """Return where to attach from: a path is relative to the project, an address is DuckDB's to understand."""
    return database if _is_address(database) else str(root / database)


def _has_password(database: str) -> bool:
    return _is_address(database) and re.search(r"passw|@|token|secret", database, re.IGNORECASE) is not None


def _is_address(database: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+_]+:", database) is not None


# ------------------------------------------------------------------------------------------------ Parquet


def parquet_rows(source: SourceSpec, file: SourceFile, kinds: Mapping[str, ColumnType]) -> Iterator[pa.Table]:
    """Return a Parquet file's rows in order, read as the declared types.

    Raises:
        SourceError: a value cannot be read so.
    """
    if file.is_remote:
        filesystem, path = open_address(source, file.place)
        opened = pq.ParquetFile(filesystem.open(path, "rb"))
    else:
        opened = pq.ParquetFile(file.place)
    row = 0
    try:
        names = [n for n in kinds if n in opened.schema_arrow.names]
        for batch in opened.iter_batches(ROWS, columns=names):
            table = pa.Table.from_batches([batch])
            yield _converted(source, table, kinds, f"{file.name}: ", row)
            row += table.num_rows
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"source {source.name!r}: {file.name} cannot be read: {first_line(error)}") from error
    finally:
        opened.close()


def _converted(
    source: SourceSpec, table: pa.Table, kinds: Mapping[str, ColumnType], where: str, first_row: int
) -> pa.Table:
    """Give columns their types; a value that has none is an error here, since files are written, not sent."""
    for i, name in enumerate(table.column_names):
        column, kind = table.column(name), kinds[name]
        if kind == "timestamp" and source.strict:
            refuse_naive(source.name, name, column, first_row=first_row, where=where)
        found = (
            vectors(column, types.vector_size(kind))[0]
            if types.is_vector(kind)
            else typed(column, kind, source.timezone)
        )
        lost = nulls(found) & ~nulls(column)
        if lost.any():
            row = int(lost.argmax())
            raise SourceError(
                f"source {source.name!r}: {where}row {first_row + row} has {name} = {column[row].as_py()!r:.60}, which "
                f"is no {kind}; correct it, or declare another type in schema="
            )
        table = table.set_column(i, name, found)
    return table


def _shown(source: SourceSpec) -> str:
    if source.kind == "query":
        return "its query"
    if source.database is None:
        return repr(source.path)
    scheme, colon, _ = source.database.partition(":")
    return f"{source.path!r} of {f'{scheme}{colon}...' if _has_password(source.database) else source.database!r}"


def _text(value: str) -> str:
    return value.replace("'", "''")
