"""What monitors report."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

__all__ = ["Alert", "DriftWindow", "FeatureDrift", "MonitorSpec", "PerformanceWindow"]


@dataclass(frozen=True, slots=True)
class MonitorSpec:
    """One monitor of a model: drift of served features per window, or a metric of matured outcomes."""

    kind: Literal["drift", "performance"]
    window: timedelta = timedelta(days=1)
    metric: str = ""
    warn: float = 0.10
    page: float = 0.15
    q: float = 0.01


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """One feature in one window against the reference.

    `distance` is Wasserstein / reference sd for numbers, Jensen-Shannon distance for categories; `usual` the
    reference's own window-to-window distance; `q` the Benjamini-Hochberg adjusted p.
    """

    feature: str
    distance: float
    usual: float
    q: float
    level: Literal["none", "warn", "page"]
    calibrated: bool


@dataclass(frozen=True, slots=True)
class DriftWindow:
    """All features of one closed window; `level` is after persistence (2 of 3 windows to page)."""

    model: str
    version: str
    start: datetime
    end: datetime
    rows: int
    level: Literal["none", "warn", "page"]
    features: tuple[FeatureDrift, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class PerformanceWindow:
    """A metric of the predictions made in a window; `coverage` is the labelled share in [0, 1]."""

    model: str
    version: str
    metric: str
    start: datetime
    end: datetime
    value: float | None
    rows: int
    coverage: float
    state: Literal["pending", "provisional", "final"]


@dataclass(frozen=True, slots=True)
class Alert:
    """A message for a person, sent once per key."""

    key: str
    at: datetime
    severity: Literal["warn", "page"]
    model: str
    text: str
    details: dict[str, str | float | int] = field(default_factory=dict)
