"""Which feature views must be kept fresh online: the applied ones, and those that versions which may serve still read.

A changed view has a new digest and so rows of its own. A version goes on reading the digest it was trained with; only
when no champion, candidate or warm version reads a digest any more do its rows go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from flyball.errors import FlyballError
from flyball.features.spec import SourceSpec, ViewSpec
from flyball.registry.types import Lifecycle, Version

if TYPE_CHECKING:
    from flyball.project.root import Project

__all__ = ["defined_sources", "defined_views", "in_use", "live_versions", "restore", "views_of"]

_SERVING = frozenset({Lifecycle.CANDIDATE, Lifecycle.CHAMPION})


def in_use(project: Project, applied: Sequence[ViewSpec]) -> list[ViewSpec]:
    """Return the views to keep, older digests first, so that the applied one is the last of its name."""
    digests = {view.digest for view in applied}
    older = {view.digest: view for version in live_versions(project) for view in views_of(project, version)}
    return [*(view for digest, view in older.items() if digest not in digests), *applied]


def restore(project: Project, version: Version) -> None:
    """Bring back rows that went while a version was retired, before it may take traffic again."""
    missing = [view for view in views_of(project, version) if not project.features.is_filled(view)]
    if missing:
        project.features.attach([*missing, *in_use(project, project.applied.view_specs)])
        for view in missing:
            project.features.fill(view)


def views_of(project: Project, version: Version) -> Sequence[ViewSpec]:
    """Return the views a version reads; none when its artifact is gone, as then it cannot serve either."""
    from flyball.registry.artifacts import read_manifest

    try:
        return read_manifest(project.root / version.path, version.digest).service.views
    except FlyballError:
        return ()


def defined_views(project: Project) -> list[ViewSpec]:
    """Return every definition that may have rows: applied, attached, read by a version."""
    from flyball.adapters.local.views import read_views

    found = {view.digest: view for view in (*project.applied.view_specs, *read_views(project.layout))}
    for model in project.database.versions.models():
        for version in project.database.versions.list(model):
            for view in views_of(project, version):
                found.setdefault(view.digest, view)
    return list(found.values())


def defined_sources(project: Project, views: Iterable[ViewSpec]) -> list[SourceSpec]:
    """Return sources, one of each name: the applied one, else the newest that a view reads."""
    found = {view.source.name: view.source for view in views}
    examples = (model.examples for model in project.applied.models.values())
    found |= {each.source.spec.name: each.source.spec for each in examples if each.source is not None}
    return list((found | dict(project.applied.sources)).values())


def live_versions(project: Project) -> Iterator[Version]:
    """Yield the versions that serve or may: champions, candidates, and those that are kept warm."""
    routes = project.database.routing.current().models
    for model in project.database.versions.models():
        route = routes.get(model)
        warm = {ref.version for ref in (*route.warm, *(v.version for v in route.variants))} if route else set()
        for version in project.database.versions.list(model):
            if version.lifecycle in _SERVING or version.version in warm:
                yield version
