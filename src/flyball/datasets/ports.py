"""What datasets need from outside."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from flyball.datasets.types import DatasetManifest

__all__ = ["DatasetStore"]


class DatasetStore(Protocol):
    """Keep manifests and poisoned windows (control database)."""

    def add(self, manifest: DatasetManifest) -> None:
        """Record a manifest once, by digest."""
        ...

    def get(self, digest: str) -> DatasetManifest:
        """Return a manifest by digest or unique prefix; raises UnknownName."""
        ...

    def poisoned(self, model: str) -> list[tuple[datetime, datetime]]:
        """Return the stretches marked as not to be trained on."""
        ...

    def poison(self, model: str, start: datetime, end: datetime, *, reason: str) -> None:
        """Mark a stretch."""
        ...

    def list(self, model: str) -> list[DatasetManifest]:
        """Return a model's manifests, oldest first."""
        ...
