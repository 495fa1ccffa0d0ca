"""A request under way and its answer: the values that the steps of answering hand on to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flyball.records.types import Record
from flyball.serving.flow.shadow import ShadowJob
from flyball.serving.protocol import Call
from flyball.serving.routing.plan import ModelPlan

__all__ = ["Answer", "Request", "Value"]

Value = float | list[float] | None


@dataclass(slots=True)
class Answer:
    """What the caller gets; `jobs` are offered to the shadow queue after the answer is sent."""

    id: str
    values: list[Any]
    version: str
    versions: list[str] | None = None
    jobs: list[ShadowJob] | None = None
    features: str = ""  # "stale" or "defaulted" when the online store was away
    stages: tuple[int, ...] = ()  # µs of parse, features, wait, model


@dataclass(slots=True)
class Request:
    """One request under way; times in ns, `features` by reader so that two arms read once if they can."""

    plan: ModelPlan
    call: Call
    id: str
    at: int
    deadline: float
    started: int
    parsed: int
    values: list[Value]
    versions: list[str]
    records: list[Record]
    jobs: list[ShadowJob]
    error: str | None = None
    features: dict[int, tuple[np.ndarray, np.ndarray]] | None = None
    read: int = 0  # ns spent on reading features
    state: str = ""  # "stale" or "defaulted" when a read was answered by policy
    stages: tuple[int, ...] = ()  # of the last arm asked
