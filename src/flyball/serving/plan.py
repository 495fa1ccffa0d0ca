"""A routing table made ready to serve: one immutable plan per model, swapped whole.

The surprise: the features of both arms are one service. Where champion and candidate agree on their views, their
columns are united, read with one multi-get, and each arm takes its own columns; where they do not, each reads its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from flyball.features.spec import FeatureService, InputSpec, ServiceColumn
from flyball.rollout.routing import ModelRoute
from flyball.serving.batcher import ANY, SEVERAL
from flyball.serving.breaker import Breaker
from flyball.serving.models import Loaded

__all__ = ["Arm", "ModelPlan", "Reader", "make_plan", "unite"]


class Reader(Protocol):
    """Read the features of a request (features.online.OnlineReader); on a remote store also by `aread`."""

    def read(self, inputs: Mapping[str, Any], n: int, at: int, /) -> tuple[np.ndarray, np.ndarray]:
        """Return (matrix float64 (n, k), statuses uint8 (n, k)) at `at` µs."""
        ...


@dataclass(slots=True)
class Arm:
    """One version in a plan: `pick` are its columns in the reader's matrix, None for all of them."""

    name: str
    index: int  # of its counters: 0 champion, 1 candidate
    loaded: Loaded
    reader: Reader
    pick: np.ndarray | None

    @property
    def version(self) -> str:
        """The version's name."""
        return self.loaded.ref.version


class ModelPlan:
    """Everything that answers one model's requests under one table. Only `vetoed` and `inflight` change."""

    __slots__ = ("breaker", "candidate", "champion", "inflight", "inputs", "pinned", "route", "table", "vetoed")

    def __init__(
        self, route: ModelRoute, table: int, champion: Arm, candidate: Arm | None, pinned: dict[str, Arm]
    ) -> None:
        """Compose loaded arms; `pinned` are the versions that may be asked for by name."""
        self.route = route
        self.table = table
        self.champion = champion
        self.candidate = candidate
        self.pinned = pinned
        self.inputs = _inputs(champion, candidate)
        self.breaker = Breaker()
        self.vetoed = False
        self.inflight = 0

    @property
    def identity(self) -> tuple[str, str | None, str]:
        """What a veto belongs to: model, rollout, candidate digest."""
        return self.route.model, self.route.rollout, self.candidate.loaded.ref.digest if self.candidate else ""

    def candidate_deadline(self, deadline: float) -> float:
        """Return when the candidate must have answered so that the champion still can before `deadline`.

        Kept back for the champion are its p99, or a tenth of what is left (at most 50 ms) when that is more: on a busy
        machine the p99 of a quick model is less than one pause of the scheduler.
        """
        now = time.monotonic()
        left = deadline - now
        kept = max(self.champion.loaded.batcher.p99, min(0.05, left * 0.1))
        return now + max(left - kept, left * 0.1)


def make_plan(
    route: ModelRoute,
    table: int,
    champion: Loaded,
    candidate: Loaded | None,
    warm: list[Loaded],
    read_with: Callable[[FeatureService], Reader],
) -> ModelPlan:
    """Return a model's plan; `read_with` makes the reader of a service."""
    both = unite(champion.service, candidate.service) if candidate else None
    if candidate is None or both is None:
        first = Arm("champion", 0, champion, read_with(champion.service), None)
        second = Arm("candidate", 1, candidate, read_with(candidate.service), None) if candidate else None
    else:
        service, mine, theirs = both
        reader = read_with(service)
        first = Arm("champion", 0, champion, reader, mine)
        second = Arm("candidate", 1, candidate, reader, theirs)
    if candidate is not None:
        _answer_like(champion, candidate)
    arms = [replace(arm, name="pinned") for arm in (first, second) if arm is not None]
    arms += [Arm("pinned", 0, loaded, read_with(loaded.service), None) for loaded in warm]
    return ModelPlan(route, table, first, second, {arm.version: arm for arm in reversed(arms)})


def _answer_like(champion: Loaded, candidate: Loaded) -> None:
    """Have an answer of another kind than the champion's count as a failure: callers must not see two kinds."""
    wanted = champion.batcher.columns
    if candidate.batcher.columns == ANY and wanted != ANY:
        candidate.batcher.columns = None if wanted is None else SEVERAL


def unite(a: FeatureService, b: FeatureService) -> tuple[FeatureService, np.ndarray | None, np.ndarray | None] | None:
    """Return one service for both and each one's columns in it (None for all); None when they cannot be united."""
    if a.columns == b.columns and a.views == b.views and a.at == b.at and a.inputs == b.inputs:
        return a, None, None
    views = {v.name: v for v in a.views}
    types = {i.name: i.type for i in a.inputs}
    if a.at != b.at or any(views.get(v.name, v) != v for v in b.views):
        return None
    if any(types.get(i.name, i.type) != i.type for i in b.inputs):
        return None
    columns: list[ServiceColumn] = list(a.columns)
    columns += [c for c in b.columns if c not in a.columns]
    if len({c.name for c in columns}) != len(columns):
        return None  # one name, two meanings
    inputs = list(a.inputs) + [i for i in b.inputs if i.name not in types]
    united = FeatureService(
        a.model, a.at, tuple(columns), tuple(inputs), (*a.views, *(v for v in b.views if v.name not in views))
    )
    return united, _where(columns, a), _where(columns, b)


def _where(columns: list[ServiceColumn], service: FeatureService) -> np.ndarray | None:
    if list(service.columns) == columns:
        return None
    return np.array([columns.index(c) for c in service.columns], dtype=np.intp)


def _inputs(champion: Arm, candidate: Arm | None) -> dict[str, InputSpec]:
    """Callers must send what the champion needs; what only the candidate reads is optional."""
    inputs = {i.name: i for i in champion.loaded.service.inputs}
    for spec in candidate.loaded.service.inputs if candidate else ():
        inputs.setdefault(spec.name, replace(spec, required=False))
    return inputs
