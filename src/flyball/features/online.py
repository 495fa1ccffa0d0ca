"""Look up what a model reads, now: the gateway's hot path. What people and notebooks ask for is in `lookup`.

One multi-get fetches everything a request needs, whatever its views and rows; an entity that occurs twice is fetched
once. The surprise: reading is cut in two, `plan` (which keys) and `assemble` (what their values mean at T), so that
`read` and `aread` differ in nothing but how they wait for the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol, cast

import numpy as np

from flyball.errors import BadRequest, InputError
from flyball.features.ports import OnlineStore
from flyball.features.request import RequestPart
from flyball.features.spec import FeatureService, Status
from flyball.features.values import exact
from flyball.features.values import float_of as as_float
from flyball.features.viewreader import Value, ViewReader

__all__ = ["AsyncStore", "OnlineReader", "Plan", "Share", "Value", "ViewReader", "as_float", "plan_keys"]

_NAN = float("nan")
_NUMBERS = frozenset({int, float, bool})
_NULL, _MISSING = int(Status.NULL), int(Status.MISSING)


class AsyncStore(Protocol):
    """A remote store that can be waited for."""

    async def aget_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None where there is none, in one round trip."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """One view's share of a plan's keys: `begin` to `end`, and for each row its place among them.

    `places` None means row i has place i; place `end - begin` is an entity without a value: a null key, of which
    `nulls` says that there is one.
    """

    begin: int
    end: int
    places: list[int] | None
    nulls: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What one request asks of the store: every key once, and how the answer is dealt out."""

    keys: list[bytes]
    shares: list[Share]


def plan_keys(keys: Iterable[list[bytes | None]]) -> Plan:
    """Return the plan for the keys of several views, one list of equal length each; views share no keys."""
    union: list[bytes] = []
    shares = []
    for mine in keys:
        begin = len(union)
        distinct = dict.fromkeys(mine)
        if len(distinct) == len(mine) and None not in distinct:
            union += cast("list[bytes]", mine)
            shares.append(Share(begin, len(union), None))
            continue
        nulls = None in distinct
        distinct.pop(None, None)
        place = {key: i for i, key in enumerate(distinct)}
        union += cast("Iterable[bytes]", distinct)
        shares.append(Share(begin, len(union), [len(place) if k is None else place[k] for k in mine], nulls))
    return Plan(union, shares)


@dataclass(frozen=True, slots=True)
class _Part:
    """One view's share of the matrix: from which of its features to which columns."""

    reader: ViewReader
    features: tuple[int, ...]  # of each matrix column
    numbers: tuple[int, ...]  # places among the view's numbers
    columns: tuple[int, ...]
    whole: slice | None  # the columns as a slice, where all numbers are read in order


class OnlineReader:
    """Build the matrix of one model version from requests and the online store.

    Args:
        store: The online store.
        service: What the version reads.
    """

    def __init__(self, store: OnlineStore, service: FeatureService) -> None:
        self._store = store
        self._service = service
        starts = np.cumsum([0, *(c.width for c in service.columns)]).tolist()
        self._parts = tuple(_parts(service, starts))
        self._fields = [(starts[i], c.name, c.width) for i, c in enumerate(service.columns) if c.kind == "field"]
        self._request = RequestPart(service)
        self._required = {i.name: i.required for i in service.inputs}
        self._width = starts[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """The matrix's columns."""
        return self._service.names

    @property
    def fields(self) -> tuple[str, ...]:
        """The matrix's columns where each is one number of the request, with nothing computed or looked up; else none.

        Then a matrix of finite numbers in this order is what `read` would return.
        """
        names = tuple(name for _, name, width in self._fields if width == 1)
        return names if len(names) == self._width else ()

    def read(self, inputs: Mapping[str, Any], n: int, at: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix and what became of each value.

        Args:
            inputs: Input name -> n values (list or array); None is null.
            n: Number of rows.
            at: T in µs.

        Returns:
            (float64, uint8 `Status`), both of shape (n, columns); a vector takes a column for each part.

        Raises:
            BadRequest: an input is missing, of wrong length or wrong type.
        """
        plan = self.plan(inputs, n)
        return self.assemble(plan, self._store.get_many(plan.keys) if plan.keys else [], inputs, n, at)

    async def aread(self, inputs: Mapping[str, Any], n: int, at: int) -> tuple[np.ndarray, np.ndarray]:
        """Do as `read`, waiting for a remote store without holding up the loop."""
        plan = self.plan(inputs, n)
        values = await cast("AsyncStore", self._store).aget_many(plan.keys) if plan.keys else []
        return self.assemble(plan, values, inputs, n, at)

    def plan(self, inputs: Mapping[str, Any], n: int) -> Plan:
        """Return which keys a request needs; raises BadRequest as `read` does."""
        if n == 1:
            return _plan_one([part.reader.keys(inputs, 1)[0] for part in self._parts])
        return plan_keys([part.reader.keys(inputs, n) for part in self._parts])

    def assemble(
        self, plan: Plan, values: Sequence[bytes | None], inputs: Mapping[str, Any], n: int, at: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what `read` returns, given the values of `plan.keys`."""
        matrix = np.empty((n, self._width))
        statuses = np.zeros((n, self._width), np.uint8)
        for part, share in zip(self._parts, plan.shares, strict=True):
            if n == 1:
                self._place_one(part, matrix, statuses, None if share.begin == share.end else values[share.begin], at)
            else:
                self._place_many(part, matrix, statuses, share, values, at)
        for i, name, width in self._fields:
            given = inputs.get(name)
            if width > 1:
                self._vector(matrix[:, i : i + width], statuses[:, i : i + width], name, given, n)
                continue
            if n == 1 and type(given) is list and len(given) == 1 and type(given[0]) in _NUMBERS:
                matrix[0, i] = given[0]  # the usual lone request: numpy per field would cost as much as all the rest
                if given[0] != given[0]:
                    statuses[0, i] = _NULL
                continue
            self._field(matrix[:, i], statuses[:, i], name, given, n)
        if self._request:
            self._request.fill(matrix, statuses, inputs, n, at)
        return matrix, statuses

    def _place_one(self, part: _Part, matrix: np.ndarray, statuses: np.ndarray, value: bytes | None, at: int) -> None:
        numbers, status = part.reader.one(value, at)
        if part.whole is not None:
            matrix[0, part.whole] = numbers
            if status is not None:
                statuses[0, part.whole] = np.repeat(status, part.reader.sizes) if part.reader.wide else status
            return
        for number, feature, column in zip(part.numbers, part.features, part.columns, strict=True):
            matrix[0, column] = numbers[number]
            if status is not None:
                statuses[0, column] = status[feature]

    def _place_many(
        self,
        part: _Part,
        matrix: np.ndarray,
        statuses: np.ndarray,
        share: Share,
        values: Sequence[bytes | None],
        at: int,
    ) -> None:
        mine = values if len(values) == share.end - share.begin else values[share.begin : share.end]
        if share.nulls:
            mine = [*mine, None]
        numbers, status = part.reader.many(mine, at)
        if share.places is not None:
            numbers, status = numbers[share.places], status[share.places]
        if part.whole is not None:
            matrix[:, part.whole] = numbers
            statuses[:, part.whole] = status.repeat(part.reader.sizes, axis=1) if part.reader.wide else status
        elif part.columns:
            matrix[:, part.columns] = numbers[:, part.numbers]
            statuses[:, part.columns] = status[:, part.features]

    def _field(self, column: np.ndarray, status: np.ndarray, name: str, values: Any, n: int) -> None:
        if self._left_out(column, status, name, values, n):
            return
        column[:] = _floats(name, values)
        null = np.isnan(column)
        if null.any():
            status[null] = _NULL

    def _vector(self, columns: np.ndarray, status: np.ndarray, name: str, values: Any, n: int) -> None:
        if self._left_out(columns, status, name, values, n):
            return
        size = columns.shape[1]
        for row, value in enumerate(values):
            if value is None:
                columns[row], status[row] = np.nan, _NULL
                continue
            try:
                columns[row] = exact(f"vector<{size}>", value, f"{name} in row {row}")
            except InputError as error:
                raise BadRequest(str(error)) from error

    def _left_out(self, columns: np.ndarray, status: np.ndarray, name: str, values: Any, n: int) -> bool:
        """Whether an input that may be left out was; raises BadRequest when it may not, or has a wrong length."""
        if values is None:
            if self._required.get(name, True):
                raise BadRequest(f"the request misses {name!r}, a required input; send one value a row")
            columns[:], status[:] = np.nan, _MISSING
            return True
        if len(values) != n:
            raise BadRequest(f"{name} has {len(values)} values and the request {n} rows; send one value a row")
        return False


def _plan_one(keys: list[bytes | None]) -> Plan:
    if len(keys) == 1 and keys[0] is not None:
        return Plan(cast("list[bytes]", keys), _ALONE)
    union: list[bytes] = []
    shares = []
    for key in keys:
        begin = len(union)
        if key is not None:
            union.append(key)
        shares.append(Share(begin, len(union), None))
    return Plan(union, shares)


_ALONE = [Share(0, 1, None)]


def _floats(name: str, values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return values.astype(np.float64)
    for value in values:
        if value is not None and not isinstance(value, int | float | Decimal | np.number | np.bool_):
            raise BadRequest(f"{name} is {value!r} ({type(value).__name__}); it is declared as a number, send one")
    return np.array([_NAN if v is None else v for v in values], np.float64)


def _parts(service: FeatureService, starts: Sequence[int]) -> Iterable[_Part]:
    for view in service.views:
        reader = ViewReader(view)
        names = {f.name: i for i, f in enumerate(view.features)}
        features: list[int] = []
        numbers: list[int] = []
        columns: list[int] = []
        for column, start in zip(service.columns, starts, strict=False):
            if column.kind == "view" and column.view == view.name:
                feature = names[column.name]
                features += [feature] * column.width
                numbers += range(reader.starts[feature], reader.starts[feature] + column.width)
                columns += range(start, start + column.width)
        ordered = (
            bool(columns)
            and numbers == list(range(reader.width))
            and columns == list(range(columns[0], columns[0] + reader.width))
        )
        whole = slice(columns[0], columns[-1] + 1) if ordered else None
        yield _Part(reader, tuple(features), tuple(numbers), tuple(columns), whole)
