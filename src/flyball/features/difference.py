"""What is different between two definitions of a feature view, field by field, and what that breaks for its readers.

The surprise: a feature that went while one with the same meaning came is *renamed*, which breaks a reader just as well
as a removal, but tells people what to look for. What is only for people differs too, and breaks and rebuilds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any

import msgspec

from flyball.features.spec import FeatureSpec, SourceSpec, TransformSpec, ViewSpec
from flyball.units import spoken

__all__ = ["Break", "FieldChange", "breaks", "difference", "feature_text"]

_SPANS = frozenset({"ttl", "window", "hop", "delay", "freshness"})
_PEOPLE = "about"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of a definition: `was` and `now` as people write them, None where there was or is nothing.

    `rebuilds` tells whether the view's online rows are built anew for it.
    """

    field: str
    was: str | None
    now: str | None
    rebuilds: bool = True

    @property
    def text(self) -> str:
        """One line: what was, what is."""
        return f"{self.field}: {'(none)' if self.was is None else self.was} -> {self.now or '(none)'}"


@dataclass(frozen=True, slots=True)
class Break:
    """A change that a reader of the old definition cannot follow; `features` are those it takes away, () for all."""

    text: str
    features: tuple[str, ...] = ()


def difference(old: ViewSpec, new: ViewSpec) -> tuple[FieldChange, ...]:
    """Return what differs: features by name, the source and the entity field by field, then what is for people."""
    changes = [*_entity(old, new), *_plain("ttl", old.ttl, new.ttl), *_features(old, new)]
    changes += _fields("source", old.source, new.source)
    changes += _fields("", old.about, new.about, rebuilds=False)
    for name, was, now in _paired(old, new):
        changes += _fields(f"feature {name}", was.about, now.about, rebuilds=False)
    if old.digest == new.digest:  # such as a column that the source now derives for another view
        changes = [replace(change, rebuilds=False) for change in changes]
    return tuple(changes)


def breaks(old: ViewSpec, new: ViewSpec | None) -> tuple[Break, ...]:
    """Return what a reader of `old` loses when `new` takes its place (None: the view is removed)."""
    if new is None:
        return (Break(f"view {old.name} is removed"),)
    found: list[Break] = []
    was, now = _keys(old), _keys(new)
    if was != now:
        found.append(Break(f"the keys of entity {old.entity.name} change from {was} to {now}"))
    after = {f.name: f for f in new.features}
    came = [f for f in new.features if f.name not in {g.name for g in old.features}]
    for feature in old.features:
        if feature.name not in after:
            twin = next((f for f in came if _meaning(f) == _meaning(feature)), None)
            became = f"renamed to {twin.name}" if twin is not None else "removed"
            found.append(Break(f"feature {feature.name} is {became}", (feature.name,)))
        elif after[feature.name].type != feature.type:
            kinds = f"{feature.type} to {after[feature.name].type}"
            found.append(Break(f"the type of feature {feature.name} changes from {kinds}", (feature.name,)))
    return tuple(found)


def _meaning(feature: FeatureSpec) -> FeatureSpec:
    return replace(feature, name="", about=type(feature.about)())


def _keys(view: ViewSpec) -> str:
    return ", ".join(f"{k.name} {k.type}" for k in view.entity.keys)


def _entity(old: ViewSpec, new: ViewSpec) -> list[FieldChange]:
    changes = _plain("entity", old.entity.name, new.entity.name)
    return changes + _plain("entity keys", _keys(old), _keys(new))


def _paired(old: ViewSpec, new: ViewSpec) -> Iterator[tuple[str, FeatureSpec, FeatureSpec]]:
    after = {f.name: f for f in new.features}
    for feature in old.features:
        if feature.name in after:
            yield feature.name, feature, after[feature.name]


def _features(old: ViewSpec, new: ViewSpec) -> list[FieldChange]:
    names, after = {f.name for f in old.features}, {f.name for f in new.features}
    changes = [FieldChange(f"feature {f.name}", feature_text(f), None) for f in old.features if f.name not in after]
    changes += [FieldChange(f"feature {f.name}", None, feature_text(f)) for f in new.features if f.name not in names]
    for name, was, now in _paired(old, new):
        changes += _fields(f"feature {name}", was, now)
    if not changes and [f.name for f in old.features] != [f.name for f in new.features]:
        changes += _plain("order of features", _listed(old), _listed(new))
    return changes


def _listed(view: ViewSpec) -> str:
    return ", ".join(f.name for f in view.features)


def _fields(what: str, old: object, new: object, *, rebuilds: bool = True) -> list[FieldChange]:
    """Compare two values of one dataclass field by field; pairs and lists of named things by their names."""
    changes: list[FieldChange] = []
    for field in fields(old):  # type: ignore[arg-type]
        if field.name == _PEOPLE:
            if isinstance(old, SourceSpec):
                changes += _fields(what, old.about, new.about, rebuilds=False)  # type: ignore[attr-defined]
            continue
        was, now = getattr(old, field.name), getattr(new, field.name)
        if was == now:
            continue
        label = f"{what} {field.name}".strip()
        if _is_pairs(was, now):
            changes += _pairs(label, dict(was), dict(now), rebuilds)
        else:
            changes.append(_change(label, field.name, was, now, rebuilds))
    return changes


def _change(label: str, name: str, was: object, now: object, rebuilds: bool = True) -> FieldChange:
    texts = _text(name, was), _text(name, now)
    if texts[0] == texts[1]:  # three digits of a span hide the difference
        texts = _text("", was), _text("", now)
    return FieldChange(label, *texts, rebuilds)


def _is_pairs(was: object, now: object) -> bool:
    return _named(was) and _named(now)


def _named(value: object) -> bool:
    """Whether a value is a tuple of pairs, each of another name."""
    if not isinstance(value, tuple):
        return False
    names = [p[0] for p in value if isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str)]
    return len(names) == len(value) == len(set(names))


def _pairs(label: str, was: Mapping[str, Any], now: Mapping[str, Any], rebuilds: bool) -> list[FieldChange]:
    names = [*was, *(n for n in now if n not in was)]
    changes = [
        FieldChange(f"{label} {n}", _text("", was.get(n)), _text("", now.get(n)), rebuilds)
        for n in names
        if was.get(n) != now.get(n)
    ]
    if not changes:
        changes.append(FieldChange(f"order of {label}", ", ".join(was), ", ".join(now), rebuilds))
    return changes


def _plain(label: str, was: object, now: object) -> list[FieldChange]:
    return [] if was == now else [_change(label, label, was, now)]


def _text(name: str, value: object) -> str | None:
    if value in (None, (), ""):
        return None
    if name in _SPANS and isinstance(value, int):
        return spoken(timedelta(microseconds=value))
    if isinstance(value, str):
        return value
    if isinstance(value, TransformSpec):
        return _transform_text(value)
    return msgspec.json.encode(value, enc_hook=str).decode()


def _transform_text(transform: TransformSpec) -> str:
    """Say a transformation as it was written, with the digest of a function's code: "cross(zone, hour, buckets=64)"."""
    params = [f"{name}={msgspec.json.encode(value, enc_hook=str).decode()}" for name, value in transform.params]
    code = "" if transform.code is None else f" of {transform.code.name} {transform.code.digest[:8]}"
    return f"{transform.function}({', '.join([*transform.args, *params])}){code}"


def feature_text(feature: FeatureSpec) -> str:
    """Say what a feature is in a few words: "mean of minutes over 1 day"."""
    of = f" of {feature.of}" if feature.of else ""
    if feature.transform is not None:
        return f"{feature.transform.function}({', '.join(feature.transform.args)})"
    if feature.stat is None:
        return f"newest{of}, {feature.type}"
    quantile = f" {feature.q:g}" if feature.q is not None else ""
    over = spoken(timedelta(microseconds=feature.window or 0))
    only = f" where {feature.where}" if feature.where else ""
    return f"{feature.stat}{quantile}{of} over {over}{only}"
