"""What flyball knows of Parquet files that it wrote itself: rows, digests, whether they are sorted, from when to when.

A manifest is `_manifest.json` beside the files. The surprise: nothing depends on it. It only saves work (a file outside
of the asked time is not opened, sorted files are not sorted again), and one that does not match its file is ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from flyball.disk import replacing, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FileEntry", "Manifest", "forget_file", "read_manifest", "record_file", "table_digest", "write_sorted"]

_NAME = "_manifest.json"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: its name in the folder, its size, rows, the digest of its bytes, its order, its first and last event.

    `sorted` is the columns it is sorted by, empty when by none. Events are µs, None where the file has no rows.
    """

    name: str
    size: int
    rows: int
    digest: str
    sorted: tuple[str, ...] = ()
    min_event: int | None = None
    max_event: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of one folder."""

    files: tuple[FileEntry, ...] = ()

    def entry(self, path: Path) -> FileEntry | None:
        """Return what is known of a file, nothing when it changed since."""
        found = next((f for f in self.files if f.name == path.name), None)
        return found if found is not None and path.exists() and path.stat().st_size == found.size else None


def read_manifest(folder: Path) -> Manifest:
    """Return a folder's manifest; an empty one where there is none that can be read."""
    try:
        return msgspec.json.decode((folder / _NAME).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return Manifest()


def record_file(folder: Path, entry: FileEntry) -> None:
    """Add or replace one file's entry."""
    others = tuple(f for f in read_manifest(folder).files if f.name != entry.name)
    _write(folder, (*others, entry))


def forget_file(folder: Path, names: Iterable[str]) -> None:
    """Take files out of a folder's manifest."""
    gone = set(names)
    _write(folder, tuple(f for f in read_manifest(folder).files if f.name not in gone))


def write_sorted(table: pa.Table, path: Path, *, by: tuple[str, ...], event: np.ndarray | None = None) -> FileEntry:
    """Write a table that lies sorted by these columns atomically, and record it.

    Args:
        table: Rows in order.
        path: Where; the folder is made.
        by: What it is sorted by, such as ("__event", "__created", "__sequence").
        event: Event times in µs, shape (rows,), for the first and last; None when nobody knows them.
    """
    import pyarrow.parquet as pq

    with replacing(path) as draft:
        pq.write_table(table, draft, compression="zstd", row_group_size=1 << 17)
        with draft.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = draft.stat().st_size
    ends = (int(event.min()), int(event.max())) if event is not None and len(event) else (None, None)
    entry = FileEntry(path.name, size, table.num_rows, digest, by, *ends)
    record_file(path.parent, entry)
    return entry


def table_digest(table: pa.Table) -> str:
    """Return the SHA-256 of a table's content: names, types, which values are null, and the values in their order.

    Another layout of the same content (chunks, offsets, what lies under a null) gives the same digest.
    """
    out = hashlib.sha256(f"flyball-frame-1 {table.num_rows}".encode())
    for field, column in zip(table.schema, table.columns, strict=True):
        out.update(f"\n{field.name}\0{field.type}\0".encode())
        chunks = column.chunks
        import pyarrow as pa

        _digest(out, pa.concat_arrays(chunks) if chunks else pa.array([], field.type))
    return out.hexdigest()


def _write(folder: Path, files: tuple[FileEntry, ...]) -> None:
    body = msgspec.json.encode(Manifest(tuple(sorted(files, key=lambda f: f.name))))
    write_atomically(folder / _NAME, body, durable=True)


def _digest(out: hashlib._Hash, array: pa.Array) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    out.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False), bitorder="little").tobytes())
    if pa.types.is_dictionary(kind):
        return _digest(out, array.cast(kind.value_type))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        array, kind = array.cast(pa.large_string()).cast(pa.large_binary()), pa.large_binary()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        solid = array.drop_null().cast(pa.large_binary())
        out.update(pc.binary_length(solid).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        out.update(b"".join(solid.to_pylist()))
    elif pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        solid = array.drop_null()
        out.update(pc.list_value_length(solid).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        _digest(out, solid.flatten())
    elif pa.types.is_decimal(kind) or pa.types.is_nested(kind) or pa.types.is_null(kind):
        out.update("\0".join(map(repr, array.drop_null().to_pylist())).encode())
    else:
        values = array.drop_null()
        if pa.types.is_temporal(kind):
            values = values.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
        out.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
    return None
