"""`project.models["eta"]`: versions, champion, promote, retire, score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flyball.errors import Refused, UnknownName
from flyball.project.mirror import tell_champion
from flyball.project.views import restore
from flyball.registry.types import Lifecycle, Version
from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef

if TYPE_CHECKING:
    import numpy as np

    from flyball.gates.types import GateReport
    from flyball.project.root import Project
    from flyball.registry.artifacts import LoadedModel
    from flyball.rollout.ports import Routes

__all__ = ["ModelHandle", "ModelHandles", "ref_of"]


class ModelHandles(Mapping[str, "ModelHandle"]):
    """All applied models by name."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def __getitem__(self, name: str) -> ModelHandle:
        known = self._project.applied.models
        if name not in known:
            raise UnknownName.of("model", name, known)
        return ModelHandle(self._project, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._project.applied.models)

    def __len__(self) -> int:
        return len(self._project.applied.models)


class ModelHandle:
    """One model's versions and what can be done with them."""

    def __init__(self, project: Project, name: str) -> None:
        self._project = project
        self.name = name

    @property
    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        return self._project.database.versions.list(self.name)

    @property
    def champion(self) -> Version | None:
        """The version that serves by default."""
        return self._project.database.versions.champion(self.name)

    def version(self, version: str) -> Version:
        """Return one version; raises UnknownName with near names."""
        return self._project.database.versions.get(self.name, version)

    def load(self, version: str | None = None) -> LoadedModel:
        """Load a version (the champion by default) after checking all its digests."""
        from flyball.project.runs import signing_key
        from flyball.registry.artifacts import load_version

        found = self.champion if version is None else self.version(version)
        if found is None:
            raise Refused(f"{self.name} has no champion yet; train one with: flyball run --model {self.name}")
        path = self._project.root / found.path
        return load_version(path, found.digest, signing_key=signing_key(self._project))

    def gate(self, version: str) -> GateReport:
        """Return the gate's report on a version."""
        from flyball.gates.run import read_report

        return read_report(self._project.layout.runs / self.version(version).run / "gate" / "report.json")

    def score(self, data: Any, *, version: str | None = None, at: str | None = None) -> np.ndarray:
        """Predict for past requests in bulk, with the feature values that serving would have used.

        Args:
            data: pandas, polars or Arrow table, or a Parquet path, with the model's inputs and the time column.
            version: The champion by default.
            at: The time column; the examples' own by default.

        Returns:
            float64, shape (n,), or (n, classes) for a classifier.
        """
        from flyball.features.matrix import to_matrix
        from flyball.features.offline import request_times, service_history
        from flyball.features.table import to_requests

        loaded = self.load(version)
        service = loaded.manifest.service
        requests = to_requests(data)
        times = request_times(requests, at or service.at)
        table = service_history(self._project.engine, requests, service, times)
        return loaded.predict(to_matrix(table, service.names))

    def promote(self, version: str, *, reason: str = "promoted by hand", actor: str = "cli") -> Version:
        """Make a version champion at once, without a rollout; audited.

        Raises:
            Refused: its gate did not pass, or a rollout of this model is under way. A retired version may come back.
        """
        from flyball.project.releases import exclusive

        found = self.version(version)
        if found.lifecycle is Lifecycle.CHAMPION and self._routed == version:
            return found
        if found.gate != "passing":
            raise Refused(
                f"{self.name} {version} may not be promoted: its gate says {found.gate or 'nothing yet'}; "
                f"see: flyball model show {version} --model {self.name}"
            )
        self._refuse_during_rollout(f"use: flyball rollout promote {version} --model {self.name}")
        restore(self._project, found)
        with exclusive(self._project) as (routes, fence):  # lifecycle and table change together, or another one's do
            _route_champion(self._project, found, routes, fence)
            return self._settle(found, Lifecycle.CHAMPION, "promoted", reason, actor)

    def retire(self, version: str, *, reason: str = "", actor: str = "cli") -> Version:
        """Say that a version may not serve any more."""
        found = self.version(version)
        if found.lifecycle is Lifecycle.CHAMPION:
            raise Refused(f"{self.name} {version} is the champion; promote another version first")
        self._refuse_during_rollout(f"use: flyball rollout abort {version} --model {self.name}", candidate=version)
        return self._settle(found, Lifecycle.RETIRED, "retired", reason, actor)

    @property
    def _routed(self) -> str | None:
        """The version that the table in force gives the traffic; a killed promotion may have moved only the table."""
        route = self._project.database.routing.current().models.get(self.name)
        return None if route is None else route.champion.version

    def _refuse_during_rollout(self, instead: str, *, candidate: str | None = None) -> None:
        for _, status in self._project.database.rollouts.list(self.name, active=True):
            if candidate in {None, status.candidate}:
                raise Refused(
                    f"rollout {status.id} of {self.name} {status.candidate} is under way ({status.phase}); {instead}"
                )

    def _settle(self, version: Version, to: Lifecycle, action: str, reason: str, actor: str) -> Version:
        project, now = self._project, self._project.clock.now()
        project.database.versions.set_lifecycle(self.name, version.version, to, now=now)
        project.database.audit.record(now, actor, action, f"{self.name} {version.version}", {"reason": reason})
        if to is Lifecycle.CHAMPION:
            tell_champion(project, self.name, version.version, now)
        return self.version(version.version)


def ref_of(version: Version, *, trusted: bool) -> VersionRef:
    """Return where a worker finds a version."""
    return VersionRef(version=version.version, path=version.path, digest=version.digest, trusted=trusted)


def _route_champion(project: Project, version: Version, routes: Routes, fence: int) -> None:
    """Commit a table in which the version is champion and nothing else takes traffic."""
    from flyball.units import to_micros

    table = routes.current()
    old = table.models.get(version.model)
    route = ModelRoute(
        model=version.model,
        salt=old.salt if old is not None else version.model,
        champion=ref_of(version, trusted=True),
        deadline=project.settings.server.deadline.total_seconds(),
        warm=(old.champion,) if old is not None else (),
    )
    models = {**table.models, version.model: route}
    new = RoutingTable(table.version + 1, fence, to_micros(project.clock.now()), models, "promote")
    routes.commit(new, expected=table.version, fence=fence)
