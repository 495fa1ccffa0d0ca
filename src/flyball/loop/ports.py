"""What the loop needs from outside."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from flyball.loop.types import LoopEvent, Trigger

__all__ = ["LoopStore"]


class LoopStore(Protocol):
    """Keep triggers, freezes and the loop's story (control database)."""

    def put(self, trigger: Trigger) -> bool:
        """Record a trigger once by id; return whether it is new."""
        ...

    def update(self, trigger: Trigger) -> None:
        """Replace a trigger's state, reason, run and rollout."""
        ...

    def triggers(self, model: str) -> list[Trigger]:
        """Return a model's triggers, oldest first."""
        ...

    def record(self, event: LoopEvent) -> None:
        """Append to the story."""
        ...

    def story(self, model: str) -> list[LoopEvent]:
        """Return a model's story, oldest first."""
        ...

    def freeze(self, model: str | None, *, reason: str, now: datetime) -> None:
        """Stop the loop for one model, or for all (None)."""
        ...

    def thaw(self, model: str | None) -> None:
        """Let it turn again."""
        ...

    def frozen(self, model: str) -> str | None:
        """Return the reason when the model (or everything) is frozen, else None."""
        ...
