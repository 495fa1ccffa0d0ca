"""Definitions as plain data: what a view, a source and a model's inputs are, without user code.

The surprise: processes never import a user's module to serve. `definitions.py` compiles what the user wrote into these
values, they travel as JSON (msgspec) in manifests and in the control database, and their digests name namespaces.
All times and spans are int microseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Literal, TypeAlias

import msgspec

__all__ = [
    "About", "CheckSpec", "CodeRef", "ColumnSpec", "ColumnType", "EntitySpec", "FeatureAbout", "FeatureService",
    "FeatureSpec", "InputSpec", "Join", "Scalar", "ServiceColumn", "ServiceSpec", "SourceKind", "SourceSpec", "Stat",
    "Status", "TransformSpec", "ViewSpec", "columns_of", "digest_of",
]  # fmt: skip

Join = Literal["as_known", "as_corrected"]
"""What history may use: what had arrived by each request, or also what was corrected later."""
ColumnType: TypeAlias = str
"""A type by its name: int64, float32, float64, bool, string, bytes, timestamp, date, decimal(P,S), list<T>, vector<K>.

`features/types.py` reads and checks these names."""
Scalar: TypeAlias = float | int | str | bool | None
SourceKind = Literal["parquet", "csv", "table", "query", "frame", "push", "stream"]
"""Where rows come from: files; a table or a query that DuckDB can run; a frame kept at apply; pushes only; a stream."""


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
    VAR = "var"
    MIN = "min"
    MAX = "max"
    FIRST = "first"  # oldest by (event, created, sequence)
    LAST = "last"
    DISTINCT = "distinct"  # HyperLogLog
    QUANTILE = "quantile"  # KLL


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """A typed column."""

    name: str
    type: ColumnType


@dataclass(frozen=True, slots=True)
class CodeRef:
    """A Python callable by name, and what it was when it was declared.

    `name` is its qualified name in the project's definitions, `digest` covers its source and what it calls. Whoever
    imports the definitions, or a version's code snapshot, makes it known to `features/callables.py`.
    """

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class TransformSpec:
    """A function of `features/transforms.py` over named arguments, in order.

    The arguments are source columns (in `derive`), features of the same view (a computed feature), or inputs, features
    and T (at request time). `params` are (name, value) pairs in order of their names.
    """

    function: str
    args: tuple[str, ...]
    type: ColumnType
    params: tuple[tuple[str, Scalar | tuple[Scalar, ...]], ...] = ()
    code: CodeRef | None = None


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """A data check: what must hold of a column (None: of the whole), and what happens when it does not.

    `kind` is one of features/checks.py; "quarantine" keeps the offending rows out of every answer, batch and online.
    """

    kind: str
    column: str | None = None
    params: tuple[tuple[str, Scalar | tuple[Scalar, ...]], ...] = ()
    policy: Literal["stop", "quarantine", "warn"] = "stop"
    code: CodeRef | None = None


@dataclass(frozen=True, slots=True)
class EntitySpec:
    """A thing that features describe; key columns in declared order, typed."""

    name: str
    keys: tuple[ColumnSpec, ...]


@dataclass(frozen=True, slots=True)
class FeatureAbout:
    """What a feature is for people; changes no digest."""

    description: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """What a view or source is for people and for its upkeep; changes no digest, so rebuilds nothing.

    `freshness` is how old the newest row may be (µs) before it is reported. `refresh` is a duration ("15m") or a cron
    line; `flyball up` keeps to it. `readers` and `writers` are roles; empty means everyone with a key may. `checks`
    are those of the view's answers.
    """

    owner: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    freshness: int | None = None
    refresh: str | None = None
    readers: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    checks: tuple[CheckSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Where rows come from and how they are read.

    `derive` are (column, expression or transform) pairs applied in order, `where` drops rows that are not true.
    `path` is a file, folder or glob relative to the project's root, an address fsspec knows, a table's name ("table",
    with `database` the DuckDB file or attachable address), SQL ("query"), or a frame's content digest ("frame").
    `schema` declares raw column types: needed where no file tells them ("push", "stream"), else checked.
    `stream` are the (option, value) pairs of a stream's connector. `event_id` names the column that makes a push
    idempotent. Sources of any kind take pushes by name.
    """

    name: str
    path: str
    event_time: str
    created_time: str | None
    timezone: str
    derive: tuple[tuple[str, str | TransformSpec], ...]
    where: str | None
    delay: int
    kind: SourceKind = "parquet"
    database: str | None = None
    schema: tuple[ColumnSpec, ...] = ()
    event_id: str | None = None
    stream: tuple[tuple[str, str], ...] = ()
    checks: tuple[CheckSpec, ...] = ()
    strict: bool = False  # refuse times without an offset instead of taking `timezone`
    about: About = About()


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One feature of a view.

    A row view's feature is a source column (`stat` None, `of` its column). A window view's feature folds `of`
    (None for count) over `window` with cells of `hop`, of the rows for which `where` is true; `q` is the quantile in
    (0, 1). A computed feature (`transform`) is a function of other features of the view, evaluated at read, after them.
    """

    name: str
    type: ColumnType
    of: str | None
    stat: Stat | None = None
    window: int | None = None
    hop: int | None = None
    default: Scalar | tuple[Scalar, ...] = None  # plain data; `values.from_plain(type, default)` is the value
    where: str | None = None
    q: float | None = None
    transform: TransformSpec | None = None
    about: FeatureAbout = FeatureAbout()


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """A feature view: all stored features are window features, or none is."""

    name: str
    entity: EntitySpec
    source: SourceSpec
    ttl: int | None
    features: tuple[FeatureSpec, ...]
    about: About = About()

    @property
    def stored(self) -> tuple[FeatureSpec, ...]:
        """The features that the store holds; the others are computed from them at read."""
        return tuple(f for f in self.features if f.transform is None)

    @property
    def is_window(self) -> bool:
        """Whether this view stores cells instead of newest rows."""
        return any(f.stat is not None for f in self.features)

    @property
    def columns(self) -> list[str]:
        """The source columns the view reads, once each: its entity's keys, then what its features are made of."""
        return columns_of(self.entity, self.features)

    @property
    def digest(self) -> str:
        """The 16 hex digits that name this definition's namespace.

        Left out of it is what is only for people, and what the source derives for other views.
        """
        source = replace(self.source, about=About(), derive=_derived_for(self))
        features = tuple(replace(f, about=FeatureAbout()) for f in self.features)
        return digest_of(replace(self, source=source, features=features, about=About()))[:16]


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A feature service as the user named it, "view:feature" in order; what a model compiles is FeatureService."""

    name: str
    features: tuple[str, ...]
    about: About = About()


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One request input: an entity key or a Field."""

    name: str
    type: ColumnType
    required: bool = True


@dataclass(frozen=True, slots=True)
class ServiceColumn:
    """One column of the model's matrix, in order; a vector takes `width` of them.

    kind "view": feature `name` of view `view`; kind "field": input `name`; kind "request": `transform` of inputs,
    features ("view:feature") and T. Parts of a vector are shown as name_0, name_1, ...
    """

    name: str
    kind: Literal["view", "field", "request"]
    view: str | None = None
    transform: TransformSpec | None = None
    width: int = 1


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
        """Column names of the matrix, one for each part of a vector."""
        return tuple(n for c in self.columns for n in _column_names(c))

    def to_json(self) -> bytes:
        """Return canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def from_json(cls, data: bytes) -> FeatureService:
        """Read what `to_json` wrote."""
        return msgspec.json.decode(data, type=cls)


def _column_names(column: ServiceColumn) -> list[str]:
    return [column.name] if column.width == 1 else [f"{column.name}_{i}" for i in range(column.width)]


def columns_of(entity: EntitySpec, features: Iterable[FeatureSpec]) -> list[str]:
    """Return the source columns that these features of an entity are made of, keys first, once each."""
    from flyball.features import expressions

    names = [k.name for k in entity.keys]
    for feature in features:
        if feature.of is not None:
            names.append(feature.of)
        if feature.where is not None:
            names += sorted(expressions.columns(expressions.parse(feature.where)))
    return list(dict.fromkeys(names))


def _derived_for(view: ViewSpec) -> tuple[tuple[str, str | TransformSpec], ...]:
    """Return the derive steps that a view's rows rest on; all of them where a check sees the whole row."""
    from flyball.features import expressions

    def read(step: str | TransformSpec) -> frozenset[str]:
        return frozenset(step.args) if isinstance(step, TransformSpec) else expressions.columns(expressions.parse(step))

    source = view.source
    checks = [c for c in source.checks if c.policy == "quarantine"]
    if any(c.column is None or {"of", "columns"} & dict(c.params).keys() for c in checks):
        return source.derive
    wanted = {*view.columns, *(c.column for c in checks), source.event_time, source.created_time, source.event_id}
    wanted |= read(source.where) if source.where is not None else set()
    steps = []
    for name, step in reversed(source.derive):
        if name in wanted:
            steps.append((name, step))
            wanted = (wanted - {name}) | read(step)
    return tuple(reversed(steps))


def digest_of(spec: object) -> str:
    """Return the SHA-256 hex digest of a spec's canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(spec, order="deterministic")).hexdigest()
