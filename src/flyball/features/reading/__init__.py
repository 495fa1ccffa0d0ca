"""Turn raw rows of a source into accepted rows: typed, in UTC, derived, filtered, checked.

    files    which files a source has, what columns they hold, what was pinned of them
    schema   which raw columns a source needs, what types come out
    values   one column to one type, exactly
    rows     check pushed rows, and accept rows

The surprise: the DuckDB engine says most of `rows` again in SQL for Parquet files, and a property test holds the two
equal; pushed rows always go through here, at ingest and when history is read, so a row means one thing everywhere.
"""

from __future__ import annotations

from flyball.features.reading.files import SourceFile, file_types, source_files
from flyball.features.reading.rows import accept, check_rows, finish
from flyball.features.reading.schema import needed, output_types
from flyball.features.reading.values import typed

__all__ = [
    "SourceFile", "accept", "check_rows", "file_types", "finish", "needed", "output_types", "source_files", "typed",
]  # fmt: skip
