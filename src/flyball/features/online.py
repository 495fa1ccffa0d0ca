"""Look up what a model reads, now: the gateway's hot path. What people and notebooks ask for is in `lookup`.

One multi-get fetches everything a request needs, whatever its views and rows; an entity that occurs twice is fetched
once. The surprise: expiry and windows are judged here, at read, at T; what is stored does not age. A single row goes
another way than many (plain Python against arrays), because numpy's fixed price is most of a single row's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from flyball.errors import BadRequest
from flyball.features.cells import WindowLayout, answer
from flyball.features.packing import HEADER, RowLayout, entity_key, key_values, latest_known, namespace
from flyball.features.ports import OnlineStore
from flyball.features.request import RequestPart
from flyball.features.spec import FeatureService, FeatureSpec, Stat, Status, ViewSpec
from flyball.units import to_micros

__all__ = ["OnlineReader", "Value", "ViewReader", "as_float"]

_SIGN = 1 << 63
_NAN = float("nan")
_NUMBERS = frozenset({int, float, bool})
_PRESENT, _NULL, _EXPIRED, _MISSING = (int(s) for s in Status)
Value = float | int | str | bool | None


class ViewReader:
    """Read one view's stored values at T, as numbers or as Python values."""

    def __init__(self, view: ViewSpec) -> None:
        self.view = view
        self.prefix = namespace(view.digest)
        self.names = tuple(c.name for c in view.entity.keys)
        self._kinds = tuple(c.type for c in view.entity.keys)
        self.width = len(view.features)
        self._window = WindowLayout(view) if view.is_window else None
        self._row = None if view.is_window else RowLayout(view)
        self._numeric = all(f.type != "string" for f in view.features)
        self.defaults = tuple(as_float(f.default) for f in view.features)
        self._has_defaults = any(f.default is not None for f in view.features)
        self._absent = tuple(_absent(f) for f in view.features)
        self._missing = np.full(self.width, _MISSING, np.uint8)

    def keys(self, inputs: Mapping[str, Any], n: int) -> list[bytes | None]:
        """Return the store's key of each request row; None where a key part is null.

        Raises:
            BadRequest: a key column is missing or of another type than declared.
        """
        columns = []
        for name, kind in zip(self.names, self._kinds, strict=True):
            if name not in inputs:
                raise BadRequest(f"the request misses {name!r}, a key of {self.view.entity.name}; send one value a row")
            values = key_values(name, kind, inputs[name])
            if len(values) != n:
                raise BadRequest(f"{name} has {len(values)} values and the request {n} rows; send one value a row")
            columns.append(values)
        prefix, entity = self.prefix, self.view.entity
        keys = [entity_key(entity, values) for values in zip(*columns, strict=True)]
        return [None if key is None else prefix + key for key in keys]

    def one(self, value: bytes | None, at: int) -> tuple[Sequence[float], np.ndarray | None]:
        """Return one entity's numbers and statuses; statuses None means that all are PRESENT."""
        if value is None:
            return self._absent, self._missing
        if self._row is None:
            values, statuses = self.many([value], at)
            return values[0].tolist(), statuses[0]
        record = latest_known(value, at)
        if record is None:
            return self._absent, self._missing
        ttl = self.view.ttl
        if ttl is not None and at - (int.from_bytes(record[:8], "big") - _SIGN) > ttl:
            return self._absent, np.full(self.width, _EXPIRED, np.uint8)
        layout = self._row
        unpacked = layout.one.unpack_from(record, HEADER)
        words, slots = unpacked[4 : 4 + layout.words], unpacked[4 + layout.words :]
        if self._numeric and not any(words):
            return slots, None
        return self._with_nulls(slots, words)

    def _with_nulls(self, slots: Sequence[float], words: Sequence[int]) -> tuple[list[float], np.ndarray]:
        values, statuses = list(slots), np.zeros(self.width, np.uint8)
        for i, kind in enumerate(self._row.types if self._row else ()):
            if words[i // 64] >> (i % 64) & 1:
                values[i], statuses[i] = self.defaults[i], _NULL
            elif kind == "string":
                values[i] = _NAN
        return values, statuses

    def many(self, values: Sequence[bytes | None], at: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (float64 values, uint8 statuses), shape (n, features), with defaults where not PRESENT."""
        n = len(values)
        numbers = np.full((n, self.width), np.nan)
        statuses = np.full((n, self.width), _MISSING, np.uint8)
        there = [i for i, v in enumerate(values) if v is not None]
        if there:
            held: list[bytes] = [v for v in values if v is not None]
            if self._window is not None:
                found = answer(self._window, held, at)
                self._place(numbers, statuses, there, *found)
            else:
                self._rows(numbers, statuses, there, held, at)
        if len(there) < n:
            numbers[[v is None for v in values]] = self._absent
        if self._has_defaults:
            for i, default in enumerate(self.defaults):
                if default == default:  # noqa: PLR0124 not NaN
                    numbers[statuses[:, i] != _PRESENT, i] = default
        return numbers, statuses

    def _place(
        self, numbers: np.ndarray, statuses: np.ndarray, rows: list[int], found: np.ndarray, status: np.ndarray
    ) -> None:
        if len(rows) == len(numbers):
            numbers[:], statuses[:] = found, status
        else:
            numbers[rows], statuses[rows] = found, status

    def _rows(self, numbers: np.ndarray, statuses: np.ndarray, rows: list[int], held: list[bytes], at: int) -> None:
        layout = self._row
        assert layout is not None
        size = layout.dtype.itemsize
        chosen = [latest_known(v, at) for v in held]
        known = [i for i, r in enumerate(chosen) if r is not None]
        records = np.frombuffer(b"".join([r[:size] for r in chosen if r is not None]), layout.dtype)
        found, status = np.empty((len(known), self.width)), np.zeros((len(known), self.width), np.uint8)
        nulls = records["nulls"]
        for i, kind in enumerate(layout.types):
            found[:, i] = np.nan if kind == "string" else records[f"slot{i}"]
        if nulls.any():
            for i in range(self.width):
                gone = (nulls[:, i // 64] >> np.uint64(i % 64)) & np.uint64(1) == 1
                found[gone, i], status[gone, i] = np.nan, _NULL
        if self.view.ttl is not None:
            event = (records["header"][:, 0].astype(np.uint64) ^ np.uint64(_SIGN)).view(np.int64)
            old = at - event > self.view.ttl
            if old.any():
                found[old], status[old] = np.nan, _EXPIRED
        self._place(numbers, statuses, [rows[i] for i in known], found, status)

    def objects(self, value: bytes | None, at: int) -> tuple[list[Value], list[int]]:
        """Return one entity's values as Python objects of the declared types (null is None), and their statuses."""
        numbers, statuses = self.many([value], at)
        features, row = self.view.features, statuses[0].tolist()
        record = latest_known(value, at) if value is not None and self._row is not None else None
        slots = self._row.one.unpack_from(record, HEADER)[4 + self._row.words :] if record and self._row else ()
        values: list[Value] = []
        for i, feature in enumerate(features):
            if row[i] == _PRESENT and record is not None and self._row is not None:
                values.append(_typed(feature, slots[i], self._row, record))
            elif row[i] != _PRESENT and feature.default is not None:
                values.append(feature.default)
            else:
                number = float(numbers[0, i])
                values.append(None if number != number else _whole(feature, number))  # noqa: PLR0124 NaN
        return values, row


def _typed(feature: FeatureSpec, slot: int | float, layout: RowLayout, record: bytes) -> Value:
    if feature.type == "string":
        return layout.text(record, int(slot))
    return bool(slot) if feature.type == "bool" else slot


def _whole(feature: FeatureSpec, number: float) -> Value:
    return int(number) if feature.type == "int64" and number.is_integer() else number


def _absent(feature: FeatureSpec) -> float:
    """Return the number for an entity without a value: the default, else 0 for count and sum, else NaN."""
    if feature.default is None and feature.stat in (Stat.COUNT, Stat.SUM):
        return 0.0
    return as_float(feature.default)


def as_float(value: object) -> float:
    """Return a value as float64 sees it; null and text are NaN."""
    return float(value) if isinstance(value, int | float) else _NAN


@dataclass(frozen=True, slots=True)
class _Part:
    """One view's share of the matrix: from which of its features to which columns."""

    reader: ViewReader
    features: tuple[int, ...]
    columns: tuple[int, ...]
    whole: slice | None  # the columns as a slice, where all features are read in order


class OnlineReader:
    """Build the matrix of one model version from requests and the online store.

    Args:
        store: The online store.
        service: What the version reads.
    """

    def __init__(self, store: OnlineStore, service: FeatureService) -> None:
        self._store = store
        self._service = service
        self._parts = tuple(_parts(service))
        self._fields = [(i, c.name) for i, c in enumerate(service.columns) if c.kind == "field"]
        self._request = RequestPart(service)
        self._required = {i.name: i.required for i in service.inputs}
        self._timed = {i.name for i in service.inputs if i.type == "timestamp"}
        self._width = len(service.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The matrix's columns."""
        return self._service.names

    def read(self, inputs: Mapping[str, Any], n: int, at: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix and what became of each value.

        Args:
            inputs: Input name -> n values (list or array); None is null.
            n: Number of rows.
            at: T in µs.

        Returns:
            (float64, uint8 `Status`), both of shape (n, columns).

        Raises:
            BadRequest: an input is missing, of wrong length or wrong type.
        """
        matrix = np.empty((n, self._width))
        statuses = np.zeros((n, self._width), np.uint8)
        if self._parts:
            if n == 1:
                self._read_one(matrix, statuses, inputs, at)
            else:
                self._read_many(matrix, statuses, inputs, n, at)
        for i, name in self._fields:
            values = inputs.get(name)
            if n == 1 and type(values) is list and len(values) == 1 and type(values[0]) in _NUMBERS:
                matrix[0, i] = values[0]  # the usual lone request: numpy per field would cost as much as all the rest
                if values[0] != values[0]:
                    statuses[0, i] = _NULL
                continue
            self._field(matrix[:, i], statuses[:, i], name, values, n)
        if self._request:
            self._request.fill(matrix, statuses, inputs, n, at)
        return matrix, statuses

    def _read_one(self, matrix: np.ndarray, statuses: np.ndarray, inputs: Mapping[str, Any], at: int) -> None:
        keys = [part.reader.keys(inputs, 1)[0] for part in self._parts]
        values = iter(self._store.get_many([k for k in keys if k is not None]))
        for part, key in zip(self._parts, keys, strict=True):
            numbers, status = part.reader.one(None if key is None else next(values), at)
            if part.whole is not None:
                matrix[0, part.whole] = numbers
                if status is not None:
                    statuses[0, part.whole] = status
                continue
            for feature, column in zip(part.features, part.columns, strict=True):
                matrix[0, column] = numbers[feature]
                if status is not None:
                    statuses[0, column] = status[feature]

    def _read_many(self, matrix: np.ndarray, statuses: np.ndarray, inputs: Mapping[str, Any], n: int, at: int) -> None:
        keys = [part.reader.keys(inputs, n) for part in self._parts]
        union = list(dict.fromkeys(k for part in keys for k in part if k is not None))
        held = dict(zip(union, self._store.get_many(union), strict=True))
        for part, mine in zip(self._parts, keys, strict=True):
            distinct = {k: i for i, k in enumerate(dict.fromkeys(mine))}
            numbers, status = part.reader.many([None if k is None else held[k] for k in distinct], at)
            if len(distinct) < n:
                places = [distinct[k] for k in mine]
                numbers, status = numbers[places], status[places]
            if part.whole is not None:
                matrix[:, part.whole], statuses[:, part.whole] = numbers, status
            else:
                matrix[:, part.columns] = numbers[:, part.features]
                statuses[:, part.columns] = status[:, part.features]

    def _field(self, column: np.ndarray, status: np.ndarray, name: str, values: Any, n: int) -> None:
        if values is None:
            if self._required.get(name, True):
                raise BadRequest(f"the request misses {name!r}, a required input; send one value a row")
            column[:], status[:] = np.nan, _MISSING
            return
        if len(values) != n:
            raise BadRequest(f"{name} has {len(values)} values and the request {n} rows; send one value a row")
        column[:] = _floats(name, values)
        null = np.isnan(column)
        if null.any():
            status[null] = _NULL


def _floats(name: str, values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return values.astype(np.float64)
    for value in values:
        if value is not None and not isinstance(value, int | float | np.number | np.bool_):
            raise BadRequest(f"{name} is {value!r} ({type(value).__name__}); it is declared as a number, send one")
    return np.array([_NAN if v is None else v for v in values], np.float64)


def _times(name: str, values: Any) -> np.ndarray:
    """Return µs as float64 (NaN is null) of int µs, datetimes or ISO texts; without an offset they count as UTC."""
    return _floats(name, values if isinstance(values, np.ndarray) else [_moment(name, v) for v in values])


def _moment(name: str, value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise BadRequest(f"{name} is {value!r}, which is no time; write ISO text or microseconds") from None
    return to_micros(value) if isinstance(value, datetime) else value


def _parts(service: FeatureService) -> Iterable[_Part]:
    for view in service.views:
        places = [(i, c.name) for i, c in enumerate(service.columns) if c.kind == "view" and c.view == view.name]
        names = [f.name for f in view.features]
        columns = tuple(i for i, _ in places)
        features = tuple(names.index(name) for _, name in places)
        ordered = features == tuple(range(len(names))) and columns == tuple(range(columns[0], columns[0] + len(names)))
        yield _Part(ViewReader(view), features, columns, slice(columns[0], columns[-1] + 1) if ordered else None)
