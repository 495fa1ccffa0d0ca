"""`project.features.catalog`: what views there are, how they are now, who reads them, what they were before.

The surprise: looking costs something only where it measures. `views` reads definitions; `show` samples the online store
and asks the source for its newest row.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flyball.errors import FlyballError, UnknownName
from flyball.features.catalog import Hit, Node, describe, describe_source, search
from flyball.features.difference import difference
from flyball.features.spec import Status, ViewSpec
from flyball.project.readers import reads_of, service_of
from flyball.registry.types import Lifecycle, Version
from flyball.rollout.routing import BUCKETS, ModelRoute
from flyball.units import to_micros

if TYPE_CHECKING:
    from flyball.features.spec import FeatureService
    from flyball.project.root import Project

__all__ = ["Catalog"]

_SAMPLE = 200  # entities looked at for the share of nulls
_LOOK_BACK = (timedelta(hours=1), timedelta(days=1), timedelta(days=30))


class Catalog:
    """Read the catalog of a project's applied views."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def views(self) -> list[dict[str, Any]]:
        """Return every applied view: what it is, how far it is materialized, which models read it."""
        readers = self._readers()
        return [self._brief(view, readers) for view in self._project.applied.view_specs]

    def show(self, name: str) -> dict[str, Any]:
        """Return one view as it is now: measured freshness, nulls, rows online, quarantine, readers, source.

        Raises:
            UnknownName: no view of this name is applied.
        """
        view = self._project.applied.view(name).spec
        online, nulls = self._online(view)
        age = self._age(view)
        declared = view.about.freshness
        document = self._brief(view, self._readers()) | {
            "source_about": describe_source(view.source),
            "rows_online": online,
            "age_s": None if age is None else age / 1e6,
            "fresh": None if age is None or declared is None else age <= declared,
            "quarantined": self._quarantined(view),
        }
        for feature in document["features"]:
            feature["missing_share"] = nulls.get(feature["name"])
        return document

    def shared(self) -> list[dict[str, Any]]:
        """Return what all projects published in the shared catalog, by name, then oldest first.

        Raises:
            ConfigError: no catalog is set.
            Unavailable: it cannot be reached.
        """
        from flyball.project.shared import published

        return published(self._project)

    def search(self, words: str) -> list[Hit]:
        """Return the applied views in which every word occurs: names, documentation, units, tags, owners."""
        return search(self._project.applied.view_specs, words)

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Return a view's definitions over the applies, oldest first, each with what it changed.

        Raises:
            UnknownName: no view of this name was ever applied.
        """
        found: list[dict[str, Any]] = []
        before: ViewSpec | None = None
        seen: set[str] = set()
        for record in self._project.database.deployments.history(limit=10_000):
            seen |= {view.name for view in record.views}
            view = next((v for v in record.views if v.name == name), None)
            if view == before:
                continue
            changed = difference(before, view) if before is not None and view is not None else ()
            found.append({
                "digest": None if view is None else view.digest, "at": record.at, "code": record.code,
                "revision": record.revision, "actor": record.actor,
                "action": "add" if before is None else "remove" if view is None else "change",
                "fields": [{"field": c.field, "was": c.was, "now": c.now, "rebuilds": c.rebuilds} for c in changed],
            })  # fmt: skip
            before = view
        if not found:
            raise UnknownName.of("feature view", name, seen)
        return found

    def lineage(self, name: str | None = None) -> list[Node]:
        """Return trees from source to rollout: of a view, a source or a model, or of everything.

        Raises:
            UnknownName: there is no such view, source or model.
        """
        views = self._all_views()
        readers = self._readers()
        known = {v.name for v in views} | {v.source.name for v in views} | {r.model for r, _ in readers}
        if name is not None and name not in known:
            raise UnknownName.of("view, source or model", name, known)
        trees: dict[str, list[ViewSpec]] = {}
        for view in views:
            models = {v.model for v, s in readers if any(w.digest == view.digest for w in s.views)}
            if name is None or name in {view.name, view.source.name, *models}:
                trees.setdefault(view.source.name, []).append(view)
        return [self._source_node(mine, readers, name) for _, mine in sorted(trees.items())]

    # -- one view -------------------------------------------------------------------------------------------------

    def _brief(self, view: ViewSpec, readers: list[tuple[Version, FeatureService]]) -> dict[str, Any]:
        last = self._project.database.deployments.watermark(view.digest)
        return describe(view) | {
            "last_refresh": last,
            "next_refresh": self._next_refresh(view),
            "read_by": [
                {"model": version.model, "version": version.version, "lifecycle": version.lifecycle.value,
                 "features": sorted(reads_of(service, view.name)), "digest": mine.digest,
                 "current": mine.digest == view.digest, "deployment": self._deployed(version)}
                for version, service in readers
                if (mine := next((v for v in service.views if v.name == view.name), None)) is not None
            ],
            "definitions": sorted(n for n, m in self._project.applied.models.items()
                                  if any(v.name == view.name for v in m.service.views)),
        }  # fmt: skip

    def _online(self, view: ViewSpec) -> tuple[int, dict[str, float]]:
        """Return how many entities are online, and each feature's share of values that are not present, in a sample."""
        from flyball.features.packing import namespace
        from flyball.features.viewreader import ViewReader

        store = self._project.features._store()
        keys = store.keys(namespace(view.digest))
        some = keys[:: max(1, len(keys) // _SAMPLE)][:_SAMPLE]
        if not some:
            return 0, {}
        now = to_micros(self._project.clock.now())
        _, statuses = ViewReader(view).objects(store.get_many(some), now)
        shares = (statuses != Status.PRESENT).mean(axis=0).tolist()
        return len(keys), dict(zip((f.name for f in view.features), shares, strict=True))

    def _age(self, view: ViewSpec) -> int | None:
        """Return how old the source's newest row is (µs), None when it has none or cannot be read."""
        now = self._project.clock.now()
        keys = [k.name for k in view.entity.keys]
        for span in (*_LOOK_BACK, None):
            try:
                rows = self._project.engine.scan(view.source, columns=keys, start=None if span is None else now - span)
            except FlyballError:
                return None
            if rows.num_rows:
                return to_micros(now) - int(rows.column("__event").to_numpy().max())
        return None

    def _quarantined(self, view: ViewSpec) -> int:
        """Return how many rows of the view's source lie in quarantine."""
        rows = self._project.features.quarantined(view.source.name)
        return 0 if rows is None else int(rows.num_rows)

    def _next_refresh(self, view: ViewSpec) -> datetime | None:
        if view.about.refresh is None:
            return None
        from flyball.features.refresh import next_due

        last = self._project.database.deployments.watermark(view.digest)
        return next_due(view.about.refresh, last, self._project.clock.now())

    # -- who reads ------------------------------------------------------------------------------------------------

    def _readers(self) -> list[tuple[Version, FeatureService]]:
        versions = self._project.database.versions
        every = (version for model in versions.models() for version in versions.list(model))
        kept = (v for v in every if v.lifecycle is not Lifecycle.ARCHIVED)
        return [(v, service) for v in kept if (service := service_of(self._project, v)) is not None]

    def _deployed(self, version: Version) -> str:
        table = self._project.database.routing.current()
        route = table.models.get(version.model)
        role = _role(route, version.version)
        return f"{role} (table {table.version})" if role else ""

    def _all_views(self) -> list[ViewSpec]:
        """Return applied views, and older definitions that some version still reads."""
        found = {view.digest: view for view in self._project.applied.view_specs}
        for _, service in self._readers():
            for view in service.views:
                found.setdefault(view.digest, view)
        return list(found.values())

    # -- lineage --------------------------------------------------------------------------------------------------

    def _source_node(
        self, views: list[ViewSpec], readers: list[tuple[Version, FeatureService]], name: str | None
    ) -> Node:
        applied = {v.digest for v in self._project.applied.view_specs}
        source = views[0].source
        children = []
        for view in sorted(views, key=lambda v: (v.name, v.digest not in applied)):
            state = "applied" if view.digest in applied else "replaced, still read"
            only = name if name in {v.model for v, _ in readers} else None
            models = tuple(self._model_nodes(view, readers, only))
            children.append(Node("view", view.name, f"{view.digest}, {len(view.features)} features, {state}", models))
        return Node("source", source.name, f"{source.kind} {source.path}".strip(), tuple(children))

    def _model_nodes(
        self, view: ViewSpec, readers: list[tuple[Version, FeatureService]], only: str | None
    ) -> Iterator[Node]:
        mine: dict[str, list[tuple[Version, FeatureService]]] = {}
        for version, service in readers:
            if any(v.digest == view.digest for v in service.views):
                mine.setdefault(version.model, []).append((version, service))
        for name, model in self._project.applied.models.items():
            if any(v.digest == view.digest for v in model.service.views):
                mine.setdefault(name, [])
        for name, versions in sorted(mine.items()):
            if only not in {None, name}:
                continue
            services = [s for _, s in versions]
            if name in self._project.applied.models:
                services.append(self._project.applied.model(name).service)
            features = sorted({f for s in services for f in reads_of(s, view.name)})
            yield Node("model", name, f"reads {', '.join(features)}", tuple(self._version_node(v) for v, _ in versions))

    def _version_node(self, version: Version) -> Node:
        children = []
        if role := self._deployed(version):
            children.append(Node("deployment", role))
        for _, status in self._project.database.rollouts.list(version.model):
            if status.candidate == version.version:
                children.append(Node("rollout", status.id, f"{status.phase}, {status.share:.0%} of units"))
        at = version.trained_until or version.created
        text = f"{version.lifecycle.value}, trained on data until {at:%Y-%m-%d %H:%M}"
        return Node("version", f"{version.model} {version.version}", text, tuple(children))


def _role(route: ModelRoute | None, version: str) -> str:
    if route is None:
        return ""
    share = route.candidate_cut / BUCKETS
    if route.champion.version == version:
        return f"champion, {1 - share:.0%} of units"
    if route.candidate is not None and route.candidate.version == version:
        return f"candidate, {share:.0%} of units" if share else f"candidate, {route.shadow:.0%} in shadow"
    return "kept warm" if any(ref.version == version for ref in route.warm) else ""
