"""How the records of one row view are laid out, written and read back.

The surprise: neighbouring features of one kind share one sub-array of the record's dtype, so that reading ten doubles
of a hundred entities is one numpy assignment, and a vector is read without a Python object per number.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from flyball.errors import InputError
from flyball.features.rows import Rows
from flyball.features.spec import ColumnType, FeatureSpec, ViewSpec
from flyball.features.types import decimal_of, element_of, is_vector, vector_size
from flyball.features.values import exact, from_plain, scaled, to_plain, unscaled

__all__ = ["HEADER", "META", "RowLayout", "Run", "winners"]

HEADER = 24  # bytes of (event, created, sequence)
META = struct.Struct("<qqII")  # known, floor, size, spare
_SIGN = 1 << 63
_SHORT = 18  # decimals of up to so many digits are integers of 64 bits
_WHOLE = frozenset({"int64", "timestamp", "bool", "date"})


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring features of one kind: `field` of the dtype, the first one's place, the first matrix column.

    `kind` is "number" (as it is), "decimal" (an integer over 10**scale), "vector" or "none" (no number).
    """

    field: str
    kind: str
    features: slice
    columns: slice
    scale: int = 0


class RowLayout:
    """How the records of one row view are laid out; made once per view."""

    def __init__(self, view: ViewSpec) -> None:
        self.view = view
        self.features: tuple[FeatureSpec, ...] = view.stored
        self.types: tuple[ColumnType, ...] = tuple(f.type for f in self.features)
        self.words = -(-len(self.types) // 64)
        self.runs = tuple(_runs(self.types))
        self.width = sum(map(vector_size, self.types))
        fixed = [("header", ">u8", (3,)), ("known", "<i8"), ("floor", "<i8"), ("size", "<u4"), ("spare", "<u4"),
                 ("nulls", "<u8", (self.words,))]  # fmt: skip
        self.dtype: np.dtype[Any] = np.dtype([*fixed, *((r.field, *_format(self.types, r)) for r in self.runs)])
        # known, floor, size, spare, null words, then one value per feature; from byte 24
        self.one = struct.Struct("<qqII" + "Q" * self.words + "".join(_code(t) for t in self.types))
        self._places = {i: r for r in self.runs for i in range(r.features.start, r.features.stop)}

    def pack(self, rows: Rows, floor: int) -> list[tuple[bytes, bytes]]:
        """Return (entity key, record) of the rows that matter for T >= floor, by owner, then in header order."""
        order = np.lexsort((rows.sequence, rows.created, rows.event, rows.owner))
        rows = rows.take(order[winners(rows.owner[order], rows.known[order], floor)])
        return list(zip(map(rows.keys.__getitem__, rows.owner.tolist()), self.records(rows, floor), strict=True))

    def records(self, rows: Rows, floor: int) -> list[bytes]:
        """Return one record for each row, as it is."""
        made = np.zeros(len(rows), self.dtype)
        for i, times in enumerate((rows.event, rows.created, rows.sequence)):
            made["header"][:, i] = times.view(np.uint64) ^ np.uint64(_SIGN)
        made["known"], made["floor"], made["size"] = rows.known, floor, self.dtype.itemsize
        tails: list[bytes] | None = None
        for i, feature in enumerate(self.features):
            values, nulls = _fitting(*rows.columns[feature.of or feature.name], self.types[i])
            if _in_tail(self.types[i]):
                tails = [b""] * len(rows) if tails is None else tails
                values = _into_tails(tails, values, nulls)
            made["nulls"][:, i // 64] |= nulls.astype(np.uint64) << np.uint64(i % 64)
            self.column(made, i)[...] = values
        step = self.dtype.itemsize
        if tails is not None:
            made["size"] += np.fromiter(map(len, tails), np.uint32, len(rows))
        data = made.tobytes()
        fixed = [data[at : at + step] for at in range(0, len(data), step)]
        return fixed if tails is None else [a + b for a, b in zip(fixed, tails, strict=True)]

    def column(self, records: np.ndarray, i: int) -> np.ndarray:
        """Return one stored feature's slots of some records: a view, shape (n,), or (n, k) for a vector."""
        run = self._places[i]
        slots: np.ndarray = records[run.field]
        return slots if run.kind == "vector" else slots[:, i - run.features.start]

    def null(self, records: np.ndarray, i: int) -> np.ndarray:
        """Return where a stored feature is null."""
        found: np.ndarray = (records["nulls"][:, i // 64] >> np.uint64(i % 64)) & np.uint64(1) == 1
        return found

    def numbers(self, records: np.ndarray, into: np.ndarray, tails: Sequence[bytes]) -> None:
        """Write float64 values of records, shape (n, width); what is no number is NaN. `tails` are whole records."""
        for run in self.runs:
            if run.kind == "decimal":
                into[:, run.columns] = decimal_floats(records[run.field], run.scale)
            elif run.kind == "none":
                into[:, run.columns] = np.nan
                for i in range(run.features.start, run.features.stop):
                    if decimal_of(self.types[i]) is not None:
                        values = self.exact(records, i, tails)
                        place = run.columns.start + i - run.features.start
                        into[:, place] = [np.nan if v is None else float(v) for v in values]
            else:
                into[:, run.columns] = records[run.field]

    def exact(self, records: np.ndarray, i: int, tails: Sequence[bytes]) -> np.ndarray:
        """Return a stored feature's exact values: int64 (times µs), datetime64[D], floats, bool, else objects.

        Args:
            records: The fixed parts.
            i: The feature.
            tails: The whole records.
        """
        kind, slots = self.types[i], self.column(records, i)
        if kind == "bool":
            return slots.astype(bool)
        if kind == "date":
            return slots.astype("datetime64[D]")
        if (digits := decimal_of(kind)) is not None and digits[0] <= _SHORT:
            return np.fromiter((scaled(v, digits[1]) for v in slots.tolist()), object, len(slots))
        if not _in_tail(kind):
            return slots
        read, null = _reader(kind), self.null(records, i).tolist()
        size = self.dtype.itemsize
        found = np.empty(len(slots), object)
        for row, place in enumerate(slots.tolist()):
            if not null[row]:
                at = size + (place >> 32)
                found[row] = read(tails[row][at : at + (place & 0xFFFFFFFF)])
        return found


def decimal_floats(numbers: np.ndarray, scale: int) -> np.ndarray:
    """Return unscaled decimals as the nearest float64, as `float(Decimal)` gives."""
    if scale == 0:
        return numbers.astype(np.float64)
    power = 10**scale
    found: np.ndarray = numbers / np.float64(power)  # both exact, so the quotient is rounded once
    wide = np.abs(numbers) > 1 << 53
    if wide.any():
        found[wide] = [v / power for v in numbers[wide].tolist()]
    return found


def _runs(types: Sequence[ColumnType]) -> list[Run]:
    runs: list[Run] = []
    column = 0
    for i, kind in enumerate(types):
        how, scale = _how(kind)
        width = vector_size(kind)
        last = runs[-1] if runs else None
        alike = last is not None and how != "vector" and _code(types[last.features.start]) == _code(kind)
        if last is not None and alike and (last.kind, last.scale) == (how, scale):
            grown = slice(last.features.start, i + 1), slice(last.columns.start, column + 1)
            runs[-1] = Run(last.field, how, *grown, scale)
        else:
            runs.append(Run(f"run{len(runs)}", how, slice(i, i + 1), slice(column, column + width), scale))
        column += width
    return runs


def _how(kind: ColumnType) -> tuple[str, int]:
    digits = decimal_of(kind)
    if digits is not None and digits[0] <= _SHORT:
        return "decimal", digits[1]
    if is_vector(kind):
        return "vector", 0
    return ("number", 0) if kind in {"int64", "float32", "float64", "bool"} else ("none", 0)


def _code(kind: ColumnType) -> str:
    if is_vector(kind):
        return f"{4 * vector_size(kind)}s"
    return {"float64": "d", "float32": "f"}.get(kind, "q")


def _format(types: Sequence[ColumnType], run: Run) -> tuple[str, tuple[int]]:
    kind = types[run.features.start]
    if is_vector(kind):
        return "<f4", (vector_size(kind),)
    return {"d": "<f8", "f": "<f4", "q": "<i8"}[_code(kind)], (run.features.stop - run.features.start,)


def _in_tail(kind: ColumnType) -> bool:
    digits = decimal_of(kind)
    return kind in {"string", "bytes"} or element_of(kind) is not None or (digits is not None and digits[0] > _SHORT)


# ------------------------------------------------------------------------------------------------ writing


def winners(owner: np.ndarray, known: np.ndarray, floor: int) -> np.ndarray:
    """Return which rows are the answer at some T >= floor: those known before every newer row of their owner.

    Rows lie by (owner, event, created, sequence).
    """
    if not len(owner):
        return np.zeros(0, bool)
    since = np.maximum(known, floor) - floor  # all that is known by then is known alike
    span = int(since.max()) + 1
    if span > (1 << 62) // (int(owner[-1]) + 1):
        since = np.unique(since, return_inverse=True)[1]
        span = len(since) + 1
    earliest = owner * span + since  # less than whatever belongs to a later owner
    newer = np.minimum.accumulate(earliest[::-1])[::-1]
    keep: np.ndarray = np.append(earliest[:-1] < newer[1:], True)
    return keep


def _fitting(values: np.ndarray, nulls: np.ndarray, kind: ColumnType) -> tuple[np.ndarray, np.ndarray]:
    """Return values a slot can hold (bytes of the tail as objects); of another type than declared means null."""
    if is_vector(kind):
        return _vectors(values, nulls, vector_size(kind))
    if _in_tail(kind):
        return _encoded(values, nulls, _writer(kind))
    if (digits := decimal_of(kind)) is not None:
        found, nulls = _encoded(values, nulls, lambda v: unscaled(exact(kind, v, ""), digits[1]))
        return np.where(nulls, 0, found).astype(np.int64), nulls
    if values.ndim != 1 or values.dtype.kind not in "fiub":
        return np.zeros(len(values), np.int64), np.ones(len(values), bool)
    if kind in _WHOLE and values.dtype.kind == "f":
        whole = np.isfinite(values) & (np.floor(values) == values) & (np.abs(values) < 2.0**63)
        return np.where(whole, values, 0.0).astype(np.int64), nulls | ~whole
    if kind == "float32":
        with np.errstate(over="ignore"):
            return values.astype(np.float32), nulls
    return values, nulls


def _encoded(values: np.ndarray, nulls: np.ndarray, write: Callable[[Any], Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return each value written, None where it does not fit, and what is null after that."""
    found, nulls = np.empty(len(values), object), nulls.copy()
    for row in np.flatnonzero(~nulls).tolist():
        try:
            found[row] = write(values[row])
        except (InputError, AttributeError, TypeError, UnicodeEncodeError):
            nulls[row] = True
    return found, nulls


def _vectors(values: np.ndarray, nulls: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    if values.ndim == 2 and values.shape[1] == size:
        return values, nulls
    found, nulls = np.zeros((len(values), size), np.float32), nulls.copy()
    for row in np.flatnonzero(~nulls).tolist():
        try:
            found[row] = exact(f"vector<{size}>", values[row], "a vector")
        except InputError:
            nulls[row] = True
    return found, nulls


def _into_tails(tails: list[bytes], values: np.ndarray, nulls: np.ndarray) -> np.ndarray:
    """Append each value's bytes to its row's tail; return where they lie."""
    places = np.zeros(len(tails), np.int64)
    for row in np.flatnonzero(~nulls).tolist():
        places[row] = len(tails[row]) << 32 | len(values[row])
        tails[row] += values[row]
    return places


def _writer(kind: ColumnType) -> Callable[[Any], bytes]:
    if kind == "string":
        return lambda v: v.encode()
    if kind == "bytes":
        return lambda v: exact("bytes", v if not isinstance(v, str) else None, "")
    if (digits := decimal_of(kind)) is not None:
        return lambda v: _big(unscaled(exact(kind, v, ""), digits[1]))
    return lambda v: msgspec.msgpack.encode(to_plain(kind, exact(kind, v, "")))


def _reader(kind: ColumnType) -> Callable[[bytes], Any]:
    if kind == "string":
        return bytes.decode
    if kind == "bytes":
        return bytes
    if (digits := decimal_of(kind)) is not None:
        scale = digits[1]
        return lambda data: scaled(int.from_bytes(data, "big", signed=True), scale)
    return lambda data: from_plain(kind, msgspec.msgpack.decode(data))


def _big(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)
