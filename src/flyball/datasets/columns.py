"""What the columns of a model's matrix are, by digest, and whether a model can learn from its prediction log.

Two versions may give one name to different features. The surprise: a column of a view is known by the part of the view
that it is made of, not by the view's digest, so a feature that is added to a view leaves the others' served values
good to learn from.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from flyball.errors import DefinitionError, ExpressionError, UnknownName
from flyball.features.spec import FeatureService, ServiceColumn, ViewSpec, digest_of

if TYPE_CHECKING:
    from flyball.datasets.definitions import Examples, Label

__all__ = ["OWN", "check_log", "column_digests", "hidden_columns"]

OWN = {
    "id": "string", "at": "timestamp", "event": "timestamp", "outcome": "float64", "prediction": "float64",
    "unit": "string", "arm": "string", "version": "string",
}  # fmt: skip
"""What an expression over the log may read besides inputs and features, which hide columns of the same name."""


def column_digests(service: FeatureService) -> tuple[str, ...]:
    """Return one digest for each column of a service's matrix, in order: equal ones hold the same feature."""
    found: list[str] = []
    for column in service.columns:
        digest = _digest(service, column)
        found += [digest] if column.width == 1 else [f"{digest}/{part}" for part in range(column.width)]
    return tuple(found)


def hidden_columns(service: FeatureService, protected: Collection[str]) -> frozenset[int]:
    """Return the positions of the matrix that the log does not keep, because they are personal fields."""
    found: set[int] = set()
    place = 0
    for column in service.columns:
        if column.kind == "field" and column.name in protected:
            found |= set(range(place, place + column.width))
        place += column.width
    return frozenset(found)


def check_log(model: str, examples: Examples, label: Label, service: FeatureService, personal: Collection[str]) -> None:
    """Refuse examples from the log which cannot be made of what the log keeps.

    Args:
        model: The model's name, for messages.
        examples: Its examples.
        label: Its label.
        service: What it reads.
        personal: What its log keeps masked, hashed or encrypted.

    Raises:
        DefinitionError: an expression reads what is not there or of the wrong type, a feature is a personal field, or
            the label is no number.
    """
    if examples.log is None:
        return
    lost = [c.name for c in service.columns if c.kind == "field" and c.name in personal]
    if lost:
        raise DefinitionError(
            f"model {model!r} learns from its prediction log, which does not keep the personal field {lost[0]!r}; "
            f"leave it out of the features, keep it plain in fb.Serving(personal=...), or take examples from a source"
        )
    types: dict[str, str] = OWN | dict.fromkeys(service.names, "float64") | {i.name: i.type for i in service.inputs}
    for name, text in examples.log.derive:
        types[name] = _type(model, f"derive of {name!r}", text, types, personal)
    if examples.log.where is not None and _type(model, "where", examples.log.where, types, personal) != "bool":
        raise DefinitionError(
            f"model {model!r}: from_log(where={examples.log.where!r}) is no condition; compare with <"
        )
    made = dict(examples.log.derive)
    if label.column in made and types[label.column] not in {"float64", "int64", "bool"}:
        raise DefinitionError(
            f"model {model!r}: its label {label.column!r} is a {types[label.column]}; make it a number"
        )


def _type(model: str, what: str, text: str, types: dict[str, str], personal: Collection[str]) -> str:
    from flyball.features import expressions

    try:
        expr = expressions.parse(text)
        kind = expressions.type_of(expr, types)
    except (ExpressionError, UnknownName) as error:
        raise DefinitionError(f"model {model!r}: from_log: {what}: {error}") from error
    hidden = sorted(expressions.columns(expr) & set(personal))
    if hidden:
        raise DefinitionError(
            f"model {model!r}: from_log: {what} reads {hidden[0]!r}, which its log does not keep plain (personal)"
        )
    return kind


def _digest(service: FeatureService, column: ServiceColumn) -> str:
    if column.kind == "view":
        return _view_digest(service, column.view or "", column.name)
    if column.transform is not None:
        return digest_of((column.transform, [_argument(service, name) for name in column.transform.args]))
    return _argument(service, column.name)


def _argument(service: FeatureService, name: str) -> str:
    view, colon, feature = name.partition(":")
    if colon:
        return _view_digest(service, view, feature)
    return digest_of(("input", name, next((i.type for i in service.inputs if i.name == name), "")))


def _view_digest(service: FeatureService, name: str, feature: str) -> str:
    """Return the digest of a view that has this feature alone, and what it is computed from."""
    view = next(v for v in service.views if v.name == name)
    kept = _closure(view, feature)
    return digest_of(
        ("view", feature, replace(view, features=tuple(f for f in view.features if f.name in kept)).digest)
    )


def _closure(view: ViewSpec, feature: str) -> set[str]:
    known = {f.name: f for f in view.features}
    found, open_ = set(), [feature]
    while open_:
        name = open_.pop()
        if name in known and name not in found:
            found.add(name)
            transform = known[name].transform
            open_ += transform.args if transform is not None else ()
    return found
