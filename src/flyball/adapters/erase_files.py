"""Rows of a subject in Parquet and CSV files: count them, or write the file again without them.

A file is replaced at once by a whole one with the same mode, compression and row groups. The surprise: the rows of a
CSV that stay are copied letter by letter, so nothing else about the file changes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flyball.disk import replacing

__all__ = ["count_rows", "rewrite_file"]

Mask = Callable[[pa.Table], np.ndarray]


def count_rows(path: Path, mask: Mask) -> int:
    """Return how many rows of a Parquet or CSV file a mask finds."""
    if _is_csv(path):
        return sum(int(mask(table).sum()) for _, table in _csv_parts(path))
    file = pq.ParquetFile(path)
    return sum(int(mask(file.read_row_group(i)).sum()) for i in range(file.num_row_groups))


def rewrite_file(path: Path, mask: Mask) -> int:
    """Write a file again without the rows that a mask finds; return how many went. Without any it is left alone.

    Raises:
        OSError: the disk is full or the file may not be written; the file is as it was.
    """
    gone = count_rows(path, mask)
    if gone:
        with replacing(path) as draft:
            (_write_csv if _is_csv(path) else _write_parquet)(path, draft, mask)
    return gone


def _write_parquet(path: Path, draft: Path, mask: Mask) -> None:
    file = pq.ParquetFile(path)
    with pq.ParquetWriter(draft, file.schema_arrow, compression=_compression(file)) as writer:
        for i in range(file.num_row_groups):
            table = file.read_row_group(i)
            writer.write_table(table.filter(pa.array(~mask(table))))


def _compression(file: Any) -> str:
    meta = file.metadata
    codec = meta.row_group(0).column(0).compression.lower() if meta.num_row_groups and meta.num_columns else "snappy"
    return "none" if codec == "uncompressed" else str(codec)


def _write_csv(path: Path, draft: Path, mask: Mask) -> None:
    with draft.open("w", encoding="utf-8", newline="") as out:
        head = True
        for lines, table in _csv_parts(path):
            if head:
                out.write(lines[0])
                head = False
            gone = mask(table)
            out.writelines(text for text, drop in zip(lines[1:], gone.tolist(), strict=True) if not drop)


def _csv_parts(path: Path, rows: int = 50_000) -> Iterator[tuple[list[str], pa.Table]]:
    """Yield (header and each row's own text, the rows as a table of texts)."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in file:
            taken.append(line)
            yield line

    with path.open(encoding="utf-8", newline="") as file:
        first = file.readline()
        file.seek(0)
        reader = csv.reader(lines(), delimiter=max(",;\t|", key=first.count))
        names = next(reader, None)
        if names is None:
            return
        head, texts, values = "".join(taken), [], []
        taken.clear()
        for row in reader:
            texts.append("".join(taken))
            taken.clear()
            values.append([*row, *[""] * (len(names) - len(row))][: len(names)])
            if len(values) == rows:
                yield [head, *texts], _texts(names, values)
                texts, values = [], []
        yield [head, *texts], _texts(names, values)


def _texts(names: list[str], values: list[list[str]]) -> pa.Table:
    columns = list(zip(*values, strict=True)) if values else [()] * len(names)
    return pa.table([pa.array(c, pa.string()) for c in columns], names=names)


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() in {".csv", ".tsv", ".txt"}
