"""Definitions as plain data: what a view, a source and a model's inputs are, without user code.

The surprise: processes never import a user's module to serve. `definitions.py` compiles what the user wrote into these
values, they travel as JSON (msgspec) in manifests and in the control database, and their digests name namespaces.
All times and spans are int microseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Literal

import msgspec

__all__ = [
    "ColumnSpec", "ColumnType", "EntitySpec", "FeatureService", "FeatureSpec", "InputSpec", "Join", "ServiceColumn",
    "SourceSpec", "Stat", "Status", "ViewSpec", "columns_of", "digest_of",
]  # fmt: skip

Join = Literal["as_known", "as_corrected"]
"""What history may use: what had arrived by each request, or also what was corrected later."""
ColumnType = Literal["int64", "float64", "bool", "string", "timestamp"]


class Status(IntEnum):
    """What became of one value."""

    PRESENT = 0
    NULL = 1
    EXPIRED = 2
    MISSING = 3


class Stat(StrEnum):
    """How a window view's feature folds its rows."""

    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    STD = "std"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """A typed column."""

    name: str
    type: ColumnType


@dataclass(frozen=True, slots=True)
class EntitySpec:
    """A thing that features describe; key columns in declared order (int64 or string)."""

    name: str
    keys: tuple[ColumnSpec, ...]


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Where rows come from and how they are read.

    `derive` are (column, expression) pairs applied in order, `where` drops rows that are not true.
    `path` may hold globs and is relative to the project's root.
    """

    name: str
    path: str
    event_time: str
    created_time: str | None
    timezone: str
    derive: tuple[tuple[str, str], ...]
    where: str | None
    delay: int


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One feature of a view.

    A row view's feature is a source column (`stat` None, `of` its column). A window view's feature folds `of`
    (None for count) over `window` with cells of `hop`.
    """

    name: str
    type: ColumnType
    of: str | None
    stat: Stat | None = None
    window: int | None = None
    hop: int | None = None
    default: float | int | str | bool | None = None


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """A feature view: all features are window features, or none is."""

    name: str
    entity: EntitySpec
    source: SourceSpec
    ttl: int | None
    features: tuple[FeatureSpec, ...]

    @property
    def is_window(self) -> bool:
        """Whether this view stores cells instead of newest rows."""
        return self.features[0].stat is not None

    @property
    def columns(self) -> list[str]:
        """The source columns the view reads, once each: its entity's keys, then what its features are made of."""
        return columns_of(self.entity, self.features)

    @property
    def digest(self) -> str:
        """The 16 hex digits that name this definition's namespace."""
        return digest_of(self)[:16]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One request input: an entity key or a Field."""

    name: str
    type: ColumnType
    required: bool = True


@dataclass(frozen=True, slots=True)
class ServiceColumn:
    """One column of the model's matrix, in order.

    kind "view": feature `name` of view `view`; kind "field": input `name`; kind "request": request-time expression
    `function` ("hour_of_day", "day_of_week", "ratio") over `args` (input names; the examples' `at` column means T),
    local to `timezone`.
    """

    name: str
    kind: Literal["view", "field", "request"]
    view: str | None = None
    function: str | None = None
    args: tuple[str, ...] = ()
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class FeatureService:
    """Everything one model version reads, in matrix order; JSON in the version's manifest."""

    model: str
    at: str  # the examples' column that is T; in serving T is the admission time
    columns: tuple[ServiceColumn, ...]
    inputs: tuple[InputSpec, ...]
    views: tuple[ViewSpec, ...] = field(default=())

    @property
    def names(self) -> tuple[str, ...]:
        """Column names of the matrix."""
        return tuple(c.name for c in self.columns)

    def to_json(self) -> bytes:
        """Return canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def from_json(cls, data: bytes) -> FeatureService:
        """Read what `to_json` wrote."""
        return msgspec.json.decode(data, type=cls)


def columns_of(entity: EntitySpec, features: Iterable[FeatureSpec]) -> list[str]:
    """Return the source columns that these features of an entity are made of, keys first, once each."""
    return list(dict.fromkeys([*(k.name for k in entity.keys), *(f.of for f in features if f.of is not None)]))


def digest_of(spec: object) -> str:
    """Return the SHA-256 hex digest of a spec's canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(spec, order="deterministic")).hexdigest()
