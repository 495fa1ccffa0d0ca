"""Tell a rollout as a story: given traffic, when the candidate misbehaves, then this happens.

Example:
    >>> story = scenario(steps=["5%", "50%"], bake="10m").given_traffic(per_minute=400)
    >>> _ = story.when(candidate_error_rate=0.05).for_("5m").then(phase="RolledBack", champion_weight=1.0)

The simulator writes real log segments and runs the real reconciler in domain time; nothing waits.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import numpy as np

from flyball.clock import ManualClock
from flyball.records.log import Cursor, follow
from flyball.records.segment import SegmentWriter
from flyball.records.types import Outcome, Prediction, Record, Shadow, encode
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.reconcile import Reconciler, order, start
from flyball.rollout.replay import Replay, walk
from flyball.rollout.routing import BUCKETS, ModelRoute, VersionRef
from flyball.rollout.types import GuardrailSpec, Measured, Outside, RolloutEvent, RolloutSpec, RolloutStatus
from flyball.serving.routing.router import CHAMPION as CHAMPION_ARM
from flyball.serving.routing.router import Assignment, compile_route
from flyball.testing.rollouts import MemoryRollouts, MemoryRoutes
from flyball.units import duration, to_micros

__all__ = ["Behaviour", "Scenario", "Traffic", "scenario"]

MODEL, CHAMPION, CANDIDATE = "eta", "v1", "v2"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How both arms answer. Errors of predictions are normal; `shift` moves the candidate's answer."""

    candidate_error_rate: float = 0.0
    champion_error_rate: float = 0.0
    candidate_shift: float = 0.0
    noise: float = 1.0
    candidate_latency: float = 0.005
    champion_latency: float = 0.005
    outcomes: bool = True
    veto: bool = False
    candidate_gain: float = 0.0  # how much of its distance from the truth the candidate saves, in [0, 1]


class Traffic:
    """Write the log that workers would write for requests at given times."""

    def __init__(self, root: Path, *, seed: int = 0) -> None:
        self.root = root
        self._writer = SegmentWriter(root / "w0")
        self._rng = np.random.default_rng(seed)
        self._count = 0
        self.attributes: dict[str, dict[str, float]] = {}  # attribute -> value -> share of the requests

    def send(self, route: ModelRoute, table: int, times: Sequence[int], behaviour: Behaviour) -> None:
        """Answer one request at each time (µs), under a route."""
        records: list[Record] = []
        router = compile_route(route)
        off = frozenset({"candidate"}) if behaviour.veto else frozenset()
        for at in times:
            self._count += 1
            name = f"p{self._count:08d}"
            given = CHAMPION_ARM if router is None else router(name, self._drawn(), "", off, False)
            records += self._answer(route, given, table, name, at, behaviour)
        if records:
            self._writer.append(encode(records))

    def _drawn(self) -> dict[str, str]:
        """Return the attributes of the next request."""
        drawn = {}
        for name, shares in self.attributes.items():
            point = self._rng.random() * sum(shares.values())
            for value, share in shares.items():
                drawn[name] = value
                point -= share
                if point < 0:
                    break
        return drawn

    def _answer(
        self, route: ModelRoute, given: Assignment, table: int, id: str, at: int, how: Behaviour
    ) -> list[Record]:
        candidate = given.arm == "candidate"
        truth, base = 10.0 + self._rng.normal(), 10.0 + how.noise * self._rng.normal()
        failed = self._rng.random() < (how.candidate_error_rate if candidate else how.champion_error_rate)
        mirrored = self._rng.random() < how.candidate_error_rate
        answers = {True: base + how.candidate_gain * (truth - base) + how.candidate_shift, False: base}
        prediction = Prediction(
            id=id, model=MODEL, version=CANDIDATE if candidate and not failed else CHAMPION,
            arm="candidate" if candidate else "champion", table=table, unit=id, at=at, inputs={}, features=[],
            statuses=b"", value=answers[candidate and not failed] if candidate or not failed else None,
            error="it failed" if failed else None, fallback=failed and candidate,
            total=round((how.candidate_latency if candidate else how.champion_latency) * 1e6),
            control=given.control,
            why=given.why,
        )  # fmt: skip
        records: list[Record] = [prediction]
        if candidate and not failed and route.pair:
            records.append(Shadow(id, MODEL, CHAMPION, table, id, at, answers[False]))
        elif route.candidate is not None and route.shadow > 0:
            error = "it failed" if mirrored else None
            records.append(Shadow(id, MODEL, CANDIDATE, table, id, at, None if error else answers[True], error))
        if how.outcomes:
            records.append(Outcome(id, truth, at, at))
        return records

    def close(self) -> None:
        """Close the segment."""
        self._writer.close()


class Scenario:
    """A rollout of v2 against v1 that plays in domain time."""

    def __init__(self, spec: RolloutSpec, *, skip_shadow: bool = False, seed: int = 0) -> None:
        self.spec = spec
        self._folder = Path(tempfile.mkdtemp(prefix="flyball-scenario-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.clock = ManualClock(datetime(2026, 1, 5, tzinfo=UTC))
        self.store, self.routes = MemoryRollouts(), MemoryRoutes(MODEL, CHAMPION)
        self.traffic = Traffic(self._folder / "log", seed=seed)
        self.promoted: list[str] = []
        self.retired: list[str] = []
        self.fence = 1
        self._cursor: Cursor = {}
        self._per_minute = 0.0
        self._behaviour = Behaviour()
        self._changed = self.clock.now()
        self._measured: dict[str, Measured] = {}
        self.reconciler = self._controller()
        started = start(self.store, spec, model=MODEL, candidate=CANDIDATE, champion=CHAMPION, now=self.clock.now(),
                        skip_shadow=skip_shadow)  # fmt: skip
        self.id = started.id
        self.tick()

    def given_traffic(self, *, per_minute: float) -> Self:
        """Send so many requests a minute from now on."""
        self._per_minute = per_minute
        return self

    def given_requests(self, **attributes: dict[str, float]) -> Self:
        """Give requests attributes from now on: `given_requests(country={"NL": 0.2, "DE": 0.8})`."""
        self.traffic.attributes = attributes
        return self

    def measured(self, guardrail: str, value: float | None) -> Self:
        """Say what a guardrail that is measured outside the log reads from now on, such as drift; None: unknown."""
        self._measured = {**self._measured, guardrail: Measured(value, self.clock.now())}
        self._changed = self.clock.now()
        return self

    def when(self, **behaviour: float) -> Self:
        """Change how the arms behave; names are those of `Behaviour`."""
        self._behaviour = replace(self._behaviour, **behaviour)  # type: ignore[arg-type]  # replace checks the names
        self._changed = self.clock.now()
        return self

    def ordered(self, wanted: str, reason: str = "", *, force: bool = False) -> Self:
        """Give an order and let the controller see it."""
        order(self.store, self.id, wanted, now=self.clock.now(), reason=reason, actor="story", force=force)
        self.tick()
        return self

    def restart(self) -> Self:
        """Lose the controller and let another take over under the next fence."""
        self.reconciler.close()
        self.fence += 1
        self._cursor = {}
        self.reconciler = self._controller()
        return self

    def for_(self, span: str, *, every: str = "10s") -> Self:
        """Let time pass; the controller looks `every` so often."""
        until, pause = self.clock.now() + duration(span), duration(every)
        while self.clock.now() < until:
            self.play(min(pause, until - self.clock.now()))
        return self

    def play(self, span: timedelta) -> Self:
        """Send the traffic of one span, move the clock over it, and look once."""
        begin = to_micros(self.clock.now())
        expected = self._per_minute * (span / timedelta(minutes=1))
        count = int(expected) + (self.traffic._rng.random() < expected % 1.0)
        table = self.routes.current()
        step = (span // timedelta(microseconds=1)) // max(count, 1)
        self.traffic.send(table.models[MODEL], table.version, [begin + i * step for i in range(count)], self._behaviour)
        self.clock.advance(span)
        self.tick()
        return self

    def tick(self) -> list[RolloutEvent]:
        """Let the controller look once."""
        batches = follow(self.traffic.root, self._cursor)
        return self.reconciler.step(batches, self.clock.now(), self.fence)

    def then(self, *, phase: str, champion_weight: float | None = None, within: str | None = None) -> Self:
        """Assert where the rollout stands, and that it got there in time after the last `when`."""
        status = self.status
        assert str(status.phase) == phase, f"{status.phase} is not {phase}: {status.reason}"
        if champion_weight is not None:
            route = self.routes.current().models[MODEL]
            weight = 1.0 - route.candidate_cut / BUCKETS
            assert weight == champion_weight, f"the champion has weight {weight}, not {champion_weight}"
        if within is not None:
            took = (status.finished or status.entered or self.clock.now()) - self._changed
            assert took <= duration(within), f"{phase} took {took}, more than {within}"
        return self

    @property
    def status(self) -> RolloutStatus:
        """The stored status."""
        return self.store.get(self.id)[1]

    @property
    def events(self) -> list[RolloutEvent]:
        """The recorded events."""
        return self.store.events(self.id)

    def replay(self) -> Replay:
        """Replay all verdicts from the log."""
        return walk(self.spec, self.traffic.root, self._folder / "evidence", self.id)

    def close(self) -> None:
        """Remove the files; happens by itself at the latest when the scenario is collected."""
        self.reconciler.close()
        self.traffic.close()
        self._remove()

    def _controller(self) -> Reconciler:
        return Reconciler(
            store=self.store,
            routes=self.routes,
            log_root=self.traffic.root,
            evidence_root=self._folder / "evidence",
            refs=lambda model, version: VersionRef(version, f"artifacts/{model}/{version}", "1" * 64, trusted=False),
            promoted=lambda model, version, now: self.promoted.append(version),
            rolled_back=lambda model, version, now: self.retired.append(version),
            outside=lambda spec, status, now: Outside(measured=dict(self._measured)),
        )


def scenario(
    spec: RolloutSpec | None = None,
    *,
    steps: Sequence[str | float] = ("1%", "10%", "50%"),
    bake: str = "10m",
    shadow: str = "0s",
    guardrails: Sequence[GuardrailSpec] | None = None,
    min_requests: int = 50,
    max_wait: str = "7d",
    alpha: float = 0.01,
    skip_shadow: bool = False,
    seed: int = 0,
) -> Scenario:
    """Start a rollout at midnight of Monday, 5 January 2026 (UTC).

    Args:
        spec: Any strategy, from `fb.strategy`; without one a canary of the arguments that follow.
        steps: Rising shares; a last "100%" is the promotion.
        bake: Least time at each step.
        shadow: Time for which traffic is copied first.
        guardrails: An errors guardrail unless others are given.
        min_requests: Least requests of each step.
        max_wait: After this long without a decision it pauses.
        alpha: Chance of rolling back a harmless candidate.
        skip_shadow: Start without the shadow phase.
        seed: Of the traffic.
    """
    if spec is not None:
        return Scenario(spec, skip_shadow=skip_shadow, seed=seed)
    rails = (guard.errors(margin="1pp"),) if guardrails is None else tuple(guardrails)
    made = Rollout(
        steps=[s for s in steps if s not in {"100%", 1.0}] or list(steps), bake=bake, shadow=shadow, guardrails=rails,
        min_requests=min_requests, max_wait=max_wait, alpha=alpha,
    )  # fmt: skip
    return Scenario(made, skip_shadow=skip_shadow, seed=seed)
