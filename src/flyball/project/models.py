"""`project.models["eta"]`: versions, champion, promote, retire, score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flyball.errors import Refused, UnknownName
from flyball.project.mirror import tell_champion
from flyball.project.views import restore
from flyball.registry.types import Lifecycle, Version
from flyball.rollout.routing import ModelRoute, VersionRef

if TYPE_CHECKING:
    import numpy as np

    from flyball.gates.types import GateReport
    from flyball.project.importing import Optimized
    from flyball.project.root import Project
    from flyball.registry.artifacts import LoadedModel
    from flyball.registry.types import Scalar
    from flyball.rollout.ports import Routes
    from flyball.training.types import Run

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

    def import_(
        self,
        path: str | Path,
        *,
        format: str = "auto",
        classes: Sequence[Scalar] | None = None,
        progress: Callable[[Run], None] | None = None,
    ) -> Run:
        """Register a model that was trained elsewhere as a version, judged and gated like any other.

        Args:
            path: An ONNX, XGBoost (.ubj, .json), LightGBM (.txt), CatBoost (.cbm), Keras or skops file, or the folder
                of an MLflow model. Its columns are the model's features in their order.
            format: Its format; "auto" goes by the name.
            classes: Labels of a classifier's columns, where the format does not keep them.
            progress: Called after each stage.

        Returns:
            The run that made the version; its state says what the gate found.

        Raises:
            Untrusted: a format whose loading can run code (pickle, torch.export), or content we do not allow.
            InputError: the path or its name is of no use.
            StageFailed: a stage failed, such as a snapshot without rows to judge it on.
        """
        from flyball.project.importing import import_artifact

        return import_artifact(self._project, self.name, path, format=format, classes=classes, progress=progress)

    def optimize(
        self, version: str, *, dry_run: bool = False, progress: Callable[[Run], None] | None = None
    ) -> Optimized:
        """Look for a faster equal form of a version again, and register it as a new version when it is another one.

        Args:
            version: Which; it stays as it is, for versions never change.
            dry_run: Only measure and tell.
            progress: Called after each stage of the new version's run.
        """
        from flyball.project.importing import optimize

        return optimize(self._project, self.name, version, dry_run=dry_run, progress=progress)

    def promote(self, version: str, *, reason: str = "promoted by hand", actor: str = "cli") -> Version:
        """Make a version champion at once, without a rollout; audited.

        Raises:
            Refused: its gate did not pass, or a rollout of this model is under way. A retired version may come back.
        """
        self._refuse_during_experiment()
        return self._make_champion(version, reason, actor, "promote")

    def switch(self, version: str | None = None, *, reason: str = "switched by hand", actor: str = "cli") -> Version:
        """Exchange the champion for another version at once, the old one kept loaded beside it (blue-green).

        Args:
            version: Which; the former champion when left out, so that a second call takes the first one back.
            reason: Why, for the audit.
            actor: Who.

        Returns:
            The new champion, once every worker answers with it.

        Raises:
            Refused: as `promote`; or there is no former version; or a worker cannot serve it, and the old one goes on.
        """
        from flyball.project.routing import former

        self._refuse_during_experiment()
        return self._make_champion(version or former(self._project, self.name), reason, actor, "switch")

    def split(
        self,
        shares: Mapping[str, str | float],
        *,
        holdout: str | float | None = None,
        reason: str = "",
        actor: str = "cli",
    ) -> dict[str, float]:
        """Compare versions side by side (A/B/n): each gets its share of units, the champion the rest.

        Units keep their variant while its share grows; calling it again changes shares, and `{}` ends the split.

        Args:
            shares: Version -> share of units, such as {"v3": "20%", "v4": "20%"}; at most six.
            holdout: Share of units that always get the champion; left as it is when not given.
            reason: Why, for the audit.
            actor: Who.

        Returns:
            The shares in force, the champion's too, in [0, 1].

        Raises:
            UnknownName: there is no such version.
            Refused: a gate did not pass, a rollout is under way, or there is no champion.
            ConflictError: the shares are more than all units, or growing one would move another's units.
        """
        from flyball.project.routing import split
        from flyball.rollout.routing import BUCKETS

        made = split(self._project, self.name, shares, holdout=holdout, reason=reason, actor=actor)
        parts = {v.name: (v.end - v.start) / BUCKETS for v in made.variants}
        return {made.champion.version: round(1.0 - sum(parts.values()), 6), **parts}

    def _make_champion(self, version: str, reason: str, actor: str, cause: Literal["promote", "switch"]) -> Version:
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
            _route_champion(self._project, found, routes, fence, cause)
            action = "promoted" if cause == "promote" else "switched to"
            return self._settle(found, Lifecycle.CHAMPION, action, reason, actor)

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

    def promote_shipped(self, version: str, *, reason: str, actor: str = "experiment") -> Version:
        """Make an experiment's arm champion in one table, which also ends the experiment's draw."""
        return self._make_champion(version, reason, actor, "promote")

    def _refuse_during_experiment(self) -> None:
        from flyball.project.routing import refuse_during_experiment

        refuse_during_experiment(self._project.database.routing.current().models.get(self.name))

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


def ref_of(project: Project, version: Version, *, trusted: bool) -> VersionRef:
    """Return where a worker finds a version; one that must stay in a process of its own is never trusted."""
    from flyball.registry.artifacts import confined

    hosted = confined(project.root / version.path)
    return VersionRef(version.version, version.path, version.digest, trusted and not hosted, hosted)


def _route_champion(
    project: Project, version: Version, routes: Routes, fence: int, cause: Literal["promote", "switch"]
) -> None:
    """Commit a table in which the version is champion and nothing else takes traffic; the old one is kept warm."""
    from flyball.project.routing import as_defined
    from flyball.units import to_micros

    table = routes.current()
    old = table.models.get(version.model)
    champion = ref_of(project, version, trusted=True)
    route = ModelRoute(version.model, version.model, champion)
    if old is not None:
        before = old.champion if old.champion.version != version.version else None
        route = ModelRoute(
            version.model, old.salt, champion, warm=(before,) if before is not None else old.warm, holdout=old.holdout
        )
    spec = project.applied.model(version.model).serving
    route = as_defined(route, spec, deadline=project.settings.server.deadline.total_seconds())
    new = table.following(route, fence=fence, now=to_micros(project.clock.now()), cause=cause)
    routes.commit(new, expected=table.version, fence=fence)
