"""Read one view's stored values at T: as numbers for a matrix, or as exact Python values.

The surprise: expiry and windows are judged here, at read; what is stored does not age. A single row goes another way
than many (plain Python against arrays), because numpy's fixed price is most of a single row's time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeAlias, cast

import numpy as np

from flyball.features import cells
from flyball.features.cells import WindowLayout
from flyball.features.keys import request_keys
from flyball.features.packing import latest_known, namespace
from flyball.features.rowlayout import HEADER, RowLayout
from flyball.features.spec import ColumnType, Stat, Status, ViewSpec
from flyball.features.types import decimal_of, is_number, is_vector, vector_size
from flyball.features.values import date_of, float_of, from_plain
from flyball.units import from_micros

__all__ = ["Value", "ViewReader"]

_SIGN = 1 << 63
_NAN = float("nan")
_PRESENT, _NULL, _EXPIRED, _MISSING = (int(s) for s in Status)
_FEW = 8
_ZERO = (Stat.COUNT, Stat.SUM)
_DIRECT = frozenset({"int64", "float32", "float64", "bool"})
Value: TypeAlias = float | int | str | bool | bytes | datetime | date | Decimal | list[Any] | np.ndarray | None


class ViewReader:
    """Read one view's stored values at T.

    `width` is how many matrix columns its features take, `starts` the first column of each.
    """

    def __init__(self, view: ViewSpec) -> None:
        self.view = view
        self.prefix = namespace(view.digest)
        self.features = view.features
        sizes = [vector_size(f.type) for f in view.features]
        self.sizes = np.array(sizes)
        self.starts = (self.sizes.cumsum() - self.sizes).tolist()
        self.width = sum(sizes)
        self.wide = self.width != len(sizes)
        self._window = WindowLayout(view) if view.is_window else None
        self._row = None if view.is_window else RowLayout(view)
        self._flags = [i for i, f in enumerate(view.features) if f.type == "bool"]
        self._computed = len(view.stored) < len(view.features)
        self._direct = self._row is not None and not self._computed and all(t in _DIRECT for t in self._row.types)
        self._numbers = all(is_number(f.type) or is_vector(f.type) for f in view.features)
        self._defaults = [
            (i, from_plain(f.type, f.default)) for i, f in enumerate(view.features) if f.default is not None
        ]
        self._filled = [(i, numbers) for i, d in self._defaults if (numbers := _default_numbers(d)) is not None]
        self._zero = [i for i, f in enumerate(view.features) if f.stat in _ZERO and f.default is None]
        zeros = {i: 0 if view.features[i].type == "int64" else 0.0 for i in self._zero}
        instead = zeros | dict(self._defaults)
        self._instead = [instead.get(i) for i in range(len(sizes))]
        self.absent = self._absent()
        self._missing = np.full(len(sizes), _MISSING, np.uint8)
        self._expired = np.full(len(sizes), _EXPIRED, np.uint8)

    def keys(self, inputs: Mapping[str, Any], n: int) -> list[bytes | None]:
        """Return the store's key of each request row; None where a key part is null.

        Raises:
            BadRequest: a key column is missing or of another type than declared.
        """
        return request_keys(self.view.entity, self.prefix, inputs, n)

    # -- numbers ------------------------------------------------------------------------------------------------------

    def one(self, value: bytes | None, at: int) -> tuple[Sequence[float], Sequence[int] | np.ndarray | None]:
        """Return one entity's numbers (width) and statuses (features); statuses None means that all are PRESENT."""
        if value is None:
            return self.absent, self._missing
        if self._window is not None and not self._computed:
            return self._one_window(self._window, value, at)
        layout = self._row
        if not self._direct or layout is None:
            values, statuses = self.many([value], at)
            return values[0].tolist(), statuses[0]
        record = latest_known(value, at)
        if record is None:
            return self.absent, self._missing
        ttl = self.view.ttl
        if ttl is not None and at - (int.from_bytes(record[:8], "big") - _SIGN) > ttl:
            return self.absent, self._expired
        unpacked = layout.one.unpack_from(record, HEADER)
        words, slots = unpacked[4 : 4 + layout.words], unpacked[4 + layout.words :]
        return self._with_nulls(slots, words) if any(words) else (slots, None)

    def _one_window(
        self, layout: WindowLayout, value: bytes, at: int
    ) -> tuple[Sequence[float], Sequence[int] | np.ndarray | None]:
        numbers, statuses = cells.answer_one(layout, value, at)
        if statuses is None or not self._filled:
            return numbers, statuses
        filled = list(numbers)
        for i, _ in self._filled:
            if statuses[i] != _PRESENT:
                mine = slice(self.starts[i], self.starts[i] + int(self.sizes[i]))
                filled[mine] = self.absent[mine]
        return filled, statuses

    def _with_nulls(self, slots: Sequence[float], words: Sequence[int]) -> tuple[list[float], np.ndarray]:
        values, statuses = list(slots), np.zeros(len(slots), np.uint8)
        for i in range(len(values)):
            if words[i // 64] >> (i % 64) & 1:
                values[i], statuses[i] = self.absent[i], _NULL
        return values, statuses

    def many(self, values: Sequence[bytes | None], at: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (float64 (n, width), uint8 statuses (n, features)), with defaults where not PRESENT."""
        if self._computed:
            return self._from_columns(values, at)
        n = len(values)
        held, there = _held(values)
        if self._window is not None:
            found = cells.answer(self._window, held, at) if held else (np.empty((0, self.width)), self._statuses(0))
        else:
            found, there = self._rows(held, there, at)
        numbers, statuses = found
        if there is not None:
            numbers, statuses = self._spread(numbers, there, n), self._spread_statuses(statuses, there, n)
        for i, default in self._filled:
            gone = statuses[:, i] != _PRESENT
            if gone.any():
                numbers[gone, self.starts[i] : self.starts[i] + int(self.sizes[i])] = default
        return numbers, statuses

    def _rows(
        self, held: list[bytes], there: list[int] | None, at: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], list[int] | None]:
        """Decode the records known at T; return them, and which rows they are (None: all)."""
        layout = self._row
        assert layout is not None
        records, wholes, there = self._records(held, there, at)
        numbers = np.empty((len(wholes), self.width))
        layout.numbers(records, numbers, wholes)
        statuses = self._judged(records, at)
        if records["nulls"].any():
            for i in range(len(layout.types)):
                gone = statuses[:, i] == _NULL
                numbers[gone, self.starts[i] : self.starts[i] + int(self.sizes[i])] = np.nan
        numbers[statuses[:, 0] == _EXPIRED] = np.nan
        return (numbers, statuses), there

    def _records(
        self, held: list[bytes], there: list[int] | None, at: int
    ) -> tuple[np.ndarray, list[bytes], list[int] | None]:
        """Return the newest records known at T, their whole bytes, and which rows they are (None: all)."""
        assert self._row is not None
        size, dtype = self._row.dtype.itemsize, self._row.dtype
        lengths = list(map(len, held))
        fixed = lengths.count(size) == len(lengths)
        records = np.frombuffer(b"".join(held if fixed else [v[:size] for v in held]), dtype)
        if (fixed or (records["size"] == lengths).all()) and (records["known"] <= at).all():
            return records, held, there  # the usual case: one record each, known
        chosen = [latest_known(v, at) for v in held]
        rows = range(len(held)) if there is None else there
        places = [row for row, r in zip(rows, chosen, strict=True) if r is not None]
        wholes = [r for r in chosen if r is not None]
        return np.frombuffer(b"".join([r[:size] for r in wholes]), dtype), wholes, places

    def _judged(self, records: np.ndarray, at: int) -> np.ndarray:
        """Return the statuses of a row view's records."""
        assert self._row is not None
        statuses = np.zeros((len(records), len(self._row.types)), np.uint8)
        if records["nulls"].any():
            for i in range(len(self._row.types)):
                statuses[self._row.null(records, i), i] = _NULL
        if self.view.ttl is not None:
            event = (records["header"][:, 0].astype(np.uint64) ^ np.uint64(_SIGN)).view(np.int64)
            statuses[at - event > self.view.ttl] = _EXPIRED
        return statuses

    def _spread(self, found: np.ndarray, there: list[int], n: int) -> np.ndarray:
        """Return found rows at their places, what is for an absent entity at the others."""
        numbers = np.empty((n, self.width))
        numbers[:] = self.absent
        numbers[there] = found
        return numbers

    def _spread_statuses(self, found: np.ndarray, there: list[int], n: int) -> np.ndarray:
        statuses = np.full((n, found.shape[1]), _MISSING, np.uint8)
        statuses[there] = found
        return statuses

    def _statuses(self, n: int) -> np.ndarray:
        return np.empty((n, len(self.view.stored)), np.uint8)

    def _from_columns(self, values: Sequence[bytes | None], at: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix by way of exact columns: what is computed needs them."""
        columns, statuses = self.columns(values, at)
        numbers = np.empty((len(values), self.width))
        for i, (feature, column) in enumerate(zip(self.features, columns, strict=True)):
            mine = slice(self.starts[i], self.starts[i] + int(self.sizes[i]))
            numbers[:, mine] = _as_floats(feature.type, column).reshape(len(values), -1)
            numbers[statuses[:, i] != _PRESENT, mine] = self.absent[mine]
            if i in self._zero:
                numbers[statuses[:, i] == _NULL, mine] = np.nan
        return numbers, statuses

    # -- exact values -------------------------------------------------------------------------------------------------

    def columns(self, values: Sequence[bytes | None], at: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Return each feature's exact values, stored and computed, and statuses, shape (n, features).

        int64 (times µs), float64, float32, bool, datetime64[D], objects (texts, bytes, decimals, lists), vectors
        float32 (n, k). Where the status is not PRESENT a value means nothing; defaults are not put in.
        """
        n = len(values)
        held, there = _held(values)
        if self._window is not None:
            columns, statuses = self._window_columns(held, at)
        else:
            assert self._row is not None
            records, wholes, there = self._records(held, there, at)
            columns = [self._row.exact(records, i, wholes) for i in range(len(self._row.types))]
            statuses = self._judged(records, at)
        if there is not None:
            statuses = self._spread_statuses(statuses, there, n)
            columns = [_placed(column, there, n) for column in columns]
        return self._with_computed(columns, statuses) if self._computed else (columns, statuses)

    def _window_columns(self, held: list[bytes], at: int) -> tuple[list[np.ndarray], np.ndarray]:
        assert self._window is not None
        if not held:
            empty = [_empty(f.type) for f in self.view.stored]
            return empty, self._statuses(0)
        return cells.answer_columns(self._window, held, at)

    def _with_computed(self, columns: list[np.ndarray], statuses: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        from flyball.features.kernel.computed import with_computed

        stored = [f.name for f in self.view.stored]
        by_name = dict(zip(stored, columns, strict=True))
        status = {name: statuses[:, i] for i, name in enumerate(stored)}
        by_name, status = with_computed(self.view, by_name, status)
        names = [f.name for f in self.features]
        return [by_name[n] for n in names], np.column_stack([status[n] for n in names]).astype(np.uint8, copy=False)

    def objects(self, values: Sequence[bytes | None], at: int) -> tuple[list[list[Value]], np.ndarray]:
        """Return each feature's values as Python objects of the declared types, defaults put in, null as None.

        Returns:
            (One list of n values for each feature, statuses of shape (n, features)).
        """
        if self._direct and 0 < len(values) <= _FEW:
            return self._few_objects(values, at)
        columns, statuses = self.columns(values, at)
        found = [_as_objects(f.type, column) for f, column in zip(self.features, columns, strict=True)]
        if (statuses != _PRESENT).any():
            for i, objects in enumerate(found):
                default = self._instead[i]
                for row in np.flatnonzero(statuses[:, i] != _PRESENT).tolist():
                    objects[row] = default.copy() if isinstance(default, list | np.ndarray) else default
                if i in self._zero:  # a sum that int64 cannot hold is null, not 0
                    for row in np.flatnonzero(statuses[:, i] == _NULL).tolist():
                        objects[row] = None
        return found, statuses

    def _few_objects(self, values: Sequence[bytes | None], at: int) -> tuple[list[list[Value]], np.ndarray]:
        """Do as `objects` for a few records of numbers, without arrays."""
        statuses = np.zeros((len(values), len(self.features)), np.uint8)
        rows: list[list[Any]] = []
        for k, value in enumerate(values):
            numbers, status = self.one(value, at)
            row: list[Any] = list(numbers)
            for i in self._flags:
                row[i] = bool(row[i])
            if status is not None:
                statuses[k] = status
                row = [
                    v if s == _PRESENT else instead for v, s, instead in zip(row, status, self._instead, strict=True)
                ]
            rows.append(row)
        return [list(column) for column in zip(*rows, strict=True)], statuses

    def _absent(self) -> tuple[float, ...]:
        """Return the numbers for an entity without a value: defaults, else 0 for count and sum, else NaN."""
        numbers = [_NAN] * self.width
        for i in self._zero:
            numbers[self.starts[i]] = 0.0
        for i, default in self._filled:
            numbers[self.starts[i] : self.starts[i] + int(self.sizes[i])] = np.atleast_1d(default).tolist()
        return tuple(numbers)


def _held(values: Sequence[bytes | None]) -> tuple[list[bytes], list[int] | None]:
    """Return the values that are there, and their places; None when all are."""
    if None not in values:
        return cast("list[bytes]", values), None
    there = [i for i, v in enumerate(values) if v is not None]
    return [v for v in values if v is not None], there


def _placed(column: np.ndarray, there: list[int], n: int) -> np.ndarray:
    found = np.zeros((n, *column.shape[1:]), column.dtype)
    found[there] = column
    return found


def _default_numbers(default: Any) -> Any:
    """Return a default as the matrix shows it, None when it is no number."""
    if isinstance(default, np.ndarray):
        return default.astype(np.float64)
    number = float_of(default)
    return None if number != number else number  # noqa: PLR0124 NaN


def _empty(kind: ColumnType) -> np.ndarray:
    return np.empty((0, vector_size(kind)) if is_vector(kind) else 0, np.float32 if is_vector(kind) else np.float64)


def _as_floats(kind: ColumnType, column: np.ndarray) -> np.ndarray:
    if is_vector(kind) or column.dtype.kind in "fiub":
        return column if kind != "timestamp" else np.full(len(column), np.nan)
    if decimal_of(kind) is None:
        return np.full(len(column), np.nan)
    return np.fromiter((float_of(v) for v in column), np.float64, len(column))


def _as_objects(kind: ColumnType, column: np.ndarray) -> list[Any]:
    if is_vector(kind):
        return [row.copy() for row in column]
    values: list[Any] = column.tolist()
    if kind == "timestamp":
        return [from_micros(v) for v in values]
    if kind == "date" and column.dtype.kind == "i":
        return [date_of(v) for v in values]
    if kind == "int64" and column.dtype.kind == "f":
        return [int(v) if v == v else None for v in values]  # noqa: PLR0124 NaN
    return values
