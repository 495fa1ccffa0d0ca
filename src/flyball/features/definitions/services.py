"""Feature services: a named choice of features over views, for models, `online` and `history`.

The surprise: a "view:feature" text may name a view that the service does not hold; it is then looked up when the
project's definitions are collected (`bind`), and only then can the service be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flyball.errors import DefinitionError, DuplicateName, UnknownName
from flyball.features.definitions.names import checked_name
from flyball.features.spec import About, ServiceSpec, ViewSpec

if TYPE_CHECKING:
    from flyball.features.definitions.views import FeatureView

__all__ = ["FeatureService", "ViewSelection", "expand"]


class ViewSelection:
    """Some features of a view in an order; made by `view.select("a", "b")` and `view["a", "b"]`."""

    def __init__(self, view: FeatureView, names: Sequence[str]) -> None:
        """Choose features by name; raises UnknownName or DuplicateName."""
        if not names:
            raise DefinitionError(f"nothing is selected of feature view {view.name!r}; name at least one feature")
        for i, name in enumerate(names):
            if name not in view.names:
                raise UnknownName.of(f"feature of {view.name}", name, view.names)
            if name in names[:i]:
                raise DuplicateName(f"feature {name!r} of view {view.name!r} is selected twice; name it once")
        self.view = view
        self.names = tuple(names)

    @property
    def name(self) -> str:
        """The view's name."""
        return self.view.name

    @property
    def spec(self) -> ViewSpec:
        """The whole view; what is stored does not depend on what is selected."""
        return self.view.spec

    def __repr__(self) -> str:
        return f"{self.view.name}.select({', '.join(map(repr, self.names))})"


@dataclass(frozen=True, slots=True)
class _Named:
    """A view or a feature by text."""

    view: str
    feature: str | None


class FeatureService:
    """Name a choice of features: what a model reads, or what `online` and `history` are asked for by this name.

    Args:
        name: The service's name; it may not be a view's.
        features: Views (all of their features), selections (`view.select("a", "b")`), "view" and "view:feature" texts,
            other services.
        owner: Who answers for it.
        description: What it is for.
        tags: Words to find it by.

    Example:
        FeatureService("fraud", features=[users, shops.select("risk"), "cards:spend_24h"], owner="payments")
    """

    def __init__(
        self,
        name: str,
        *,
        features: Iterable[Any],
        owner: str = "",
        description: str = "",
        tags: Sequence[str] = (),
    ) -> None:
        self.name = checked_name("feature service", name)
        self._parts = tuple(_part(name, feature) for feature in features)
        if not self._parts:
            raise DefinitionError(f"feature service {name!r} has no features; list views or selections of them")
        self.about = About(owner=owner, description=description, tags=tuple(tags))
        self._views: dict[str, FeatureView] = {}
        self._collect(self._parts)

    def bind(self, views: Mapping[str, FeatureView]) -> None:
        """Look up views that are named by text; views the service holds come first. Raises UnknownName."""
        for part in self._parts:
            if isinstance(part, FeatureService):
                part.bind(views)
            elif isinstance(part, _Named) and part.view not in self._views:
                if part.view not in views:
                    raise UnknownName.of(f"feature view (read by service {self.name!r})", part.view, views)
                self._views[part.view] = views[part.view]
        self.selections  # noqa: B018 features that do not exist are told now

    @property
    def held(self) -> tuple[FeatureView, ...]:
        """The views that it knows by now, those of inner services too."""
        inner = [view for part in self._parts if isinstance(part, FeatureService) for view in part.held]
        return (*self._views.values(), *inner)

    @property
    def is_bound(self) -> bool:
        """Whether every view is known."""
        return all(
            part.is_bound
            if isinstance(part, FeatureService)
            else not isinstance(part, _Named) or part.view in self._views
            for part in self._parts
        )

    @property
    def selections(self) -> tuple[ViewSelection, ...]:
        """What is read of each view, every feature once, views in order of their first mention.

        Raises:
            DefinitionError: a view is known by text only, and `bind` has not been called.
        """
        return merge(self._selections())

    @property
    def views(self) -> tuple[FeatureView, ...]:
        """The views it reads."""
        return tuple(s.view for s in self.selections)

    @property
    def names(self) -> tuple[str, ...]:
        """What it reads, as "view:feature"."""
        return tuple(f"{s.name}:{n}" for s in self.selections for n in s.names)

    @property
    def spec(self) -> ServiceSpec:
        """The plain value."""
        return ServiceSpec(self.name, self.names, self.about)

    def _collect(self, parts: Iterable[Any]) -> None:
        for part in parts:
            if isinstance(part, ViewSelection):
                other = self._views.setdefault(part.name, part.view)
                if other.spec != part.view.spec:
                    raise DuplicateName(f"feature service {self.name!r} reads two different views named {part.name!r}")

    def _selections(self) -> Iterable[ViewSelection]:
        for part in self._parts:
            if isinstance(part, ViewSelection):
                yield part
            elif isinstance(part, FeatureService):
                yield from part.selections
            elif part.view in self._views:
                view = self._views[part.view]
                yield view.select(*(view.names if part.feature is None else (part.feature,)))
            else:
                raise DefinitionError(
                    f"feature service {self.name!r} names view {part.view!r} by text, which is known when the "
                    "project's definitions are collected; list the view itself, or view.select(...)"
                )

    def __repr__(self) -> str:
        return f"FeatureService({self.name!r}, {len(self._parts)} parts)"


def expand(features: Iterable[Any]) -> list[Any]:
    """Return a model's features with selections in place of services; a view's selections are merged into its first."""
    found: list[Any] = []
    from_services: list[ViewSelection] = []
    for feature in features:
        if isinstance(feature, FeatureService):
            from_services += feature.selections
            found += feature.selections
        else:
            found.append(feature)
    if not from_services:
        return found
    selections = [_whole(f) for f in found if _is_view(f)]
    whole = {s.name: s for s in merge(selections)}
    return [whole.pop(f.name, None) if _is_view(f) else f for f in found if not _is_view(f) or f.name in whole]


def merge(selections: Iterable[ViewSelection]) -> tuple[ViewSelection, ...]:
    """Return one selection for each view, with every feature once."""
    views: dict[str, FeatureView] = {}
    names: dict[str, dict[str, None]] = {}
    for selection in selections:
        views.setdefault(selection.name, selection.view)
        names.setdefault(selection.name, {}).update(dict.fromkeys(selection.names))
    return tuple(ViewSelection(view, tuple(names[name])) for name, view in views.items())


def _is_view(feature: Any) -> bool:
    return isinstance(getattr(feature, "spec", None), ViewSpec)


def _whole(feature: Any) -> ViewSelection:
    return feature if isinstance(feature, ViewSelection) else ViewSelection(feature, feature.names)


def _part(service: str, feature: Any) -> ViewSelection | FeatureService | _Named:
    if isinstance(feature, FeatureService):
        return feature
    if _is_view(feature):
        return _whole(feature)
    if isinstance(feature, str):
        view, colon, name = feature.partition(":")
        return _Named(checked_name("feature view", view), checked_name("feature", name) if colon else None)
    raise DefinitionError(
        f'feature service {service!r} lists {feature!r:.60}; use views, view.select("a"), "view:feature" or services'
    )
