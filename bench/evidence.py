"""What a look costs: µs per log record for four guardrails, and ms from a breach to the last canary answer.

Records go through the real binner and ledger, one closed second at a time, on one core; that is CPU time, so neighbours
do not count. A breach, in time on the clock, is a real one: a simulated release whose log lies on disk, judged by the
real reconciler, which folds the second, waits for the evidence log's fsync, commits the next table and has the router
compiled from it, after which no unit goes to the candidate. Over several workers `bench/swap.py` measures the same
commit (`rollback_s`). The surprise: the fsync is most of it; nothing is acted on before what it was decided by is on
the disk.

    python bench/evidence.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime

import numpy as np

from flyball import Rollout, guard
from flyball.records.log import Batch
from flyball.records.types import Outcome, Prediction, Record
from flyball.rollout.evidence.bins import Allocation, Binner
from flyball.rollout.evidence.ledger import Ledger
from flyball.rollout.routing import RoutingTable
from flyball.rollout.types import Phase, RolloutEvent, RolloutSpec
from flyball.serving.routing.router import compile_route
from flyball.testing.scenarios import MODEL, scenario

TARGETS = {"us_per_event": 10.0, "us_per_event_few_units": 10.0, "breach_ms_p95": 10.0}
SECOND = 1_000_000
PER_SECOND = 1_000
NOW = datetime(2026, 1, 5, tzinfo=UTC)


def spec() -> RolloutSpec:
    rails = [guard.errors(), guard.latency(p99="50ms"), guard.metric("mae", margin="5%"),
             guard.metric("mse", margin="5%")]  # fmt: skip
    return Rollout(steps=["1%", "10%", "50%"], bake="12h", guardrails=rails)


def records(seconds: int, units: int, share: float) -> list[list[Record]]:
    """Return seconds of log: predictions of both arms, 0.2 % failing, 1 % slow, each with its outcome 3 s later."""
    rng = np.random.default_rng(1)
    log: list[list[Record]] = [[] for _ in range(seconds + 3)]
    for second in range(seconds):
        unit = rng.integers(units, size=PER_SECOND)
        failed, slow = rng.random(PER_SECOND) < 0.002, rng.random(PER_SECOND) < 0.01
        noise = rng.normal(size=PER_SECOND)
        for k in range(PER_SECOND):
            name, chosen = f"p{second:06d}{k:04d}", int(unit[k]) % 10_000 < share * 10_000
            at = second * SECOND + k * (SECOND // PER_SECOND)
            bad = bool(failed[k])
            log[second].append(Prediction(
                id=name, model=MODEL, version="v2" if chosen and not bad else "v1",
                arm="candidate" if chosen else "champion", table=1, unit=f"user-{unit[k]}", at=at, inputs={},
                features=[], statuses=b"", value=10.0 + float(noise[k]), error="it failed" if bad else None,
                fallback=bad and chosen, total=90_000 if slow[k] else 5_000, control=not chosen,
                why="share" if chosen else "champion",
            ))  # fmt: skip
            log[second + 3].append(Outcome(name, 10.0, at, at + 3 * SECOND))
    return log


def per_event(seconds: int, units: int, share: float) -> tuple[float, float]:
    """Return CPU time of the folding in µs per record, and of one look in ms."""
    rails = spec()
    binner, ledger = Binner(rails, model=MODEL, candidate="v2"), Ledger(rails)
    allocation = Allocation(1, "step", share)
    binner.allocate(allocation)
    ledger.allocate(allocation)
    log = records(seconds, units, share)
    count, looks = sum(map(len, log)), []
    folding = 0
    for second, rows in enumerate(log):
        begin = time.thread_time_ns()
        for closed in binner.fold([Batch("w0/a.seg", second, second + 1, rows)], (second + 1) * SECOND + SECOND):
            ledger.fold(closed)
        folding += time.thread_time_ns() - begin
        begin = time.thread_time_ns()
        ledger.evidence(Phase.STEP, share, NOW)
        looks.append(time.thread_time_ns() - begin)
    return folding / count / 1e3, float(np.median(looks)) / 1e6


def breach(seed: int) -> float:
    """Return ms from the look that finds a breach until the router sends nobody to the candidate."""
    story = scenario(steps=["10%", "50%"], bake="1h", seed=seed, guardrails=list(spec().guardrails))
    story.given_traffic(per_minute=6_000).for_("1m", every="1s").when(candidate_error_rate=0.2)
    swapped: list[int] = []
    commit = story.routes.commit

    def committed(table: RoutingTable, *, expected: int, fence: int) -> None:
        commit(table, expected=expected, fence=fence)
        router = compile_route(table.models[MODEL])
        if router is None or all(router(f"u{k}", {}, "", frozenset(), False).arm != "candidate" for k in range(100)):
            swapped.append(time.perf_counter_ns())

    story.routes.commit = committed  # type: ignore[method-assign]
    begun = 0
    tick = story.tick

    def timed() -> list[RolloutEvent]:
        nonlocal begun
        begun = time.perf_counter_ns()
        return tick()

    story.tick = timed  # type: ignore[method-assign]
    try:
        for _ in range(600):
            story.for_("1s", every="1s")
            if swapped:
                return (swapped[0] - begun) / 1e6
    finally:
        story.close()
    raise SystemExit("no breach was found; the bench is broken")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    seconds, breaches = (20, 10) if args.quick else (200, 50)
    many, look = per_event(seconds, 1_000_000, 0.1)
    few, _ = per_event(seconds, 2_000, 0.1)
    waits = [breach(seed) for seed in range(breaches)]
    figures: dict[str, float] = {
        "us_per_event": round(many, 2), "us_per_event_few_units": round(few, 2), "look_ms": round(look, 3),
        "breach_ms_median": round(float(np.median(waits)), 2),
        "breach_ms_p95": round(float(np.percentile(waits, 95)), 2),
    }  # fmt: skip
    print(f"{'four guardrails, errors, p99, mae, mse; a prediction and its outcome are two records':<86}")
    print(f"  {'a record, a million units':<50}{many:>10.2f} µs")
    print(f"  {'a record, 2,000 units that come again':<50}{few:>10.2f} µs")
    print(f"  {'a look at all evidence':<50}{look:>10.3f} ms")
    print(f"  {'breach to the last canary answer, median / p95':<50}"
          f"{figures['breach_ms_median']:>10.2f} / {figures['breach_ms_p95']:.2f} ms")  # fmt: skip
    met = {name: figures[name] <= limit for name, limit in TARGETS.items()}
    print(json.dumps({"bench": "evidence", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
