"""A routing table made ready to serve: one immutable plan per model, swapped whole.

The surprise: the features of all arms are one service. Where an arm agrees with those before it on the views, columns
are united, read with one multi-get, and each arm takes its own columns; where it does not, it reads its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from flyball.features.spec import FeatureService, ServiceColumn
from flyball.rollout.routing import ModelRoute
from flyball.serving.models.loading import Loaded
from flyball.serving.models.outputs import ANY, SEVERAL
from flyball.serving.protocol import Signature
from flyball.serving.routing.breaker import Breaker
from flyball.serving.routing.router import Assignment, compile_route

__all__ = ["Arm", "ModelPlan", "Reader", "control_arm", "features_of", "make_plan", "unite"]


class Reader(Protocol):
    """Read the features of a request (features.online.OnlineReader); on a remote store also by `aread`."""

    def read(self, inputs: Mapping[str, Any], n: int, at: int, /) -> tuple[np.ndarray, np.ndarray]:
        """Return (matrix float64 (n, k), statuses uint8 (n, k)) at `at` µs."""
        ...


@dataclass(slots=True)
class Arm:
    """One version in a plan: `pick` are its columns in the reader's matrix, None for all of them.

    `fields` are the reader's columns where all of them are numbers of the request, none otherwise.
    """

    name: str
    index: int  # of its counters in `slots.ARMS`
    loaded: Loaded
    reader: Reader
    pick: np.ndarray | None
    breaker: Breaker = field(default_factory=Breaker)
    fields: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Ask the reader, once."""
        self.fields = getattr(self.reader, "fields", ())

    @property
    def version(self) -> str:
        """The version's name."""
        return self.loaded.ref.version


async def features_of(arm: Arm, inputs: Mapping[str, Any], n: int, at: int, *, remote: bool) -> np.ndarray:
    """Return an arm's features of `n` rows at `at` µs, float64 (n, k), of which nothing is counted or shared.

    With `remote` the online store is behind a network, and reading it is awaited.
    """
    reader: Any = arm.reader
    matrix: np.ndarray
    matrix, _ = await reader.aread(inputs, n, at) if remote else reader.read(inputs, n, at)
    return matrix if arm.pick is None else matrix[:, arm.pick]


class ModelPlan:
    """Everything that answers one model's requests under one table. Only `off`, `control` and `inflight` change.

    `arms` are champion, candidate and variants by the names that assignments carry; an arm that could not be loaded is
    not among them, and its name is in `off`, which holds the vetoed ones. `router` is None when every unit gets the
    champion. `control` is the champion's copy in a host, which answers the control cohort while latency is compared.
    """

    __slots__ = (
        "arms", "candidate", "champion", "control", "inflight", "inputs", "off", "pinned", "protect", "route",
        "router", "table", "testers",
    )  # fmt: skip

    def __init__(self, route: ModelRoute, table: int, arms: dict[str, Arm], pinned: dict[str, Arm]) -> None:
        """Compose loaded arms; `pinned` are the versions that may be asked for by name."""
        self.route = route
        self.table = table
        self.arms = arms
        self.champion = arms["champion"]
        self.candidate = arms.get("candidate")
        self.control: Arm | None = None
        self.pinned = pinned
        self.router = compile_route(route)
        self.testers = route.testers
        self.inputs = _inputs(arms, route.serving.max_rows)
        self.off: set[str] = set()
        self.protect: Any = None  # personal.Protector of what the log must not hold in plain
        self.inflight = 0

    @property
    def vetoed(self) -> bool:
        """Whether this worker took the candidate's traffic away."""
        return "candidate" in self.off

    def arm_of(self, assignment: Assignment) -> Arm:
        """Return the arm that answers an assignment; the champion for one that is not loaded."""
        if assignment.control and self.control is not None:
            return self.control
        return self.arms.get(assignment.arm, self.champion)

    def identity(self, name: str) -> tuple[str, str | None, str]:
        """Return what a veto of an arm belongs to: model, rollout or variant, digest."""
        route = self.route
        if name == "candidate":
            return route.model, route.rollout, route.candidate.digest if route.candidate else ""
        digest = next((v.version.digest for v in route.variants if v.name == name), "")
        return route.model, f"variant {name}", digest

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
    *,
    variants: Mapping[str, Loaded] | None = None,
    control: Loaded | None = None,
) -> ModelPlan:
    """Return a model's plan; `read_with` makes the reader of a service, `control` is the champion's hosted copy."""
    loaded = {"champion": champion, "candidate": candidate, **(variants or {})}
    arms = _arms({name: one for name, one in loaded.items() if one is not None}, _places(route), read_with)
    first = arms["champion"]
    for name, arm in arms.items():
        if name != "champion":
            _answer_like(champion, arm.loaded)
    pinned = {one.ref.version: Arm("pinned", 0, one, read_with(one.service), None) for one in warm}
    for arm in reversed(arms.values()):
        pinned[arm.version] = replace(arm, name="pinned", breaker=Breaker())
    plan = ModelPlan(route, table, arms, pinned)
    if control is not None:
        plan.control = control_arm(first, control)
    return plan


def control_arm(champion: Arm, hosted: Loaded) -> Arm:
    """Return the arm of the champion's copy in a host: the same columns, the same counters."""
    _answer_like(champion.loaded, hosted)
    return replace(champion, loaded=hosted, breaker=Breaker())


def _places(route: ModelRoute) -> dict[str, int]:
    """Return where each arm is counted."""
    return {"champion": 0, "candidate": 1, **{v.name: 2 + k for k, v in enumerate(route.variants)}}


def _arms(
    loaded: Mapping[str, Loaded], places: Mapping[str, int], read_with: Callable[[FeatureService], Reader]
) -> dict[str, Arm]:
    """Make the arms; those whose services unite share one reader, and the others read with their own."""
    champion = loaded["champion"].service
    whole, members = champion, ["champion"]
    for name, one in loaded.items():
        united = unite(whole, one.service)
        if name != "champion" and united is not None:
            whole = united[0]
            members.append(name)
    reader = read_with(whole)
    columns = list(whole.columns)
    arms = {}
    for name, one in loaded.items():
        shared = name in members
        mine, pick = (reader, _where(columns, one.service)) if shared else (read_with(one.service), None)
        arms[name] = Arm(name, places[name], one, mine, pick)
    return arms


def _answer_like(champion: Loaded, other: Loaded) -> None:
    """Have an answer of another kind than the champion's count as a failure: callers must not see two kinds."""
    wanted = champion.batcher.columns
    if other.batcher.columns == ANY and wanted != ANY:
        other.batcher.columns = None if wanted is None else SEVERAL


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


def _inputs(arms: Mapping[str, Arm], max_rows: int) -> Signature:
    """Callers must send what the champion needs; what only another arm reads is optional."""
    inputs = {i.name: i for i in arms["champion"].loaded.service.inputs}
    for arm in arms.values():
        for spec in arm.loaded.service.inputs:
            inputs.setdefault(spec.name, replace(spec, required=False))
    own = arms["champion"].loaded
    return Signature.of(
        inputs.values(),
        fields=() if own.service.views else [i.name for i in own.service.inputs],
        classes=own.classes,
        width=own.batcher.columns if own.batcher.columns not in (ANY, SEVERAL) else None,
        max_rows=max_rows,
    )
