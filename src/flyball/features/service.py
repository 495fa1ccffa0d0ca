"""Compile a model's features into its feature service: the matrix's columns, the request's inputs, the views."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flyball.errors import DefinitionError, DuplicateName
from flyball.features.definitions import FeatureView, Field, RequestFeature
from flyball.features.spec import ColumnType, FeatureService, InputSpec, ServiceColumn, SourceSpec, ViewSpec

__all__ = ["compile_service"]


def compile_service(
    model: str, at: str, features: Sequence[FeatureView | Field | RequestFeature], source: SourceSpec
) -> FeatureService:
    """Compile what a model reads.

    Args:
        model: The model's name, for messages.
        at: The examples' column that is T.
        features: Views, fields and request-time features in the order of the matrix's columns.
        source: The examples' source; its timezone is the default of request-time features.

    Returns:
        The service. A request-time feature of the `at` column has no args: it reads T.

    Raises:
        DuplicateName: two columns share a name, or one view is given twice.
        DefinitionError: one input name with two types, a text or time as a column, no features.
    """
    if not features:
        raise DefinitionError(f"model {model!r} has no features; list views, fields or request-time features")
    columns: list[ServiceColumn] = []
    for feature in features:
        columns += _columns(model, at, feature, source)
    _check_names(model, columns)
    return FeatureService(
        model=model,
        at=at,
        columns=tuple(columns),
        inputs=_inputs(model, at, features),
        views=tuple(_views(model, features)),
    )


def _columns(
    model: str, at: str, feature: FeatureView | Field | RequestFeature, source: SourceSpec
) -> list[ServiceColumn]:
    match feature:
        case FeatureView():
            for f in feature.spec.features:
                _must_be_number(model, f"feature {f.name!r} of view {feature.name!r}", f.type)
            return [ServiceColumn(f.name, "view", view=feature.name) for f in feature.spec.features]
        case Field():
            _must_be_number(model, f"field {feature.name!r}", feature.type)
            return [ServiceColumn(feature.name, "field")]
        case RequestFeature():
            args = tuple(a for a in feature.args if a != at)
            zone = feature.timezone or source.timezone
            return [ServiceColumn(feature.name, "request", function=feature.function, args=args, timezone=zone)]
        case _:
            raise DefinitionError(
                f"model {model!r} lists {feature!r:.60} as a feature; use a FeatureView, a Field or a request-time "
                "feature such as hour_of_day"
            )


def _must_be_number(model: str, what: str, kind: ColumnType) -> None:
    if kind in {"string", "timestamp"}:
        raise DefinitionError(
            f"model {model!r}: {what} is a {kind}; the matrix holds numbers and booleans, so derive a number from it"
        )


def _check_names(model: str, columns: Iterable[ServiceColumn]) -> None:
    seen: dict[str, str] = {}
    for column in columns:
        where = f"view {column.view!r}" if column.kind == "view" else f"a {column.kind} feature"
        if column.name in seen:
            raise DuplicateName(
                f"model {model!r} names feature {column.name!r} twice: in {seen[column.name]} and {where}; rename one"
            )
        seen[column.name] = where


def _views(model: str, features: Iterable[object]) -> Iterable[ViewSpec]:
    seen: dict[str, ViewSpec] = {}
    for feature in features:
        if isinstance(feature, FeatureView):
            if feature.name in seen:
                raise DuplicateName(f"model {model!r} lists feature view {feature.name!r} twice; keep one")
            seen[feature.name] = feature.spec
    return seen.values()


def _inputs(model: str, at: str, features: Iterable[object]) -> tuple[InputSpec, ...]:
    """Collect entity keys, fields and arguments; one name is one input, required if any of them requires it."""
    found: dict[str, InputSpec] = {}
    arguments: list[InputSpec] = []
    for feature in features:
        match feature:
            case FeatureView():
                for key in feature.spec.entity.keys:
                    _add(model, found, InputSpec(key.name, key.type))
            case Field():
                _add(model, found, InputSpec(feature.name, feature.type, feature.required))
            case RequestFeature():
                kind: ColumnType = "float64" if feature.function == "ratio" else "timestamp"
                if feature.function == "ratio" and at in feature.args:
                    raise DefinitionError(f"model {model!r}: ratio {feature.name!r} divides the time column {at!r}")
                arguments += [InputSpec(a, kind) for a in feature.args if a != at]
    for argument in arguments:
        known = found.get(argument.name)
        if known is not None and argument.type == "float64" and known.type in {"int64", "float64", "bool"}:
            continue
        _add(model, found, argument)
    return tuple(found.values())


def _add(model: str, found: dict[str, InputSpec], new: InputSpec) -> None:
    known = found.setdefault(new.name, new)
    if known.type != new.type:
        raise DefinitionError(
            f"model {model!r} reads input {new.name!r} as {known.type} and as {new.type}; give both one type"
        )
    if new.required and not known.required:
        found[new.name] = new
