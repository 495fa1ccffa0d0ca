"""What becomes of an experiment: scheduled, starting, running, stopping, stopped. Values and pure decisions.

The surprise: starting and stopping are states, not moments. What is stored comes before what is routed, so a process
that is killed in between leaves a state that says what is still to be done, and whoever comes next does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from flyball.errors import Refused

if TYPE_CHECKING:
    from flyball.experiments.design.types import Experiment

__all__ = ["ACTIVE", "ExperimentEvent", "ExperimentStatus", "State", "attribution", "due", "owned", "require_same"]


class State(StrEnum):
    """Where an experiment stands."""

    SCHEDULED = "scheduled"  # stored, begins at its `starts`
    STARTING = "starting"  # stored, not known to be routed
    RUNNING = "running"
    STOPPING = "stopping"  # its end is stored, its units not known to be given back
    STOPPED = "stopped"


ACTIVE = frozenset({State.SCHEDULED, State.STARTING, State.RUNNING, State.STOPPING})


@dataclass(frozen=True, slots=True)
class ExperimentStatus:
    """What an experiment's design never says: when it ran, and under which routing tables.

    Args:
        name: The experiment's.
        digest: Of the design that was stored before the first exposure.
        state: Where it stands.
        created: When it was stored.
        salt: By which its units are drawn; its own.
        served: What the log calls each arm: "champion", a version, the JSON text of a flag's value.
        started: When its units were first drawn.
        ended: When its end was stored.
        tables: First routing table that draws its units, and the first that no longer does; 0 for neither.
        reason: Why it ended.
        ship: The arm that everybody gets after its end, "" for what there was before.
        former: JSON text of the flag as it was before.
        archived: Whether lists leave it out.
        revision: Grows with each write.
    """

    name: str
    digest: str
    state: State
    created: datetime
    salt: str = ""
    served: dict[str, str] = field(default_factory=dict)
    started: datetime | None = None
    ended: datetime | None = None
    tables: tuple[int, int] = (0, 0)
    reason: str = ""
    ship: str = ""
    former: str = ""
    archived: bool = False
    revision: int = 0

    @property
    def active(self) -> bool:
        """Whether it holds units, or is about to."""
        return self.state in ACTIVE


@dataclass(frozen=True, slots=True)
class ExperimentEvent:
    """Something that happened to an experiment, in the past tense."""

    experiment: str
    at: datetime
    kind: str  # Stored | Started | Ended | Returned | Shipped | Archived
    text: str
    data: dict[str, Any] = field(default_factory=dict)


def owned(experiment: Experiment) -> str:
    """Return what nobody else may hold meanwhile: "model:eta", "flag:new_ui", "" for nothing."""
    if experiment.model:
        return f"model:{experiment.model}"
    return f"flag:{experiment.flag}" if experiment.flag else ""


def due(experiment: Experiment, status: ExperimentStatus, now: datetime) -> State | None:
    """Return the state an active experiment must be brought to at `now`; None when it stands where it should."""
    match status.state:
        case State.SCHEDULED:
            return State.RUNNING if experiment.starts is None or now >= experiment.starts else None
        case State.STARTING:
            return State.RUNNING
        case State.RUNNING:
            return State.STOPPED if experiment.ends is not None and now >= experiment.ends else None
        case State.STOPPING:
            return State.STOPPED
        case State.STOPPED:
            return None


def require_same(status: ExperimentStatus, digest: str) -> None:
    """Raise Refused unless a design is the stored one and may still run.

    Raises:
        Refused: the design was edited after it was stored, or the experiment has ended.
    """
    if status.digest != digest:
        raise Refused(
            f"experiment {status.name} was stored as {status.digest[:12]} on {status.created:%Y-%m-%d} and is now "
            f"{digest[:12]}; a design may not change once units see it. Give the new one another name"
        )
    if not status.active:
        when = f" on {status.ended:%Y-%m-%d}" if status.ended else ""
        raise Refused(f"experiment {status.name} has ended{when}; to repeat it, give it another name")


def attribution(experiment: Experiment) -> Mapping[str, tuple[timedelta, timedelta | None]]:
    """Return (starts, window) after a unit's first exposure, by metric; None for a window without end."""
    return {metric.name: (metric.starts, metric.window) for metric in experiment.metrics}
