"""What datasets need from outside."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from flyball.datasets.types import DatasetManifest

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import FeatureService

__all__ = ["DatasetStore", "ServedLog"]


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


class ServedLog(Protocol):
    """Read the prediction log with its outcomes."""

    def answered(self, model: str, *, start: datetime, until: datetime) -> pa.Table:
        """Return a model's answered requests with `start` <= T < `until`, by (T, id), each id once.

        Columns: `id`, `unit`, `arm`, `version` (who answered), `assigned` (whose features were read, "" where nobody
        knows any more), `read`, `protected` (strings), `at` (int64 µs), `fallback`, `features` (lists of float64),
        `inputs`, `inputs_exact`, `prediction` (float64, null where it is a list); of the newest revision received until
        `until`: `outcome` (float64), `event`, `received` (int64 µs), null where there is none.
        """
        ...

    def service(self, model: str, version: str) -> FeatureService | None:
        """Return what a version reads, None when that is not known any more."""
        ...
