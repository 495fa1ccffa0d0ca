"""What training needs from outside."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from flyball.registry.artifacts import LoadedModel
from flyball.registry.evaluation import Evaluation
from flyball.training.types import Run, RunState, StageRecord

__all__ = ["Gatekeeper", "Judgement", "RunStore"]


class Judgement(Protocol):
    """Be what a gatekeeper decided."""

    @property
    def verdict(self) -> str:
        """The verdict in a word: passing, inconclusive or breached."""
        ...

    def to_json(self) -> bytes:
        """Return the whole report."""
        ...


class Gatekeeper(Protocol):
    """Judge a packaged version before it may be exposed."""

    def __call__(self, specs: Sequence[Any], loaded: LoadedModel, evaluation: Evaluation) -> Judgement:
        """Return the verdict on `loaded` with its evidence; `specs` are the model's declared gates."""
        ...


class RunStore(Protocol):
    """Keep runs and their journal (control database)."""

    def create(self, run: Run) -> None:
        """Record a new run in state PENDING."""
        ...

    def get(self, run: str) -> Run:
        """Return a run with its stages; raises UnknownName."""
        ...

    def list(self, model: str | None = None) -> list[Run]:
        """Return runs, oldest first."""
        ...

    def record_stage(self, run: str, stage: StageRecord) -> None:
        """Write a stage's record, replacing an earlier record of the same stage."""
        ...

    def set_state(
        self, run: str, state: RunState, *, now: datetime, error: str = "", version: str | None = None
    ) -> None:
        """Move a run."""
        ...

    def note(self, run: str, **values: Any) -> None:
        """Merge small JSON values into the run's notes (pid of its child, log path)."""
        ...
