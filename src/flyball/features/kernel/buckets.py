"""Which bucket an entity is in: a hash of its typed key, the same on every machine and in every engine.

The surprise: texts are hashed all at once, as polynomials of their bytes, because a loop over a hundred million keys
would cost more than the join.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flyball.features.kernel.partials import Ints

__all__ = ["bucket_of"]

_U64 = npt.NDArray[np.uint64]
_PRIME = np.uint64(0x100000001B3)
_TURNS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # of splitmix64


def bucket_of(keys: Sequence[pa.ChunkedArray], buckets: int) -> Ints:
    """Return each row's bucket.

    Args:
        keys: The entity's key columns, of the keys' types.
        buckets: How many there are, at least 1.

    Returns:
        int64 in [0, buckets), shape (rows,); equal keys share a bucket. A null counts as a value of its own.
    """
    mixed: _U64 | None = None
    for column in keys:
        mine = _hash(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
        mixed = mine if mixed is None else _mix(mixed ^ mine)
    assert mixed is not None
    found: Ints = (mixed % np.uint64(buckets)).astype(np.int64)
    return found


def _hash(column: pa.Array) -> _U64:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        return _mix(_of_bytes(pc.fill_null(column.cast(pa.large_binary()), b"\xff\xfe")))
    if pa.types.is_timestamp(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_date(kind):
        column = column.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    values = pc.fill_null(column, pa.scalar(-(2**62), pa.int64())).to_numpy(zero_copy_only=False)
    return _mix(values.view(np.uint64))


def _of_bytes(column: pa.Array) -> _U64:
    """Return a polynomial of each value's bytes, modulo 2**64."""
    n = len(column)
    _, offsets_buffer, data = column.buffers()
    offsets = (
        np.frombuffer(offsets_buffer, np.int64)[column.offset : column.offset + n + 1] if n else np.zeros(1, np.int64)
    )
    begin, end = int(offsets[0]), int(offsets[-1])
    lengths = np.diff(offsets)
    hashes: _U64 = lengths.astype(np.uint64)
    if end == begin or data is None:
        return hashes
    content = np.frombuffer(data, np.uint8)[begin:end].astype(np.uint64) + np.uint64(1)
    place = np.arange(end - begin) - np.repeat(offsets[:-1] - begin, lengths)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(int(lengths.max()), _PRIME), dtype=np.uint64)
        content *= powers[place]
        filled = np.flatnonzero(lengths)
        hashes[filled] += np.add.reduceat(content, offsets[:-1][filled] - begin)
    return hashes


def _mix(values: _U64) -> _U64:
    """Spread every bit over all bits (splitmix64; Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        mixed: _U64 = values + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in _TURNS:
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))
