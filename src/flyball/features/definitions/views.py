"""Feature views: features of one source for one entity, newest values or windows, and what is computed from them.

The surprise: what is only for people and for upkeep (owner, docs, refresh, roles) changes no digest, so editing it
rebuilds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from flyball import units
from flyball.errors import DefinitionError, DuplicateName, UnitError, UnknownName
from flyball.features.definitions.checks import Check, check_specs
from flyball.features.definitions.entities import Entity
from flyball.features.definitions.names import check_default, checked_name, checked_type
from flyball.features.definitions.services import ViewSelection
from flyball.features.spec import About, FeatureAbout, FeatureSpec, SourceSpec, ViewSpec

__all__ = ["Feature", "FeatureView"]


class _Source(Protocol):
    """What a source definition shows."""

    name: str
    spec: SourceSpec


class Feature:
    """Declare a row view's feature: the newest value of a column.

    Args:
        name: The feature's name.
        dtype: int, float, bool, str, bytes, datetime, date, `Decimal(P, S)`, `List(T)`, `Vector(K)`, or a type's name
            such as "float32". A model's matrix takes numbers, and a column for each part of a vector.
        of: The source's column, raw or derived; the same name by default.
        default: Value where there is none (null, expired or missing); the status says so all the same.
        description: What it says, for people.
        unit: What it is measured in, for people.
    """

    def __init__(
        self,
        name: str,
        dtype: Any,
        of: str | None = None,
        default: Any = None,
        *,
        description: str = "",
        unit: str = "",
    ) -> None:
        self.name = checked_name("feature", name)
        kind = checked_type(f"feature {name!r}", dtype)
        plain = check_default(name, kind, default)
        self.spec = FeatureSpec(
            name=name, type=kind, of=of or name, default=plain, about=FeatureAbout(description, unit)
        )

    def __repr__(self) -> str:
        return f"Feature({self.name!r}, {self.spec.type})"


class FeatureView:
    """Declare a group of features from one source for one entity.

    Args:
        name: The view's name.
        entity: What the features describe.
        source: Where the rows come from.
        features: All `Feature` (a row view: newest value per entity) or all window features (a window view); besides
            them functions of features listed before (`ratio`, `bucket`, ...), computed at read. A list among them
            counts as its elements.
        ttl: How old the newest row may be at T; None for no limit. A window view's answers do not depend on it.
        owner: Who answers for it.
        description: What it says, for people.
        tags: Words to find it by.
        freshness: How old the newest row of all may be before that is reported.
        refresh: How often it is materialized by `flyball up`: a duration ("15m") or a cron line; None for never.
        readers: Roles that may read it; none means everyone with a key.
        writers: Roles that may push to it; none means everyone with a key.
        checks: Checks of its answers, with policy "stop" or "warn".
    """

    def __init__(
        self,
        name: str,
        *,
        entity: Entity,
        source: _Source,
        features: Iterable[Any],
        ttl: str | timedelta | None = None,
        owner: str = "",
        description: str = "",
        tags: Sequence[str] = (),
        freshness: str | timedelta | None = None,
        refresh: str | timedelta | None = None,
        readers: Sequence[str] = (),
        writers: Sequence[str] = (),
        checks: Sequence[Check] = (),
    ) -> None:
        self.name = checked_name("feature view", name)
        self.entity = entity
        self.source = source
        specs = tuple(_specs(name, features, source.spec.timezone))
        _check(name, entity, specs)
        about = About(
            owner=owner,
            description=description,
            tags=_words(name, "tags", tags),
            freshness=None if freshness is None else units.micros(units.duration(freshness)),
            refresh=_refresh(name, refresh),
            readers=_words(name, "readers", readers),
            writers=_words(name, "writers", writers),
            checks=check_specs(f"feature view {name!r}", checks, view=True),
        )
        span = None if ttl is None else units.micros(units.duration(ttl))
        self.spec = ViewSpec(name, entity.spec, source.spec, span, specs, about)

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names in order."""
        return tuple(f.name for f in self.spec.features)

    def select(self, *names: str) -> ViewSelection:
        """Return some of the features, in this order, for a model or a feature service.

        Raises:
            UnknownName: the view has no such feature.
        """
        return ViewSelection(self, names)

    def __getitem__(self, names: str | tuple[str, ...]) -> ViewSelection:
        return self.select(*((names,) if isinstance(names, str) else names))

    def __iter__(self) -> Any:  # else Python would take __getitem__ for a sequence
        raise TypeError(f"feature view {self.name!r} is no list; its features are view.names")

    def __repr__(self) -> str:
        return f"FeatureView({self.name!r}, {len(self.spec.features)} features)"


def _specs(view: str, features: Iterable[Any], timezone: str) -> Iterable[FeatureSpec]:
    for feature in features:
        if isinstance(feature, list | tuple):
            yield from _specs(view, feature, timezone)
        elif isinstance(getattr(feature, "spec", None), FeatureSpec):
            yield feature.spec
        elif callable(make := getattr(feature, "feature", None)):  # a transform over other features
            yield make(timezone)
        else:
            raise DefinitionError(
                f"feature view {view!r} lists {feature!r:.60}; use Feature, a window feature such as count, or a "
                "function of features such as ratio"
            )


def _check(view: str, entity: Entity, specs: Sequence[FeatureSpec]) -> None:
    stored = [f for f in specs if f.transform is None]
    if not stored:
        raise DefinitionError(f"feature view {view!r} has no features of its source; list at least one")
    if len({f.stat is None for f in stored}) > 1:
        raise DefinitionError(
            f"feature view {view!r} mixes newest values and windows; make two views of the same source"
        )
    keys = {k.name for k in entity.spec.keys}
    seen: dict[str, str] = {}
    for feature in specs:
        if feature.name in seen:
            raise DuplicateName(f"feature view {view!r} names {feature.name!r} twice; rename one of them")
        if feature.name in keys:
            raise DuplicateName(f"feature {feature.name!r} of view {view!r} is named like a key of its entity")
        if feature.transform is not None:
            _check_computed(view, feature, seen)
        seen[feature.name] = feature.type


def _check_computed(view: str, feature: FeatureSpec, before: dict[str, str]) -> None:
    from flyball.features import transforms

    assert feature.transform is not None
    for name in feature.transform.args:
        if name not in before:
            raise UnknownName.of(f"feature of view {view!r} before {feature.name!r}", name, before)
    transforms.check(feature.transform, before)


def _words(view: str, what: str, words: Sequence[str]) -> tuple[str, ...]:
    if isinstance(words, str):
        raise DefinitionError(f"{what} of feature view {view!r} is {words!r}; give a list of texts")
    return tuple(words)


def _refresh(view: str, refresh: str | timedelta | None) -> str | None:
    """Return the checked text of a refresh: a duration, or a cron line."""
    if refresh is None:
        return None
    if isinstance(refresh, timedelta):
        refresh = f"{refresh.total_seconds():g}s"
    try:
        if units.duration(refresh) > timedelta(0):
            return refresh
    except UnitError:
        from croniter import croniter

        if croniter.is_valid(refresh):
            return refresh
    raise DefinitionError(
        f'refresh of feature view {view!r} is {refresh!r}; write a duration such as "15m" or a cron line'
    )
