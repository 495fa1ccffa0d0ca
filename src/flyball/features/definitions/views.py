"""Feature views: features of one source for one entity, newest values or windows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from flyball import units
from flyball.errors import DefinitionError, DuplicateName
from flyball.features.definitions.entities import Entity
from flyball.features.definitions.names import check_default, checked_name, checked_type
from flyball.features.definitions.sources import ParquetSource
from flyball.features.definitions.windows import WindowFeature
from flyball.features.spec import FeatureSpec, Scalar, ViewSpec

__all__ = ["Feature", "FeatureView"]


class Feature:
    """Declare a row view's feature: the newest value of a column.

    Args:
        name: The feature's name.
        dtype: int, float, bool or str.
        of: The source's column, raw or derived; the same name by default.
        default: Value where there is none (null, expired or missing); the status says so all the same.
    """

    def __init__(self, name: str, dtype: type | str, of: str | None = None, default: Scalar = None) -> None:
        self.name = checked_name("feature", name)
        kind = checked_type(f"feature {name!r}", dtype)
        check_default(name, kind, default)
        self.spec = FeatureSpec(name=name, type=kind, of=of or name, default=default)

    def __repr__(self) -> str:
        return f"Feature({self.name!r}, {self.spec.type})"


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
        self.name = checked_name("feature view", name)
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
