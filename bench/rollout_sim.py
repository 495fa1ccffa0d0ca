"""How often is a harmless candidate rolled back, and how soon a bad one, when every second is a look?

Releases are simulated through the real ledger and its accounts (`flyball.testing.trials`): counts per bin are drawn,
not single requests, and metrics arrive as moments of normal losses. Four guardrails share an error budget of 1 %:
errors (half of it), p99 latency, mae and mse. "Found after" counts requests of the candidate. Beside them, in numpy on
the same kind of traffic, what others do: roll back when more than 1 % of the last 100 canary requests failed, and a z
test for two proportions repeated every 100 canary requests. The surprise: the threshold rolls back every healthy
release in the end, because a window of 100 with two failures comes by chance.

    python bench/rollout_sim.py [--quick] [--runs N]      # about 6 min; 30 s
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import beta, norm

from flyball import Rollout, guard
from flyball.rollout.types import RolloutSpec
from flyball.testing.trials import Arm, Stage, Verdict, trial

TARGETS = {
    "false_rollback": 0.01, "false_rollback_retries": 0.01,
    "errors_1_median": 600, "errors_1_p95": 1700, "errors_1_median_worst_share": 600, "errors_1_p95_worst_share": 1700,
    "errors_5_median": 70, "errors_5_p95": 170,
    "latency_median": 130, "latency_p95": 350, "missed_before_half": 0.02,
}  # fmt: skip
BOUND = 0.025  # of the false rollbacks, at 400 runs
ERRORS, SLOW = 0.001, 0.01
METRICS = {"mae": (1.0, 0.8), "mse": (2.0, 3.0)}
HEALTHY = Arm({"errors": ERRORS, "latency": SLOW}, METRICS)
PLAN = (Stage(0.01, 500, 20), Stage(0.1, 500, 180), Stage(0.5, 1800, 500))  # 1M canary requests
SHARES = (0.01, 0.02, 0.05, 0.1)
TAIL = 0.3  # log standard deviation of latency: p99 is twice the median


def spec(weight: float = 3.0) -> RolloutSpec:
    """Return four guardrails; errors weigh `weight`, each of the others 1."""
    rails = [guard.errors(weight=weight), guard.latency(p99="50ms"), guard.metric("mae", margin="1%"),
             guard.metric("mse", margin="1%")]  # fmt: skip
    return Rollout(steps=["1%", "10%", "50%"], bake="12h", guardrails=rails)


def many(runs: int, seed: int, plan: Sequence[Stage], bad: Arm, *, stop: bool, weight: float = 3.0,
         healthy: Arm = HEALTHY) -> list[Verdict]:  # fmt: skip
    """Run one kind of release often."""
    rails = spec(weight)
    children = np.random.SeedSequence(seed).spawn(runs)
    return [trial(rails, plan, bad, healthy, np.random.default_rng(child), stop=stop) for child in children]


def share_of(verdicts: Sequence[Verdict], holds: Callable[[Verdict], bool]) -> float:
    return sum(map(holds, verdicts)) / len(verdicts)


def interval(rate: float, runs: int) -> str:
    """Return the exact 95 % interval of a share of runs."""
    k = round(rate * runs)
    low = 0.0 if k == 0 else float(beta.ppf(0.025, k, runs - k + 1))
    high = 1.0 if k == runs else float(beta.ppf(0.975, k + 1, runs - k))
    return f"{rate:.2%} [{low:.2%}, {high:.2%}]"


def failing(rate: float, *, repeats: int = 1) -> Arm:
    return Arm({"errors": rate, "latency": SLOW}, METRICS, repeats)


def slower(times: float, tail: float = TAIL) -> Arm:
    """Return an arm whose log-normal latency is `times` as long: so many answers exceed the healthy p99."""
    slow = float(norm.sf(norm.isf(SLOW) - math.log(times) / tail))
    return Arm({"errors": ERRORS, "latency": slow}, METRICS)


def found(runs: int, seed: int, bad: Arm, *, weight: float = 3.0, rail: str = "errors") -> dict[float, Any]:
    """Return per share the median and p95 of candidate requests until the breach, and how many were missed."""
    healthy = Arm(HEALTHY.rates)  # outcomes come later than this
    bad = Arm(bad.rates)
    table = {}
    for k, share in enumerate(SHARES):
        verdicts = many(runs, seed + k, [Stage(share, 20_000, 1.0)], bad, stop=True, weight=weight, healthy=healthy)
        waits = [v.requests for v in verdicts]
        other = share_of(verdicts, lambda v: v.guardrail != rail)
        table[share] = (float(np.median(waits)), float(np.percentile(waits, 95)), other)
    return table


def last_hundred(runs: int, seed: int, requests: int = 1_000_000) -> float:
    """Return the share of healthy releases in which more than 1 % of the last 100 canary requests ever failed."""
    rng, fired = np.random.default_rng(seed), 0
    for _ in range(runs):
        at = np.cumsum(rng.geometric(ERRORS, int(requests * ERRORS * 1.5) + 50))
        at = at[at <= requests]
        fired += bool((np.diff(at) < 100).any())  # two failures within one window
    return fired / runs


def repeated_z(runs: int, seed: int, requests: int = 1_000_000, share: float = 0.1) -> float:
    """Return the share of healthy releases that a one-sided z test at 5 %, every 100 canary requests, ever stopped."""
    rng, fired, looks = np.random.default_rng(seed), 0, requests // 100
    control = round(100 * (1 - share) / share)
    n, m = 100.0 * np.arange(1, looks + 1), float(control) * np.arange(1, looks + 1)
    for _ in range(runs):
        a = np.cumsum(rng.binomial(100, ERRORS, looks))
        b = np.cumsum(rng.binomial(control, ERRORS, looks))
        pooled = (a + b) / (n + m)
        spread = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        z = np.divide(a / n - b / m, spread, out=np.zeros(looks), where=spread > 0)
        fired += bool((z[10:] > norm.isf(0.05)).any())  # nobody looks before 1,000 requests
    return fired / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--runs", type=int, help="Releases of each kind; 400, or 40 with --quick.")
    args = parser.parse_args()
    runs = args.runs or (40 if args.quick else 400)
    began = time.perf_counter()
    figures: dict[str, Any] = {"runs": runs}

    same = many(runs, 1, PLAN, HEALTHY, stop=False)
    figures["false_rollback"] = share_of(same, lambda v: bool(v.guardrail))
    equal = many(runs // 2, 2, PLAN, HEALTHY, stop=False, weight=1.0)
    figures["false_rollback_equal_weights"] = share_of(equal, lambda v: bool(v.guardrail))
    tries = failing(ERRORS, repeats=5)
    again = many(runs, 3, PLAN, tries, stop=False, healthy=tries)
    figures["false_rollback_retries"] = share_of(again, lambda v: bool(v.guardrail))
    figures["usual_last_hundred"] = last_hundred(runs, 4)
    figures["usual_repeated_z"] = repeated_z(runs, 5)
    print("equal versions, 1M canary requests: share rolled back, with its exact 95 % interval")
    for name, rate, n in (
        ("four guardrails, 1 % in all", figures["false_rollback"], runs),
        ("the same, equal weights", figures["false_rollback_equal_weights"], runs // 2),
        ("the same, failing users send 5", figures["false_rollback_retries"], runs),
        ("errors above 1 % of the last 100", figures["usual_last_hundred"], runs),
        ("z test at 5 % every 100 requests", figures["usual_repeated_z"], runs),
    ):
        print(f"  {name:<36}{interval(rate, n):>28}")

    print("\nrequests of the candidate until a breach: median / p95 (missed)")
    print(f"  {'share of the candidate':<36}" + "".join(f"{s:>16.0%}" for s in SHARES))
    cases: dict[str, tuple[Arm, float, str]] = {
        "errors_1": (failing(0.01), 3.0, "errors"), "errors_5": (failing(0.05), 3.0, "errors"),
        "errors_1_equal_weights": (failing(0.01), 1.0, "errors"),
        "errors_5_equal_weights": (failing(0.05), 1.0, "errors"),
        "latency": (slower(1.5), 3.0, "latency"), "latency_long_tail": (slower(1.5, 0.5), 3.0, "latency"),
    }  # fmt: skip
    for seed, (name, (bad, weight, rail)) in enumerate(cases.items(), start=10):
        table = found(runs, seed * 100, bad, weight=weight, rail=rail)
        for word, column in (("median", 0), ("p95", 1)):
            figures[f"{name}_{word}"] = table[SHARES[0]][column]
            figures[f"{name}_{word}_worst_share"] = max(row[column] for row in table.values())
        figures[f"{name}_missed"] = max(row[2] for row in table.values())
        print(f"  {name:<36}" + "".join(f"{f'{m:,.0f} / {p:,.0f} ({x:.0%})':>16}" for m, p, x in table.values()))
    print("  errors 0.1 % -> 1 % and 5 %; latency x 1.5 where p99 is 2.0 (long tail: 3.2) times the median")

    base = 0.01  # errors of the champion; 1M requests a day, 12 h a step
    usual = Arm({"errors": base, "latency": SLOW})
    worse = Arm({"errors": 1.5 * base, "latency": SLOW})
    plan = (Stage(0.01, 500, 10), Stage(0.1, 500, 100), Stage(0.5, 500, 500))
    half = many(runs, 6, plan, worse, stop=False, healthy=usual)
    early = many(runs, 7, plan[:2], worse, stop=False, healthy=usual)
    figures["missed_before_half"] = share_of(early, lambda v: not v.guardrail)
    figures["missed_at_half"] = share_of(half, lambda v: not v.guardrail)
    before, after = (interval(figures[name], runs) for name in ("missed_before_half", "missed_at_half"))
    print("\n1 % -> 1.5 % errors, steps 1 / 10 / 50 %, 12 h each at 1M requests a day: "
          f"missed before 50 % {before}, after it {after}")  # fmt: skip
    figures["seconds"] = round(time.perf_counter() - began, 1)
    met = {name: figures[name] <= limit for name, limit in TARGETS.items()}
    print(json.dumps({"bench": "rollout_sim", "figures": figures, "targets": TARGETS, "bound": BOUND, "met": met}))


if __name__ == "__main__":
    main()
