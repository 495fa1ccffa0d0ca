"""Look up features of entities by name, for people and notebooks: Python values, numbers and statuses.

The surprise: it reads through the same `ViewReader` as the gateway, so what is shown here is what would be served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from flyball.errors import BadRequest, UnknownName
from flyball.features.online import AsyncStore, Plan, Value, ViewReader, plan_keys
from flyball.features.ports import OnlineStore
from flyball.features.spec import Status, ViewSpec
from flyball.features.types import vector_size
from flyball.features.values import float_of

__all__ = ["Lookup", "Vectors", "compiled", "lookup"]

_STATUS = tuple(Status)
_KEPT = 64  # compiled look-ups


@dataclass(frozen=True)
class Vectors:
    """Online features of some entities: values of declared types, numbers, and statuses.

    `columns` holds one list of values for each name, `codes` the statuses as uint8 of shape (rows, names).
    """

    names: tuple[str, ...]
    columns: tuple[list[Value], ...]
    codes: np.ndarray
    types: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def rows(self) -> tuple[tuple[Value, ...], ...]:
        """One tuple of values per entity."""
        return tuple(zip(*self.columns, strict=True)) if self.columns else ((),) * len(self)

    @cached_property
    def statuses(self) -> tuple[tuple[Status, ...], ...]:
        """One tuple of statuses per entity."""
        return tuple(tuple(map(_STATUS.__getitem__, row)) for row in self.codes.tolist())

    def to_dicts(self) -> list[dict[str, Value]]:
        """Return one dict per row, null as None."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]

    @property
    def matrix(self) -> np.ndarray:
        """The values as float64, one column for each name, or for each part of a vector; null and text are NaN."""
        sizes = [vector_size(kind) for kind in self.types]
        found = np.full((len(self), sum(sizes)), np.nan)
        start = 0
        for column, size in zip(self.columns, sizes, strict=True):
            for row, value in enumerate(column):
                if value is not None:
                    found[row, start : start + size] = value if size > 1 else float_of(_only(value))
            start += size
        return found

    def status(self) -> list[dict[str, Status]]:
        """Return one dict per row: what became of each value."""
        return [dict(zip(self.names, row, strict=True)) for row in self.statuses]


def _only(value: object) -> object:
    """Return the number of a vector of one part."""
    return float(value[0]) if isinstance(value, np.ndarray) else value


class Lookup:
    """Read chosen features of some views; made once, asked often.

    Args:
        views: Where features come from.
        names: "view" (all of it) or "view:feature"; None means all of `views`.

    Raises:
        UnknownName: no such view or feature.
    """

    def __init__(self, views: Sequence[ViewSpec], names: Sequence[str] | None) -> None:
        self._wanted = _selection(views, names)
        self._readers = {view.name: ViewReader(view) for view in views if any(v == view.name for v, _ in self._wanted)}
        features = {view.name: view.features for view in views}
        self._names = _unique([(v, features[v][f].name) for v, f in self._wanted])
        self._types = tuple(features[v][f].type for v, f in self._wanted)
        self._keys = list(dict.fromkeys(k.name for r in self._readers.values() for k in r.view.entity.keys))

    def read(self, store: OnlineStore, rows: Sequence[Mapping[str, object]], at: int) -> Vectors:
        """Return the features of entities at T, in one round trip.

        Args:
            store: The online store.
            rows: One mapping per entity, with the key columns of every view.
            at: T in µs.

        Raises:
            BadRequest: a key is missing or of wrong type.
        """
        plan = self._plan(rows)
        return self._assemble(plan, store.get_many(plan.keys) if plan.keys else [], len(rows), at)

    async def aread(self, store: OnlineStore, rows: Sequence[Mapping[str, object]], at: int) -> Vectors:
        """Do as `read`, waiting for a store that has `aget_many`."""
        plan = self._plan(rows)
        if not plan.keys:
            values: list[bytes | None] = []
        elif hasattr(store, "aget_many"):
            values = await cast("AsyncStore", store).aget_many(plan.keys)
        else:
            values = store.get_many(plan.keys)
        return self._assemble(plan, values, len(rows), at)

    def _plan(self, rows: Sequence[Mapping[str, object]]) -> Plan:
        inputs = {}
        for name in self._keys:
            try:
                inputs[name] = [row[name] for row in rows]
            except KeyError:
                at = next(i for i, row in enumerate(rows) if name not in row)
                raise BadRequest(
                    f"row {at} misses {name!r}, a key; it has {', '.join(map(str, rows[at])) or 'nothing'}"
                ) from None
        return plan_keys([reader.keys(inputs, len(rows)) if rows else [] for reader in self._readers.values()])

    def _assemble(self, plan: Plan, values: Sequence[bytes | None], n: int, at: int) -> Vectors:
        found: dict[str, tuple[list[list[Value]], np.ndarray]] = {}
        for (name, reader), share in zip(self._readers.items(), plan.shares, strict=True):
            mine: list[bytes | None] = list(values[share.begin : share.end])
            if share.places is not None:
                mine = [[*mine, None][place] for place in share.places] if mine else [None] * len(share.places)
            found[name] = reader.objects(mine, at)
        columns = tuple(found[v][0][f] for v, f in self._wanted)
        codes = np.empty((n, len(self._wanted)), np.uint8)
        for k, (view, feature) in enumerate(self._wanted):
            codes[:, k] = found[view][1][:, feature]
        return Vectors(self._names, columns, codes, self._types)


def lookup(
    store: OnlineStore,
    rows: Sequence[Mapping[str, object]],
    views: Sequence[ViewSpec],
    names: Sequence[str] | None,
    at: int,
) -> Vectors:
    """Return features of entities at T; `Lookup` with a memory of what was asked last."""
    return compiled(views, names).read(store, rows, at)


_compiled: dict[Any, tuple[Lookup, Sequence[ViewSpec]]] = {}


def compiled(views: Sequence[ViewSpec], names: Sequence[str] | None) -> Lookup:
    """Return the look-up for these very views; kept, because making one costs more than reading."""
    key = (tuple(map(id, views)), None if names is None else tuple(names))
    known = _compiled.get(key)
    if known is None:
        if len(_compiled) >= _KEPT:
            _compiled.clear()
        known = _compiled[key] = (Lookup(views, names), list(views))  # the views are held, so no id is used again
    return known[0]


def _unique(names: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    plain = [feature for _, feature in names]
    return tuple(f if plain.count(f) == 1 else f"{v}:{f}" for v, f in names)


def _selection(views: Sequence[ViewSpec], names: Sequence[str] | None) -> list[tuple[str, int]]:
    known = {view.name: view for view in views}
    wanted: list[tuple[str, int]] = []
    for name in names if names is not None else list(known):
        view_name, _, feature = name.partition(":")
        view = known.get(view_name)
        if view is None:
            raise UnknownName.of("feature view", view_name, known)
        features = [f.name for f in view.features]
        if feature and feature not in features:
            raise UnknownName.of(f"feature of {view_name}", feature, features)
        wanted += [(view_name, i) for i, f in enumerate(features) if not feature or f == feature]
    return wanted
