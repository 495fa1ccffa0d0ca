"""Look up features of entities by name, for people and notebooks: Python values, numbers and statuses.

The surprise: it reads through the same `ViewReader` as the gateway, so what is shown here is what would be served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flyball.errors import UnknownName
from flyball.features.online import Value, ViewReader, as_float
from flyball.features.ports import OnlineStore
from flyball.features.spec import Status, ViewSpec

__all__ = ["Vectors", "lookup"]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Online features of some entities: values of declared types, numbers, and statuses."""

    names: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    statuses: tuple[tuple[Status, ...], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def to_dicts(self) -> list[dict[str, Value]]:
        """Return one dict per row, null as None."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]

    @property
    def matrix(self) -> np.ndarray:
        """The values as float64, shape (rows, names); null and text are NaN."""
        return np.array([[as_float(v) for v in row] for row in self.rows], np.float64).reshape(-1, len(self.names))

    def status(self) -> list[dict[str, Status]]:
        """Return one dict per row: what became of each value."""
        return [dict(zip(self.names, row, strict=True)) for row in self.statuses]


def lookup(
    store: OnlineStore,
    rows: Sequence[Mapping[str, object]],
    views: Sequence[ViewSpec],
    names: Sequence[str] | None,
    at: int,
) -> Vectors:
    """Return features of entities at T.

    Args:
        store: The online store.
        rows: One mapping per entity, with the key columns of every view.
        views: Where features come from.
        names: "view" (all of it) or "view:feature"; None means all of `views`.
        at: T in µs.

    Raises:
        UnknownName: no such view or feature.
        BadRequest: a key is missing or of wrong type.
    """
    wanted = _selection(views, names)
    inputs = {name: [row[name] for row in rows] for name in _shared(rows)}
    readers = {view.name: ViewReader(view) for view in views if any(v == view.name for v, _ in wanted)}
    keys = {name: reader.keys(inputs, len(rows)) if rows else [] for name, reader in readers.items()}
    union = list(dict.fromkeys(k for mine in keys.values() for k in mine if k is not None))
    held = dict(zip(union, store.get_many(union), strict=True))
    found = {n: [r.objects(None if k is None else held[k], at) for k in keys[n]] for n, r in readers.items()}
    values = [tuple(found[v][i][0][f] for v, f in wanted) for i in range(len(rows))]
    statuses = [tuple(Status(found[v][i][1][f]) for v, f in wanted) for i in range(len(rows))]
    features = {view.name: view.features for view in views}
    return Vectors(_unique([(v, features[v][f].name) for v, f in wanted]), tuple(values), tuple(statuses))


def _shared(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return [name for name in (rows[0] if rows else ()) if all(name in row for row in rows)]


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
