"""Simulate many releases and count verdicts: how often is a harmless candidate rolled back, how soon a bad one?

What is drawn is counts, not requests: of each bin the requests of both arms, the failing ones per guardrail and the
moments of each metric. What judges them is the real thing: failures go through `rollout.evidence.ledger.Ledger`,
metrics through the sequence that its accounts look at (`experiments.sequential.confidence.difference`) at the level
that the ledger gives them. The surprise: a test that holds at every look need only be asked at the end, since it
remembers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from flyball.experiments.sequential.confidence import difference
from flyball.experiments.stats import Moments
from flyball.rollout.evidence.bins import CANDIDATE, CONTROL, Allocation, Bin, Counts, Failure
from flyball.rollout.evidence.ledger import Ledger, alphas
from flyball.rollout.types import SAFE_ALPHA, GuardrailEvidence, Phase, RolloutSpec

__all__ = ["Arm", "Stage", "Verdict", "trial"]

_BEGIN = 1_800_000_000  # any second of domain time
_NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Arm:
    """How one version behaves.

    Args:
        rates: Share of requests (or of failing users, with `repeats`) that fail or are slow, by guardrail.
        metrics: Mean and standard deviation of each metric's loss, by guardrail; losses are normal.
        repeats: Failing requests that a user sends in a row; the user counts as one unit.
    """

    rates: Mapping[str, float]
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of constant share: `bins` looks with about `candidate` candidate requests in each."""

    share: float
    bins: int
    candidate: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one simulated release."""

    guardrail: str  # the first that was breached, "" for none
    requests: int  # candidate requests until then, or in all
    share: float  # in force at that time


def trial(
    spec: RolloutSpec,
    stages: Sequence[Stage],
    candidate: Arm,
    control: Arm,
    rng: np.random.Generator,
    *,
    stop: bool = True,
) -> Verdict:
    """Run one release and return its verdict.

    Args:
        spec: Guardrails with their weights and the error budget; its steps and times are not looked at.
        stages: What share is in force for how many bins.
        candidate: How the candidate behaves.
        control: How the champion behaves.
        rng: Where chance comes from.
        stop: Look after every bin and end at the first breach. Without, failures are asked about once, at the end, and
            whatever e-value reached its limit at any time counts as a breach: the same verdicts or more, far faster.

    Example:
        >>> from flyball import Rollout, guard
        >>> spec = Rollout(steps=["1%"], bake="1h", guardrails=[guard.errors()])
        >>> bad, good = Arm({"errors": 0.2}), Arm({"errors": 0.001})
        >>> trial(spec, [Stage(0.01, 2000, 1.0)], bad, good, np.random.default_rng(1)).guardrail
        'errors'
    """
    ledger, seen, share = Ledger(spec), 0, 0.0
    means = _Means(spec)
    for index, stage in enumerate(stages):
        share = stage.share
        ledger.allocate(Allocation(index + 1, "step", share))
        for closed, moments in _bins(spec, index, stages, candidate, control, rng):
            ledger.fold(closed)
            seen += closed.counts[index].requests[CANDIDATE]
            worse = means.look(index, moments)
            if worse:
                return Verdict(worse, seen, share)
            if stop and any(f.arm == CANDIDATE for f in closed.failures):
                found = _breached(ledger, share)
                if found:
                    return Verdict(found, seen, share)
    return Verdict(_ever_breached(ledger, share), seen, share)


def _breached(ledger: Ledger, share: float) -> str:
    rails = ledger.evidence(Phase.STEP, share, _NOW).guardrails
    return next((rail.name for rail in rails if rail.breached), "")


def _ever_breached(ledger: Ledger, share: float) -> str:
    rails = ledger.evidence(Phase.STEP, share, _NOW).guardrails
    return next((rail.name for rail in rails if rail.breached or _reached(rail)), "")


def _reached(rail: GuardrailEvidence) -> bool:
    return rail.e_value is not None and rail.limit is not None and rail.e_value >= rail.limit


class _Means:
    """The metrics of a release, stratified by stage as the ledger's account has them."""

    def __init__(self, spec: RolloutSpec) -> None:
        levels = zip(spec.guardrails, alphas(spec), strict=True)
        self._rails = [(rail.name, rail.margin, level) for rail, level in levels if rail.kind == "metric"]
        self._strata: dict[str, dict[int, tuple[Moments, Moments]]] = {name: {} for name, _, _ in self._rails}

    def look(self, stage: int, moments: Mapping[str, tuple[Moments, Moments]]) -> str:
        """Take one bin's losses of both arms and return the metric that is now known to be worse than its margin."""
        for name, margin, level in self._rails:
            if name not in moments:
                continue
            strata = self._strata[name]
            mine, theirs = strata.get(stage, (Moments(), Moments()))
            strata[stage] = (mine.merge(moments[name][CANDIDATE]), theirs.merge(moments[name][CONTROL]))
            base = Moments()
            for _, control in strata.values():
                base = base.merge(control)
            if difference([*strata.values()], lower=level, upper=SAFE_ALPHA).lower > margin.at(base.mean):
                return name
        return ""


def _bins(
    spec: RolloutSpec, index: int, stages: Sequence[Stage], candidate: Arm, control: Arm, rng: np.random.Generator
) -> Iterator[tuple[Bin, dict[str, tuple[Moments, Moments]]]]:
    """Yield a stage's closed bins, with the moments of each metric."""
    stage, first = stages[index], sum(s.bins for s in stages[:index])
    arms = (candidate, control)
    total = rng.poisson(stage.candidate / stage.share, stage.bins)
    users_c = rng.binomial(total, stage.share)
    users = (users_c, total - users_c)
    cohort = rng.binomial(users[CONTROL], min(1.0, stage.share / (1.0 - stage.share)) if stage.share < 1 else 0.0)
    timed = (users_c, cohort)
    rails = [(n, rail) for n, rail in enumerate(spec.guardrails) if rail.kind != "metric"]
    metrics = [rail.name for rail in spec.guardrails if rail.kind == "metric"]
    failing = {
        n: [rng.binomial((timed if r.kind == "latency" else users)[a], arms[a].rates.get(r.name, 0.0)) for a in (0, 1)]
        for n, r in rails
    }
    errors = [n for n, rail in rails if rail.kind == "errors"]
    losses = {name: [_moments(arms[a].metrics[name], users[a], rng) for a in (0, 1)] for name in metrics
              if name in candidate.metrics and name in control.metrics}  # fmt: skip
    for k in range(stage.bins):
        second = _BEGIN + first + k
        failures, extra = _failures(index, second, k, failing, arms)
        counts = Counts(
            requests=[int(users[a][k]) + extra[a] for a in (0, 1)],
            errors=[int(sum(failing[n][a][k] for n in errors)) * arms[a].repeats for a in (0, 1)],
            exposures=[int(users[a][k]) for a in (0, 1)],
            fresh=[int(users[a][k]) for a in (0, 1)],
            timed=[int(timed[a][k]) for a in (0, 1)],
        )
        closed = Bin(second, {index: counts}, failures, [], newest=second * 1_000_000)
        yield closed, {name: (pair[0][k], pair[1][k]) for name, pair in losses.items()}


def _failures(
    index: int, second: int, k: int, failing: Mapping[int, Sequence[np.ndarray]], arms: tuple[Arm, Arm]
) -> tuple[list[Failure], list[int]]:
    """Return the failing rows of a bin and how many further requests each arm's failing users sent."""
    failures: list[Failure] = []
    extra = [0, 0]
    for rail, pair in failing.items():
        for arm in (CANDIDATE, CONTROL):
            n, repeats = int(pair[arm][k]), arms[arm].repeats
            extra[arm] += n * (repeats - 1)
            for one in range(n):  # no user fails twice in a simulation, but for the tries in a row
                unit = 0 if repeats == 1 else (second << 24) + (arm << 20) + (rail << 16) + one + 1
                failures += [Failure(index, rail, arm, unit, second * 1_000_000)] * repeats
    return failures, extra


def _moments(loss: tuple[float, float], n: np.ndarray, rng: np.random.Generator) -> list[Moments]:
    """Return the moments of n normal losses for each bin, drawn by their own distributions instead of one by one."""
    mean, sd = loss
    at_least = np.maximum(n, 1)
    means = rng.normal(mean, sd / np.sqrt(at_least))
    squares = sd * sd * rng.chisquare(np.maximum(n - 1, 1))
    return [
        Moments() if k == 0 else Moments(int(k), float(m), float(s) if k > 1 else 0.0)
        for k, m, s in zip(n, means, squares, strict=True)
    ]
