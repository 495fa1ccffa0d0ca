"""Compile a model's features into its feature service: the matrix's columns, the request's inputs, the views."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol, TypeAlias

from flyball.errors import DefinitionError, DuplicateName
from flyball.features import types
from flyball.features.definitions import FeatureView, Field, Transform, ViewSelection
from flyball.features.request import AT
from flyball.features.spec import ColumnType, FeatureService, InputSpec, ServiceColumn, ViewSpec
from flyball.features.transforms import check

__all__ = ["compile_service"]

Part: TypeAlias = FeatureView | ViewSelection | Field | Transform


class Zoned(Protocol):
    """Be what knows where days begin: a source, or a model's examples."""

    @property
    def timezone(self) -> str:
        """Name of the zone."""
        ...


def compile_service(model: str, at: str, features: Sequence[Part], source: Zoned) -> FeatureService:
    """Compile what a model reads.

    Args:
        model: The model's name, for messages.
        at: The examples' column that is T.
        features: Views or selections of them, fields and request-time features, in the order of the matrix's columns.
        source: The examples or their source; its timezone is the default of request-time features.

    Returns:
        The service. A request-time feature of the `at` column has the argument `request.AT`: it reads T.

    Raises:
        DuplicateName: two columns share a name, or one view is given twice.
        DefinitionError: one input name with two types, a text or time as a column, no features, or a request-time
            feature whose arguments are not there or do not fit.
    """
    if not features:
        raise DefinitionError(f"model {model!r} has no features; list views, fields or request-time features")
    columns: list[ServiceColumn] = []
    for feature in features:
        columns += _columns(model, at, feature, source)
    _check_names(model, columns)
    inputs = _inputs(model, at, features)
    views = tuple(_views(model, features))
    _check_arguments(model, columns, inputs, views)
    return FeatureService(model=model, at=at, columns=tuple(columns), inputs=inputs, views=views)


def _columns(model: str, at: str, feature: Part, source: Zoned) -> list[ServiceColumn]:
    match feature:
        case FeatureView() | ViewSelection():
            kinds = {f.name: f.type for f in feature.spec.features}
            return [
                ServiceColumn(
                    name, "view", view=feature.name,
                    width=_width(model, f"feature {name!r} of view {feature.name!r}", kinds[name]),
                )
                for name in feature.names
            ]  # fmt: skip
        case Field():
            width = _width(model, f"field {feature.name!r}", feature.type)
            return [ServiceColumn(feature.name, "field", width=width)]
        case Transform():
            bound = feature.bound(source.timezone)
            transform = replace(bound, args=tuple(AT if a == at else a for a in bound.args))
            width = _width(model, f"request-time feature {feature.name!r}", transform.type)
            return [ServiceColumn(feature.name, "request", transform=transform, width=width)]
        case _:
            raise DefinitionError(
                f"model {model!r} lists {feature!r:.60} as a feature; use a FeatureView, a Field or a request-time "
                "feature such as hour_of_day"
            )


def _width(model: str, what: str, kind: ColumnType) -> int:
    """Return how many columns of the matrix a type takes."""
    if types.is_number(kind) or types.is_vector(kind):
        return types.vector_size(kind)
    hint = {
        "string": "make it a number, such as fb.cross([...], buckets=1000), or an embedding",
        "timestamp": "derive a number, such as fb.hour_of_day or a difference in hours",
        "date": "derive a number, such as fb.day_of_week",
    }.get(kind, "derive a number or a vector from it")
    raise DefinitionError(f"model {model!r}: {what} is a {kind}; the matrix holds numbers and vectors, so {hint}")


def _check_names(model: str, columns: Iterable[ServiceColumn]) -> None:
    seen: dict[str, str] = {}
    for column in columns:
        where = f"view {column.view!r}" if column.kind == "view" else f"a {column.kind} feature"
        parts = [column.name] if column.width == 1 else [f"{column.name}_{i}" for i in range(column.width)]
        for name in dict.fromkeys([column.name, *parts]):
            if name in seen:
                raise DuplicateName(
                    f"model {model!r} names feature {name!r} twice: in {seen[name]} and {where}; rename one"
                )
            seen[name] = where


def _views(model: str, features: Iterable[object]) -> Iterable[ViewSpec]:
    seen: dict[str, ViewSpec] = {}
    for feature in features:
        if isinstance(feature, FeatureView | ViewSelection):
            if feature.name in seen:
                raise DuplicateName(f"model {model!r} lists feature view {feature.name!r} twice; keep one")
            seen[feature.name] = feature.spec
    return seen.values()


def _inputs(model: str, at: str, features: Iterable[object]) -> tuple[InputSpec, ...]:
    """Collect entity keys, fields and arguments; one name is one input, required if any of them requires it."""
    found: dict[str, InputSpec] = {}
    arguments: list[tuple[str, ColumnType | None]] = []
    for feature in features:
        match feature:
            case FeatureView() | ViewSelection():
                for key in feature.spec.entity.keys:
                    _add(model, found, InputSpec(key.name, key.type))
            case Field():
                _add(model, found, InputSpec(feature.name, feature.type, feature.required))
            case Transform():
                arguments += [(n, kind) for n, kind in feature.arguments.items() if n != at and ":" not in n]
    for name, kind in arguments:
        known = found.get(name)
        if known is not None and (kind is None or (kind == "float64" and types.is_number(known.type))):
            continue
        if kind is None:
            raise DefinitionError(
                f"model {model!r}: argument {name!r} is neither a key nor a field, so its type is not known; write "
                f'of={{"{name}": str}} with its type, or add fb.Field("{name}", ...)'
            )
        _add(model, found, InputSpec(name, kind))
    return tuple(found.values())


def _check_arguments(
    model: str, columns: Iterable[ServiceColumn], inputs: Iterable[InputSpec], views: Iterable[ViewSpec]
) -> None:
    columns = list(columns)
    given = {AT: "timestamp"} | {i.name: i.type for i in inputs}
    kinds = {(view.name, f.name): f.type for view in views for f in view.features}
    for column in columns:
        if column.kind == "view" and column.width == 1:
            kind = kinds[column.view or "", column.name]
            given[f"{column.view}:{column.name}"] = kind if types.is_number(kind) else "float64"
    for column in columns:
        if column.transform is None:
            continue
        for name in column.transform.args:
            if ":" in name and name not in given:
                raise DefinitionError(
                    f"model {model!r}: {column.name!r} reads {name!r}, which is no column of the model; list that "
                    "view (or view.select(...)) among its features, or compute it within the view"
                )
        try:
            check(column.transform, given)
        except DefinitionError as error:
            raise DefinitionError(f"model {model!r}: request-time feature {column.name!r}: {error}") from error


def _add(model: str, found: dict[str, InputSpec], new: InputSpec) -> None:
    known = found.setdefault(new.name, new)
    if known.type != new.type:
        raise DefinitionError(
            f"model {model!r} reads input {new.name!r} as {known.type} and as {new.type}; give both one type"
        )
    if new.required and not known.required:
        found[new.name] = new
