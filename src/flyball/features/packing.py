"""What the bytes in the online store mean: keys, and the newest rows of a row view. Windows are in `cells`.

A row value is a chain of records, the newest first. The surprise: mostly there is one, but a row that is newer and
not yet known at some T that may still be asked keeps its predecessor behind it, so that the answer at T is the
as-known one. A record is
`<event, created, sequence: big-endian, orderable><known><floor><size><null bits><slots><tail>`;
strings lie in the tail. `floor` is the earliest T that may still be asked; what only earlier T would see is dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import xxhash

from flyball.errors import BadRequest

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import EntitySpec, ViewSpec

__all__ = [
    "HEADER", "SPAN", "Checkpoint", "Rows", "RowLayout", "checkpoint_key", "entity_key", "entity_keys", "key_values",
    "latest_known", "merge_rows", "namespace", "read_rows",
]  # fmt: skip

SPAN = 1_000_000  # µs that a read's T may lie before the newest arrival
HEADER = 24  # bytes of (event, created, sequence)
_SIGN = 1 << 63
_META = struct.Struct("<qqII")  # known, floor, size, spare
_LONGEST = 480  # LMDB takes keys of up to 511 bytes


class Checkpoint(msgspec.Struct, frozen=True):
    """How far one view's namespace is: written in the transaction that brought it there.

    `sequence` is the highest ingest log sequence applied, `until` the known time up to which files are in (None:
    never materialized). While a materialization runs, `target` is its `until` (with `full`, pushes wait) and
    `done` the last entity key it wrote.
    """

    sequence: int = 0
    until: int | None = None
    target: int | None = None
    full: bool = False
    done: bytes = b""

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


def entity_key(entity: EntitySpec, values: Sequence[object]) -> bytes | None:
    """Return the key bytes of one entity, without a namespace; None when a part is null, which matches nothing.

    Raises:
        BadRequest: a part has another type than declared; 1 and "1" differ.
    """
    parts = []
    for column, value in zip(entity.keys, values, strict=True):
        if value is None:
            return None
        if column.type == "int64":
            parts.append(_int_part(column.name, value))
        else:
            parts.append(_text_part(column.name, value))
    key = b"".join(parts)
    return key if len(key) <= _LONGEST else b"h" + xxhash.xxh3_128_digest(key) + key[:64]


def _int_part(name: str, value: object) -> bytes:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise BadRequest(f"key {name} is {value!r} ({type(value).__name__}); it is declared as an integer, send one")
    if not -_SIGN <= value < _SIGN:
        raise BadRequest(f"key {name} is {value}, which does not fit into 64 bits")
    return b"i" + (int(value) + _SIGN).to_bytes(8, "big")


def _text_part(name: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise BadRequest(f"key {name} is {value!r} ({type(value).__name__}); it is declared as a string, send one")
    text = value.encode()
    return b"s" + len(text).to_bytes(4, "big") + text


def key_values(name: str, kind: str, values: object) -> list[Any]:
    """Return one key column of a request as Python values, checked as a whole where it is an array."""
    if not isinstance(values, np.ndarray):
        return list(values)  # type: ignore[call-overload,no-any-return]
    if kind == "int64" and values.dtype.kind not in "iuO":
        raise BadRequest(f"key {name} came as {values.dtype}; it is declared as an integer, send integers")
    return values.tolist()  # type: ignore[no-any-return]


def entity_keys(entity: EntitySpec, table: pa.Table) -> list[bytes | None]:
    """Return the key bytes of each row of an Arrow table that has the entity's key columns, typed."""
    columns = [table.column(c.name).to_pylist() for c in entity.keys]
    seen: dict[tuple[object, ...], bytes | None] = {}
    keys = []
    for values in zip(*columns, strict=True):
        if values not in seen:
            seen[values] = entity_key(entity, values)
        keys.append(seen[values])
    return keys


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one view, ready to pack: entity as an index into `keys`, times in µs, one column per feature or slot."""

    keys: list[bytes]
    owner: np.ndarray
    event: np.ndarray
    created: np.ndarray
    known: np.ndarray
    sequence: np.ndarray
    columns: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # name -> (values, is null)

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, which: np.ndarray) -> Rows:
        """Return some of the rows, by mask or index, with the same keys."""
        columns = {n: (v[which], m[which]) for n, (v, m) in self.columns.items()}
        return Rows(self.keys, self.owner[which], self.event[which], self.created[which], self.known[which],
                    self.sequence[which], columns)  # fmt: skip


def read_rows(view: ViewSpec, table: pa.Table) -> Rows:
    """Return the rows of an accepted table (`__event`, `__created`, `__known`, `__sequence`) that have a whole key."""
    import pyarrow.compute as pc

    names = [c.name for c in view.entity.keys]
    wanted = dict.fromkeys(f.of for f in view.features if f.of is not None)
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
    columns = {n: _column(table.column(n)) for n in wanted}
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

    parts = [table.column(c.name).combine_chunks().dictionary_encode() for c in entity.keys]
    codes = np.zeros(table.num_rows, np.int64)
    for part in parts:
        codes = codes * max(len(part.dictionary), 1) + part.indices.to_numpy(zero_copy_only=False)
    whole = pa.array(codes).dictionary_encode()
    owner = whole.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    first = np.full(len(whole.dictionary), len(owner), np.int64)
    np.minimum.at(first, owner, np.arange(len(owner)))
    keys = entity_keys(entity, table.select([c.name for c in entity.keys]).take(pa.array(first)))
    return [k for k in keys if k is not None], owner


def _column(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return a column's values as float64, int64 or objects (strings), and which are null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nulls = pc.is_null(column).to_numpy()
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.to_numpy(zero_copy_only=False), nulls
    if pa.types.is_null(kind):
        return np.zeros(len(column), np.float64), nulls
    if pa.types.is_timestamp(kind):
        column, kind = column.cast(pa.timestamp("us", kind.tz)).cast(pa.int64()), pa.int64()
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.int64()), pa.int64()
    filled = pc.fill_null(column, pa.scalar(0, kind)) if nulls.any() else column
    return filled.to_numpy().astype(np.float64 if pa.types.is_floating(kind) else np.int64), nulls


@dataclass(frozen=True, slots=True, init=False)
class RowLayout:
    """How the records of one row view are laid out; made once per view."""

    view: ViewSpec
    dtype: np.dtype[Any]
    words: int
    types: tuple[str, ...]
    one: struct.Struct  # known, floor, size, spare, null words, slots; from byte 24

    def __init__(self, view: ViewSpec) -> None:
        types = tuple(f.type for f in view.features)
        words = -(-len(types) // 64)
        codes = ["d" if t == "float64" else "q" for t in types]
        slots = [(f"slot{i}", "<f8" if c == "d" else "<i8") for i, c in enumerate(codes)]
        fixed = [("header", ">u8", (3,)), ("known", "<i8"), ("floor", "<i8"), ("size", "<u4"), ("spare", "<u4")]
        object.__setattr__(self, "view", view)
        object.__setattr__(self, "types", types)
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "dtype", np.dtype([*fixed, ("nulls", "<u8", (words,)), *slots]))
        object.__setattr__(self, "one", struct.Struct("<qqII" + "Q" * words + "".join(codes)))

    def pack(self, rows: Rows, floor: int) -> list[tuple[bytes, bytes]]:
        """Return (entity key, record) of the rows that matter for T >= floor, several of an entity in header order."""
        rows = rows.take(_winners(rows, floor))
        made = np.zeros(len(rows), self.dtype)
        for i, times in enumerate((rows.event, rows.created, rows.sequence)):
            made["header"][:, i] = times.view(np.uint64) ^ np.uint64(_SIGN)
        made["known"], made["floor"], made["size"] = rows.known, floor, self.dtype.itemsize
        tails = [b""] * len(rows)
        for i, feature in enumerate(self.view.features):
            values, nulls = _fitting(*rows.columns[feature.of or feature.name], self.types[i])
            made["nulls"][:, i // 64] |= nulls.astype(np.uint64) << np.uint64(i % 64)
            if self.types[i] == "string":
                values = self._tails(tails, values, nulls)
            made[f"slot{i}"] = values
        made["size"] += np.fromiter(map(len, tails), np.uint32, len(rows))
        data, step = made.tobytes(), self.dtype.itemsize
        return [(rows.keys[o], data[i * step : i * step + step] + tails[i]) for i, o in enumerate(rows.owner.tolist())]

    def _tails(self, tails: list[bytes], values: np.ndarray, nulls: np.ndarray) -> np.ndarray:
        places = np.zeros(len(tails), np.int64)
        for row in np.flatnonzero(~nulls).tolist():
            text = str(values[row]).encode()
            places[row] = len(tails[row]) << 32 | len(text)
            tails[row] += text
        return places

    def text(self, record: bytes, slot: int) -> str:
        """Return a string from a record's tail, given its slot's number."""
        at = self.dtype.itemsize + (slot >> 32)
        return record[at : at + (slot & 0xFFFFFFFF)].decode()


def _fitting(values: np.ndarray, nulls: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return values a slot can hold; those of another type than declared count as null, as in reading."""
    text = values.dtype.kind in "OUT"
    if text != (kind == "string"):
        return np.zeros(len(values), object if kind == "string" else np.int64), np.ones(len(values), bool)
    if kind in {"int64", "timestamp", "bool"} and values.dtype.kind == "f":
        whole = np.isfinite(values) & (np.floor(values) == values) & (np.abs(values) < 2.0**63)
        return np.where(whole, values, 0.0).astype(np.int64), nulls | ~whole
    return values, nulls


def _winners(rows: Rows, floor: int) -> np.ndarray:
    """Return, in header order, each owner's newest row with known <= floor, and all with a later known."""
    order = np.lexsort((rows.sequence, rows.created, rows.event, rows.owner))
    settled = order[rows.known[order] <= floor]
    last = np.ones(len(settled), bool)
    last[:-1] = rows.owner[settled][1:] != rows.owner[settled][:-1]
    return np.concatenate([settled[last], order[rows.known[order] > floor]])


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
        if not newer and (known >= old_known or old_known <= floor):
            return None
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
