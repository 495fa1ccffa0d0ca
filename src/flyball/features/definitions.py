"""What a user writes about data: entities, sources, feature views, fields and request-time features.

Each object checks what can be checked without data and has a `spec`, the plain value that everything else works with.
The surprise: `count`, `sum`, `min` and `max` here build features; inside this module the builtins are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from flyball import units
from flyball.errors import DefinitionError, DuplicateName, ExpressionError, UnitError, UnknownName
from flyball.features.kernel.windows import hop_for
from flyball.features.spec import ColumnSpec, ColumnType, EntitySpec, FeatureSpec, SourceSpec, Stat, ViewSpec

__all__ = [
    "Entity", "Feature", "FeatureView", "Field", "ParquetSource", "RequestFeature", "count", "day_of_week",
    "hour_of_day", "max", "mean", "min", "ratio", "std", "sum",
]  # fmt: skip

_TYPES: dict[Any, ColumnType] = {
    int: "int64", float: "float64", bool: "bool", str: "string", datetime: "timestamp",
    "int64": "int64", "float64": "float64", "bool": "bool", "string": "string", "timestamp": "timestamp",
}  # fmt: skip
Default = float | int | str | bool | None


class Entity:
    """Declare a thing that features describe.

    Args:
        name: The entity's name.
        keys: Key column -> int or str, in order; 1 and "1" are different keys.
    """

    def __init__(self, name: str, *, keys: Mapping[str, type | str]) -> None:
        self.name = _name("entity", name)
        if not keys:
            raise DefinitionError(f'entity {name!r} has no keys; write keys={{"{name}_id": int}}')
        columns = []
        for key, dtype in keys.items():
            kind = _type(f"key {key!r} of entity {name!r}", dtype)
            if kind not in {"int64", "string"}:
                raise DefinitionError(f"key {key!r} of entity {name!r} is {kind}; a key must be int or str")
            columns.append(ColumnSpec(_name("key", key), kind))
        self.spec = EntitySpec(name, tuple(columns))

    def __repr__(self) -> str:
        return f"Entity({self.name!r}, {', '.join(k.name for k in self.spec.keys)})"


class ParquetSource:
    """Declare where rows come from: Parquet files, and what is pushed to the source by its name.

    Args:
        name: The source's name, part of URLs.
        path: File or glob, relative to the project's root.
        event_time: Column that says when a row happened.
        created_time: Column that says when the source learned of it, if there is one.
        timezone: What times without an offset are local to. A missing local hour moves forward, a doubled one takes
            the first.
        derive: New column -> expression over raw and earlier derived columns.
        where: Condition; rows for which it is not true are dropped and counted.
        delay: How long after the event a row of the files was known, where there is no `created_time`.
    """

    def __init__(
        self,
        name: str,
        path: str,
        *,
        event_time: str,
        created_time: str | None = None,
        timezone: str = "UTC",
        derive: Mapping[str, str] | None = None,
        where: str | None = None,
        delay: str | timedelta = "0s",
    ) -> None:
        self.name = _name("source", name)
        if not path:
            raise DefinitionError(f"source {name!r} has no path; name its files, such as data/{name}/*.parquet")
        _check_zone(timezone)
        for column, text in (derive or {}).items():
            _check_expression(f"derive {column!r} of source {name!r}", text)
            _name("derived column", column)
        if where is not None:
            _check_expression(f"where of source {name!r}", where)
        self.spec = SourceSpec(
            name=name,
            path=str(path),
            event_time=event_time,
            created_time=created_time,
            timezone=timezone,
            derive=tuple((derive or {}).items()),
            where=where,
            delay=units.micros(units.duration(delay)),
        )

    def __repr__(self) -> str:
        return f"ParquetSource({self.name!r}, {self.spec.path!r})"


class Feature:
    """Declare a row view's feature: the newest value of a column.

    Args:
        name: The feature's name.
        dtype: int, float, bool or str.
        of: The source's column, raw or derived; the same name by default.
        default: Value where there is none (null, expired or missing); the status says so all the same.
    """

    def __init__(self, name: str, dtype: type | str, of: str | None = None, default: Default = None) -> None:
        self.name = _name("feature", name)
        kind = _type(f"feature {name!r}", dtype)
        _check_default(name, kind, default)
        self.spec = FeatureSpec(name=name, type=kind, of=of or name, default=default)

    def __repr__(self) -> str:
        return f"Feature({self.name!r}, {self.spec.type})"


class WindowFeature:
    """A window view's feature; made by `count`, `sum`, `mean`, `std`, `min` and `max`."""

    def __init__(self, name: str, stat: Stat, of: str | None, window: str | timedelta, default: Default) -> None:
        self.name = _name("feature", name)
        try:
            span = units.micros(units.duration(window))
            hop = hop_for(span)
        except (DefinitionError, UnitError) as error:
            raise DefinitionError(f"feature {name!r}: {error}") from error
        kind: ColumnType = "int64" if stat is Stat.COUNT else "float64"
        _check_default(name, kind, default)
        self.spec = FeatureSpec(name=name, type=kind, of=of, stat=stat, window=span, hop=hop, default=default)

    def __repr__(self) -> str:
        return f"{self.spec.stat}({self.name!r})"


def count(name: str, *, of: str | None = None, window: str | timedelta, default: Default = None) -> WindowFeature:
    """Declare how many rows (or values of `of` that are not null) the window holds; 0 when empty."""
    return WindowFeature(name, Stat.COUNT, of, window, default)


def sum(name: str, *, of: str, window: str | timedelta, default: Default = None) -> WindowFeature:  # noqa: A001 the field's standard word
    """Declare the sum over the window; 0 when empty. Whole numbers are exact up to 2**53."""
    return WindowFeature(name, Stat.SUM, of, window, default)


def mean(name: str, *, of: str, window: str | timedelta, default: Default = None) -> WindowFeature:
    """Declare the mean over the window; null when empty."""
    return WindowFeature(name, Stat.MEAN, of, window, default)


def std(name: str, *, of: str, window: str | timedelta, default: Default = None) -> WindowFeature:
    """Declare the sample standard deviation over the window; null under two values."""
    return WindowFeature(name, Stat.STD, of, window, default)


def min(name: str, *, of: str, window: str | timedelta, default: Default = None) -> WindowFeature:  # noqa: A001 the field's standard word
    """Declare the least value in the window; null when empty."""
    return WindowFeature(name, Stat.MIN, of, window, default)


def max(name: str, *, of: str, window: str | timedelta, default: Default = None) -> WindowFeature:  # noqa: A001 the field's standard word
    """Declare the greatest value in the window; null when empty."""
    return WindowFeature(name, Stat.MAX, of, window, default)


class FeatureView:
    """Declare a group of features from one source for one entity.

    Args:
        name: The view's name.
        entity: What the features describe.
        source: Where the rows come from.
        features: All `Feature` (a row view: newest value per entity) or all window features (a window view).
        ttl: How old the newest row may be at T; None for no limit. A window view's answers do not depend on it.
    """

    def __init__(
        self,
        name: str,
        *,
        entity: Entity,
        source: ParquetSource,
        features: Sequence[Feature | WindowFeature],
        ttl: str | timedelta | None = None,
    ) -> None:
        self.name = _name("feature view", name)
        self.entity = entity
        self.source = source
        if not features:
            raise DefinitionError(f"feature view {name!r} has no features; list at least one")
        if len({isinstance(f, WindowFeature) for f in features}) > 1:
            raise DefinitionError(
                f"feature view {name!r} mixes newest values and windows; make two views of the same source"
            )
        seen: set[str] = set()
        for feature in features:
            if feature.name in seen:
                raise DuplicateName(f"feature view {name!r} names {feature.name!r} twice; rename one of them")
            if feature.name in {k.name for k in entity.spec.keys}:
                raise DuplicateName(f"feature {feature.name!r} of view {name!r} is named like a key of its entity")
            seen.add(feature.name)
        span = None if ttl is None else units.micros(units.duration(ttl))
        self.spec = ViewSpec(name, entity.spec, source.spec, span, tuple(f.spec for f in features))

    def __repr__(self) -> str:
        return f"FeatureView({self.name!r}, {len(self.spec.features)} features)"


class Field:
    """Declare an input of the request: in training the example's column of that name, in serving the request's value.

    Args:
        name: The input's name.
        dtype: int, float, bool, str or datetime; a model's matrix takes numbers and booleans.
        required: Whether a request without it is refused; otherwise it is null.
    """

    def __init__(self, name: str, dtype: type | str, required: bool = True) -> None:
        self.name = _name("field", name)
        self.type: ColumnType = _type(f"field {name!r}", dtype)
        self.required = required

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.type})"


class RequestFeature:
    """A feature computed from the request; made by `hour_of_day`, `day_of_week` and `ratio`."""

    def __init__(self, name: str, function: str, args: tuple[str, ...], timezone: str | None = None) -> None:
        self.name = _name("feature", name)
        self.function = function
        self.args = args
        if timezone is not None:
            _check_zone(timezone)
        self.timezone = timezone

    def __repr__(self) -> str:
        return f"{self.function}({', '.join(self.args)})"


def hour_of_day(column: str, *, name: str | None = None, timezone: str | None = None) -> RequestFeature:
    """Declare the local hour, 0 to 23, of a time column; the examples' `at` column means T.

    Args:
        column: The examples' `at` column, or a request input of type datetime.
        name: The feature's name, "hour_of_day" by default.
        timezone: Local to what; the examples' source decides by default.
    """
    return RequestFeature(name or "hour_of_day", "hour_of_day", (column,), timezone)


def day_of_week(column: str, *, name: str | None = None, timezone: str | None = None) -> RequestFeature:
    """Declare the local day of the week, Monday 0 to Sunday 6, of a time column; as `hour_of_day`."""
    return RequestFeature(name or "day_of_week", "day_of_week", (column,), timezone)


def ratio(a: str, b: str, *, name: str) -> RequestFeature:
    """Declare a / b of two numeric inputs; null where b is zero."""
    return RequestFeature(name, "ratio", (a, b))


def _name(kind: str, name: str) -> str:
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("__"):
        raise DefinitionError(f"{kind} name {name!r} is not usable; use letters, digits and underscores")
    return name


def _type(what: str, dtype: Any) -> ColumnType:
    if isinstance(dtype, type | str) and dtype in _TYPES:
        return _TYPES[dtype]
    shown = dtype.__name__ if isinstance(dtype, type) else repr(dtype)
    raise DefinitionError(f"{what} has type {shown}; use int, float, bool, str or datetime")


def _check_default(name: str, kind: ColumnType, default: Default) -> None:
    fits: dict[str, tuple[type, ...]] = {"int64": (int,), "float64": (int, float), "bool": (bool,), "string": (str,)}
    if kind not in fits:
        raise DefinitionError(f"feature {name!r} is a {kind}; a feature must be int, float, bool or str")
    if default is None or (isinstance(default, fits[kind]) and isinstance(default, bool) == (kind == "bool")):
        return
    raise DefinitionError(f"feature {name!r} is {kind}, but its default is {default!r}; give a {kind} or None")


def _check_zone(timezone: str) -> None:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise DefinitionError(f"{timezone!r} is no time zone; use a name such as UTC or America/New_York") from error


def _check_expression(what: str, text: str) -> None:
    from flyball.features.expressions import parse

    try:
        parse(text)
    except (ExpressionError, UnknownName) as error:
        raise ExpressionError(f"{what}: {error}") from error
