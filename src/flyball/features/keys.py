"""Entity keys as bytes: typed, ordered by their parts, never equal for different entities.

The surprise: no separator is needed. Each part says its type and either has a fixed length or carries it, so no text,
whatever it holds, can look like two parts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.errors import BadRequest
from flyball.features.values import days_of, exact
from flyball.units import to_micros

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import ColumnSpec, EntitySpec

__all__ = ["entity_key", "entity_keys", "key_values", "request_keys"]

_SIGN = 1 << 63
_LONGEST = 480  # LMDB takes keys of up to 511 bytes
_MANY = 24  # from this many integer keys on, one numpy block is cheaper
_long = struct.Struct(">Q").pack


def entity_key(entity: EntitySpec, values: Sequence[object]) -> bytes | None:
    """Return the key bytes of one entity, without a namespace; None when a part is null, which matches nothing.

    Raises:
        BadRequest: a part has another type than declared; 1, "1" and True differ.
    """
    parts = []
    for column, value in zip(entity.keys, values, strict=True):
        if value is None:
            return None
        parts.append(_PARTS[column.type](column.name, value))
    key = b"".join(parts)
    return key if len(key) <= _LONGEST else b"h" + blake2b(key, digest_size=32).digest() + key[:64]


def request_keys(entity: EntitySpec, prefix: bytes, inputs: Mapping[str, Any], n: int) -> list[bytes | None]:
    """Return the store's key of each of n request rows; None where a part is null.

    Args:
        entity: Whose keys.
        prefix: The view's namespace.
        inputs: Key column -> n values, list or array.
        n: Number of rows.

    Raises:
        BadRequest: a key column is missing, of wrong length, or of another type than declared.
    """
    columns = [_column(entity, column, inputs, n) for column in entity.keys]
    if len(columns) == 1:
        column, values = entity.keys[0], columns[0]
        if column.type == "int64" and n > 1:
            if n < _MANY and type(values) is list and set(map(type, values)) == {int}:
                head = prefix + b"i"
                try:
                    return [head + _long(value + _SIGN) for value in values]
                except struct.error:
                    pass  # told below, with the value
            elif (block := _integers(values)) is not None:
                return _block(prefix, block)
        if column.type in _ALIKE and len(values) == 1 and type(values[0]) is _ALIKE[column.type]:
            key = _PARTS[column.type](column.name, values[0])
            return [prefix + key if len(key) <= _LONGEST else prefix + (entity_key(entity, values) or b"")]
    rows = zip(*(v.tolist() if isinstance(v, np.ndarray) else v for v in columns), strict=True)
    keys = [entity_key(entity, row) for row in rows]
    return [None if key is None else prefix + key for key in keys]


def _column(entity: EntitySpec, column: ColumnSpec, inputs: Mapping[str, Any], n: int) -> Any:
    values = inputs.get(column.name)
    if values is None:
        raise BadRequest(f"the request misses {column.name!r}, a key of {entity.name}; send one value a row")
    if type(values) is not list:
        values = key_values(column.name, column.type, values)
    if len(values) != n:
        raise BadRequest(f"{column.name} has {len(values)} values and the request {n} rows; send one value a row")
    return values


def key_values(name: str, kind: str, values: Any) -> Any:
    """Return one key column of a request as a list, or as the array it is, checked as a whole."""
    if not isinstance(values, np.ndarray):
        return list(values)
    fits = {"int64": "iuO", "string": "UO", "bool": "bO", "bytes": "SO", "timestamp": "MO", "date": "MO"}[kind]
    if values.dtype.kind not in fits:
        raise BadRequest(f"key {name} came as {values.dtype}; it is declared as {_SAYS[kind]}, send {_SENDS[kind]}")
    if values.dtype.kind == "M":
        unit = "us" if kind == "timestamp" else "D"
        return values.astype(f"datetime64[{unit}]").tolist()
    return values


def _integers(values: Any) -> np.ndarray | None:
    """Return whole numbers as int64, None when they are not all plain ones within 64 bits."""
    if isinstance(values, np.ndarray):
        return values.astype(np.int64) if values.dtype.kind == "i" else None
    if set(map(type, values)) != {int}:
        return None
    try:
        return np.array(values, np.int64)
    except OverflowError:
        return None


def _block(prefix: bytes, values: np.ndarray) -> list[Any]:
    """Return `prefix + b"i" + value` for each value, cut out of one array."""
    head = prefix + b"i"
    block = np.empty(len(values), np.dtype([("head", f"V{len(head)}"), ("value", ">u8")]))
    block["head"] = np.void(head)
    block["value"] = values.view(np.uint64) ^ np.uint64(_SIGN)
    keys: list[Any] = block.view(f"V{len(head) + 8}").tolist()
    return keys


def entity_keys(entity: EntitySpec, table: pa.Table) -> list[bytes | None]:
    """Return the key bytes of each row of an Arrow table that has the entity's key columns, typed."""
    columns = [_from_arrow(table.column(c.name), c.type) for c in entity.keys]
    if len(columns) == 1 and isinstance(columns[0], np.ndarray):
        return _block(b"", columns[0])
    rows = zip(*(c.tolist() if isinstance(c, np.ndarray) else c for c in columns), strict=True)
    seen: dict[tuple[object, ...], bytes | None] = {}  # by value and type: True == 1 in Python
    keys = []
    for values in rows:
        if values not in seen:
            seen[values] = entity_key(entity, values)
        keys.append(seen[values])
    return keys


def _from_arrow(column: pa.ChunkedArray, kind: str) -> Any:
    import pyarrow as pa

    if kind == "int64" and pa.types.is_signed_integer(column.type) and not column.null_count:
        return column.to_numpy().astype(np.int64)
    if kind == "timestamp" and pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64()).to_pylist()
    if kind == "date" and pa.types.is_date(column.type):
        return column.cast(pa.date32()).to_pylist()
    return column.to_pylist()


# ------------------------------------------------------------------------------------------------ parts


def _wrong(name: str, value: object, kind: str) -> BadRequest:
    what = f"key {name} is {value!r:.60} ({type(value).__name__}); it is declared as {_SAYS[kind]}"
    return BadRequest(f"{what}, send {_SENDS[kind]}")


def _int_part(name: str, value: object) -> bytes:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise _wrong(name, value, "int64")
    if not -_SIGN <= value < _SIGN:
        raise BadRequest(f"key {name} is {value}, which does not fit into 64 bits; send a smaller one")
    return b"i" + _long(int(value) + _SIGN)


def _text_part(name: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise _wrong(name, value, "string")
    try:
        text = value.encode()
    except UnicodeEncodeError as error:  # a lone surrogate
        raise BadRequest(f"key {name} is {value!r:.60}, which is no Unicode text; send a text") from error
    return b"s" + len(text).to_bytes(4, "big") + text


def _bytes_part(name: str, value: object) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise _wrong(name, value, "bytes")
    return b"y" + len(bytes(value)).to_bytes(4, "big") + bytes(value)


def _bool_part(name: str, value: object) -> bytes:
    if not isinstance(value, bool | np.bool_):
        raise _wrong(name, value, "bool")
    return b"b\1" if value else b"b\0"


def _date_part(name: str, value: object) -> bytes:
    found = _try("date", value)
    if not isinstance(found, date):
        raise _wrong(name, value, "date")
    return b"d" + (days_of(found) + (1 << 31)).to_bytes(4, "big")


def _time_part(name: str, value: object) -> bytes:
    found = _try("timestamp", value)
    if not isinstance(found, datetime):
        raise _wrong(name, value, "timestamp")
    return b"t" + _long(to_micros(found) + _SIGN)


def _try(kind: str, value: object) -> Any:
    from flyball.errors import InputError

    try:
        return exact(kind, value, "a key")
    except InputError:
        return None


_PARTS: dict[str, Callable[[str, Any], bytes]] = {
    "int64": _int_part, "string": _text_part, "bytes": _bytes_part, "bool": _bool_part, "date": _date_part,
    "timestamp": _time_part,
}  # fmt: skip
_SAYS = {
    "int64": "an integer", "string": "a string", "bytes": "bytes", "bool": "a bool", "date": "a date",
    "timestamp": "a time",
}  # fmt: skip
_SENDS = {
    "int64": "one", "string": "one", "bytes": "them", "bool": "true or false", "date": "one, such as 2020-03-11",
    "timestamp": "one, such as 2020-03-11T08:00:00Z",
}  # fmt: skip
_ALIKE: dict[str, type] = {"int64": int, "string": str}
