"""Training sets on disk: content digest, Parquet bytes, atomic writing.

The surprise: the digest is taken over canonical Arrow content (names, types, validity, values with nulls blanked), not
over the file, so it survives another pyarrow; under the pinned pyarrow the file bytes are equal too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flyball.datasets.types import DatasetManifest, TrainingSet
from flyball.disk import replacing
from flyball.errors import IntegrityError, Unavailable
from flyball.layout import Layout

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["content_digest", "open_dataset", "write_dataset"]

_PLAIN = "__at", "__label", "__unit", "__event", "__sequence", "__part"


def content_digest(table: pa.Table) -> str:
    """Return the SHA-256 of a table's canonical content: the same rows in the same order give the same digest."""
    import pyarrow as pa
    import pyarrow.compute as pc

    out = hashlib.sha256(f"flyball-dataset-1 {table.num_rows}".encode())
    for name in table.column_names:
        column = _whole(table, name)
        out.update(f"\n{name}\0{column.type}\0".encode())
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        out.update(np.packbits(valid, bitorder="little").tobytes())
        if pa.types.is_string(column.type):
            blank = pc.fill_null(column, "")
            out.update(pc.binary_length(blank).to_numpy(zero_copy_only=False).astype("<i4").tobytes())
            out.update("".join(blank.to_pylist()).encode())
            continue
        values = pc.fill_null(column, pa.scalar(0).cast(column.type)).to_numpy(zero_copy_only=False)
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), np.nan, values) + 0.0  # one NaN, and no negative zero
        out.update(np.ascontiguousarray(values).tobytes())
    return out.hexdigest()


def write_dataset(table: pa.Table, digest: str, layout: Layout) -> Path:
    """Write datasets/DIGEST.parquet atomically; a file of that digest is left alone."""
    import pyarrow.parquet as pq

    path = layout.datasets / f"{digest}.parquet"
    if path.exists():
        return path
    with replacing(path) as draft:
        pq.write_table(table, draft, compression="zstd", row_group_size=1 << 17, store_schema=True)
    return path


def open_dataset(manifest: DatasetManifest, layout: Layout, *, verify: bool = True) -> TrainingSet:
    """Read a training set back; of one that was superseded by an erasure, what took its place.

    Args:
        manifest: What was recorded of it.
        layout: Where the project keeps its state.
        verify: Compare the content with the manifest's digest.

    Raises:
        Unavailable: the file is gone.
        IntegrityError: its content is not what was written.
    """
    import pyarrow.parquet as pq

    digest = manifest.superseded_by or manifest.digest
    path = layout.datasets / f"{digest}.parquet"
    if not path.exists():
        raise Unavailable(f"training set {digest[:12]} is not in {layout.datasets}; build it again with a new run")
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"{path.name} cannot be read as Parquet: {error}; build it again with a new run"
        ) from error
    if verify and (found := content_digest(table)) != digest:
        raise IntegrityError(
            f"{path.name} holds content {found[:12]}, not {digest[:12]}; build it again with a new run"
        )
    names = tuple(name for name in table.column_names if name not in _PLAIN)
    return TrainingSet(table, manifest, names)


def _whole(table: pa.Table, name: str) -> pa.Array:
    import pyarrow as pa

    column = table.column(name).combine_chunks()
    return column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
