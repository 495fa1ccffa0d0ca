"""What the registry needs from outside."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from flyball.registry.types import Lifecycle, ModelVersion, Version

__all__ = ["Tracker", "VersionStore"]


class VersionStore(Protocol):
    """Keep the truth about versions (control database)."""

    def reserve(self, model: str, run: str) -> ModelVersion:
        """Return the version name of a run, the same on every call for one run."""
        ...

    def add(self, version: Version) -> None:
        """Record a version once; the same content again changes nothing, other content raises ConflictError."""
        ...

    def get(self, model: str, version: str) -> Version:
        """Return a version; raises UnknownName with near names."""
        ...

    def list(self, model: str) -> list[Version]:
        """Return all versions of a model, oldest first."""
        ...

    def champion(self, model: str) -> Version | None:
        """Return the champion, if there is one."""
        ...

    def set_lifecycle(self, model: str, version: str, to: Lifecycle, *, now: datetime) -> None:
        """Move a version; making one champion retires the present champion in the same transaction."""
        ...

    def set_gate(self, model: str, version: str, verdict: str) -> None:
        """Record the gate's verdict."""
        ...


class Tracker(Protocol):
    """Keep runs, metrics and the public face of the registry (MLflow)."""

    def log_run(
        self,
        *,
        model: str,
        run: str,
        version: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        folder: Path,
        requirements: list[str],
        columns: list[tuple[str, str]],
    ) -> str:
        """Log a run with its artifact folder once and register the model; return the tracker's run id."""
        ...

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Mirror a lifecycle change as an alias."""
        ...
