"""`project.data`: training sets and what they are made of."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flyball.units import duration

if TYPE_CHECKING:
    from flyball.datasets.types import DatasetManifest, TrainingSet
    from flyball.project.root import Project

__all__ = ["DataHandle"]


class DataHandle:
    """Build and read training sets."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def snapshot(self, model: str, *, train_on: str | timedelta | None = None) -> TrainingSet:
        """Build the training set a run started now would use; the same inputs give the same digest."""
        from flyball.datasets.snapshot import build
        from flyball.project.runs import code_digest, context

        project = self._project
        plan = project.applied.model(model).plan
        span = plan.train_on if train_on is None else duration(train_on)
        return build(plan, context(project), until=project.clock.now(), code=code_digest(project), train_on=span)

    def versions(self, model: str) -> list[DatasetManifest]:
        """Return a model's manifests, oldest first."""
        return self._project.database.datasets.list(model)

    def get(self, digest: str) -> DatasetManifest:
        """Return a manifest by digest or unique prefix."""
        return self._project.database.datasets.get(digest)

    def poison(self, model: str, start: datetime, end: datetime, *, reason: str) -> None:
        """Mark the stretch [start, end) as not to be trained on; raises InputError when it is empty."""
        self._project.database.datasets.poison(model, start, end, reason=reason)
