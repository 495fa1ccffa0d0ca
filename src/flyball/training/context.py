"""The outside of a run: stores, engine, clock, limits. The composition root fills it in, the stages only use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flyball.clock import Clock
from flyball.datasets.ports import DatasetStore, ServedLog
from flyball.features.ports import OfflineEngine
from flyball.layout import Layout
from flyball.registry.ports import Tracker, VersionStore
from flyball.settings import TrainingSettings
from flyball.training.ports import Gatekeeper, RunStore

__all__ = ["StageContext", "quiet"]


def quiet(stage: str, state: str) -> None:
    """Ignore progress."""
    del stage, state


@dataclass(frozen=True, slots=True)
class StageContext:
    """What the stages reach for.

    Attributes:
        gate: Judges a packaged version; `flyball.gates.run.run_gate`.
        tracker: MLflow, or None to track nothing. Nothing of it is imported while the user's code runs: two threads
            importing at once showed `train` half-made modules.
        progress: Called with (stage, "started" | "skipped" | "done" | "failed").
        served: The prediction log, for models that learn from it.
    """

    layout: Layout
    engine: OfflineEngine
    runs: RunStore
    versions: VersionStore
    datasets: DatasetStore
    clock: Clock
    gate: Gatekeeper
    tracker: Tracker | None = None
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    progress: Callable[[str, str], None] = quiet
    served: ServedLog | None = None
