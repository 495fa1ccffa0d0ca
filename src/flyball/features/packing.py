"""What the bytes in the online store mean: the newest rows of a row view. Windows are in `cells`, keys in `keys`.

A row value is a chain of records, the newest first. The surprise: mostly there is one, but a row that is newer and
not yet known at some T that may still be asked keeps its predecessor behind it, so that the answer at T is the
as-known one. A record is
`<event, created, sequence: big-endian, orderable><known><floor><size><null bits><slots><tail>`;
numbers, times and vectors lie in slots, texts, bytes, lists and long decimals in the tail. `floor` is the earliest T
that may still be asked; what only earlier T would see is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from flyball.errors import BadRequest
from flyball.features.keys import entity_key, entity_keys, key_values
from flyball.features.rowlayout import HEADER, META, RowLayout
from flyball.features.rows import Rows

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import EntitySpec, ViewSpec

__all__ = [
    "HEADER", "SPAN", "Checkpoint", "Rows", "RowLayout", "checkpoint_key", "entity_key", "entity_keys", "key_values",
    "latest_known", "merge_rows", "namespace", "read_rows",
]  # fmt: skip

SPAN = 1_000_000  # µs that a read's T may lie before the newest arrival
_META = META


class Checkpoint(msgspec.Struct, frozen=True):
    """How far one view's namespace is: written in the transaction that brought it there.

    `sequence` is the highest ingest log sequence applied, `until` the known time up to which files are in (None:
    never materialized). While a materialization runs, `target` is its `until` (with `full`, pushes wait) and
    `done` the last entity key it wrote, of its hash partition `part`.
    """

    sequence: int = 0
    until: int | None = None
    target: int | None = None
    full: bool = False
    done: bytes = b""
    part: int = 0

    @property
    def building(self) -> bool:
        """Whether a full rebuild is under way, so that pushes to the view wait in the log."""
        return self.target is not None and self.full

    def to_bytes(self) -> bytes:
        """Return the stored form."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes | None) -> Checkpoint:
        """Read what `to_bytes` wrote; None is the beginning."""
        return cls() if data is None else msgspec.msgpack.decode(data, type=cls)


def namespace(digest: str) -> bytes:
    """Return the prefix of every key of the view with this digest."""
    return b"v" + bytes.fromhex(digest)


def checkpoint_key(digest: str) -> bytes:
    """Return the key of the view's checkpoint."""
    return b"c" + bytes.fromhex(digest)


def read_rows(
    view: ViewSpec, table: pa.Table, *, choose: Callable[[Rows], tuple[Rows, np.ndarray]] | None = None
) -> Rows:
    """Return the rows of an accepted table (`__event`, `__created`, `__known`, `__sequence`) that have a whole key.

    Args:
        view: Whose rows.
        table: The table.
        choose: Given the rows without columns, returns those wanted and their places; only their columns are read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [c.name for c in view.entity.keys]
    wanted = dict.fromkeys(f.of for f in view.stored if f.of is not None and not view.is_window)
    table = _complete(view, table, names, wanted)
    whole = None
    for name in names:
        valid = pc.is_valid(table.column(name))
        whole = valid if whole is None else pc.and_(whole, valid)
    table = table.filter(whole)
    keys, owner = _dictionary(view.entity, table)
    event, created, known, sequence = (
        table.column(n).to_numpy().astype(np.int64) for n in ("__event", "__created", "__known", "__sequence")
    )
    if choose is not None:
        chosen, which = choose(Rows(keys, owner, event, created, known, sequence))
        keys, owner, event, created, known, sequence = (
            chosen.keys, chosen.owner, chosen.event, chosen.created, chosen.known, chosen.sequence
        )  # fmt: skip
        table = table.combine_chunks().take(pa.array(which))
    columns = {n: _column(table.column(n), fold=view.is_window) for n in wanted}
    if view.is_window:
        from flyball.features.kernel import slots

        columns = slots.columns((slot for _, slot in slots.planned(view.stored, by_hop=True)), table)
    return Rows(keys, owner, event, created, known, sequence, columns)


def _complete(view: ViewSpec, table: pa.Table, keys: Sequence[str], columns: Iterable[str]) -> pa.Table:
    """Check that the keys are there; a feature column that no row has is null."""
    import pyarrow as pa

    for name in keys:
        if name not in table.column_names:
            known = ", ".join(n for n in table.column_names if not n.startswith("__"))
            raise BadRequest(
                f"rows of {view.source.name!r} have no column {name!r}, a key of {view.name!r}; have {known}"
            )
    for name in columns:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    return table


def _dictionary(entity: EntitySpec, table: pa.Table) -> tuple[list[bytes], np.ndarray]:
    """Return the distinct entity keys and each row's index in them."""
    if table.num_rows == 0:
        return [], np.empty(0, np.int64)
    import pyarrow as pa

    whole: Any = None
    for column in entity.keys:
        part = table.column(column.name).combine_chunks().dictionary_encode()
        codes = part.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        if whole is not None:  # encoded again for each part, so that the product cannot overflow
            codes += whole.indices.to_numpy(zero_copy_only=False).astype(np.int64) * max(len(part.dictionary), 1)
            part = pa.array(codes).dictionary_encode()
        whole = part
    owner = whole.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    first = np.empty(len(whole.dictionary), np.int64)
    first[owner[::-1]] = np.arange(len(owner))[::-1]  # the last assignment stands, so the first row
    keys = entity_keys(entity, table.select([c.name for c in entity.keys]).take(pa.array(first)))
    return [k for k in keys if k is not None], owner


def _column(column: pa.ChunkedArray, *, fold: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a column's values and which are null.

    Numbers are float64 or int64 (times µs, dates days), vectors float32 (n, k), everything else objects; decimals
    that windows fold are float64.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    nulls = pc.is_null(column).to_numpy()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_null(kind):
        return np.zeros(len(column), np.float64), nulls
    if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        return _vectors(column, nulls), nulls
    if pa.types.is_decimal(kind) and fold:
        column, kind = column.cast(pa.string()).cast(pa.float64()), pa.float64()  # Arrow's direct cast is an ulp off
    elif not (pa.types.is_primitive(kind) and not pa.types.is_decimal(kind)):
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_decimal(kind):
            return np.fromiter(column.to_pylist(), object, len(column)), nulls
        return column.to_numpy(zero_copy_only=False), nulls
    if pa.types.is_timestamp(kind):
        column, kind = column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64()), pa.int64()
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.date32()).cast(pa.int32()), pa.int32()
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.int64()), pa.int64()
    filled = pc.fill_null(column, pa.scalar(0, kind)) if nulls.any() else column
    return filled.to_numpy().astype(np.float64 if pa.types.is_floating(kind) else np.int64), nulls


def _vectors(column: pa.ChunkedArray, nulls: np.ndarray) -> np.ndarray:
    """Return fixed-size lists as float32 (n, k); a null row is zero, a null part NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    size = column.type.list_size
    found = np.zeros((len(column), size), np.float32)
    parts = pc.list_flatten(column)  # of rows that are not null
    found[~nulls] = parts.cast(pa.float32()).to_numpy().reshape(-1, size)
    return found


def merge_rows(stored: bytes | None, new: bytes) -> bytes | None:
    """Return the chain after one more record, or None when it changes nothing."""
    if stored is None:
        return new
    known, floor, _, _ = _META.unpack_from(new, HEADER)
    old_known, _, size, _ = _META.unpack_from(stored, HEADER)
    newer = new[:HEADER] > stored[:HEADER]
    if size == len(stored):  # one record, the usual case
        if newer and (known <= floor or known <= old_known):
            return new
        if newer:
            return new + stored  # not known yet at every T that may still be asked: the old one stays behind it
        if known >= old_known or old_known <= floor or new[:HEADER] == stored[:HEADER]:
            return None
        return stored + new
    return _merge_chain(stored, new, floor)


def _merge_chain(stored: bytes, new: bytes, floor: int) -> bytes | None:
    records = {r[:HEADER]: r for r in [new, *_split(stored)]}  # the same header again is a redelivery: keep the stored
    kept: list[bytes] = []
    latest = None
    for header in sorted(records, reverse=True):
        known = _META.unpack_from(records[header], HEADER)[0]
        if latest is None or known < latest:  # a later known one with a smaller header is never the answer
            kept.append(records[header])
            latest = known
        if latest <= floor:
            break
    merged = b"".join(kept)
    return None if merged == stored else merged


def _split(chain: bytes) -> list[bytes]:
    records, at = [], 0
    while at < len(chain):
        size = _META.unpack_from(chain, at + HEADER)[2]
        records.append(chain[at : at + size])
        at += size
    return records


def latest_known(chain: bytes, at: int) -> bytes | None:
    """Return the newest record that was known at T, or None."""
    known, _, size, _ = _META.unpack_from(chain, HEADER)
    if known <= at:
        return chain if size == len(chain) else chain[:size]
    if size == len(chain):
        return None
    return next((r for r in _split(chain) if _META.unpack_from(r, HEADER)[0] <= at), None)
