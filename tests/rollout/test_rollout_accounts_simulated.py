"""What the accounts promise, by simulation: all guardrails together, watched after every bin.

Repetitions are stated with each test; the tolerance is the 0.999 quantile of the binomial law at the promised level.
"""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy import stats

from flyball.experiments.sequential.odds import OddsProcess
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.evidence.accounts.quantiles import Buckets
from flyball.rollout.evidence.accounts.rates import RateAccount
from flyball.rollout.evidence.accounts.stretch import Stretch
from flyball.rollout.evidence.bins import Allocation, Bin, Counts, Failure, Row
from flyball.rollout.evidence.ledger import Ledger
from flyball.rollout.evidence.unit_store import UnitStore
from flyball.rollout.types import Phase

NOW = datetime(1970, 1, 2, tzinfo=UTC)
ALPHA = 0.01


def most(runs: int, level: float) -> int:
    return int(stats.binom.ppf(0.999, runs, level))


def played(spec, rng, *, share, bins, per_bin, rates, retries=1):
    """Return whether a release of equal versions is ever rolled back: users fail, and try again `retries` times."""
    ledger = Ledger(spec)
    ledger.allocate(Allocation(1, "step", share))
    rails = [n for n, rail in enumerate(spec.guardrails) if rail.kind in {"errors", "latency", "timeouts", "fallbacks"}]
    for second in range(bins):
        n = [int(k) for k in rng.binomial(per_bin, [share, 1 - share])]
        cohort = [n[0], min(n[1], n[0])]
        failures, first, extra = [], {}, [0, 0]
        for rail in rails:
            of = cohort if spec.guardrails[rail].kind == "latency" else n
            failed = [int(rng.binomial(k, rates[rail])) for k in of]
            first[rail] = failed
            for arm in (0, 1):
                extra[arm] += failed[arm] * (retries - 1)
                for one in range(failed[arm]):
                    unit = ((second * 10 + rail) * 2 + arm) * 1000 + one + 1
                    failures += [Failure(0, rail, arm, unit, second * 1_000_000)] * retries
        rows = [
            Row(0, 0, 0.0, float(v) if arm == 0 else None, None if arm == 0 else float(v))
            for arm in (0, 1) for v in rng.normal(0, 1, n[arm])
        ]  # fmt: skip
        counts = Counts([n[k] + extra[k] for k in (0, 1)], [0, 0], n, n, cohort, first)
        ledger.fold(Bin(second, {0: counts}, failures, rows, newest=second * 1_000_000))
    found = ledger.evidence(Phase.STEP, share, NOW).guardrails
    return any(rail.breached for rail in found)


@pytest.mark.parametrize(("share", "retries"), [(0.1, 1), (0.5, 5)])
def test_equal_versions_are_seldom_rolled_back_by_all_guardrails_together(share, retries):
    """40 runs of 100 looks at six guardrails; promised: 1 %."""
    rails = (
        guard.errors(max="5%"), guard.timeouts(), guard.latency(p99="50ms"), guard.metric("mae", margin="0.00001"),
        replace(guard.metric("mse", max=1.03), name="mse"), replace(guard.errors(), name="more errors"),
    )  # fmt: skip
    spec = Rollout(steps=[share], bake="1h", guardrails=rails, alpha=ALPHA)
    rng, rates = np.random.default_rng(21), {0: 0.02, 1: 0.01, 2: 0.03, 5: 0.2}
    runs = 40
    back = sum(played(spec, rng, share=share, bins=100, per_bin=30, rates=rates, retries=retries) for _ in range(runs))
    assert back <= most(runs, ALPHA)


def blocks(account, rng, *, p_c, p_b, n_c, n_b, bins):
    """Feed bins of exposures with first failures; return candidate exposures until the breach, None without one."""
    stretch, allocation = Stretch(), Allocation(1, "step", n_c / (n_c + n_b))
    f_c, f_b = rng.binomial(n_c, p_c, bins), rng.binomial(n_b, p_b, bins)
    for k in range(bins):
        counts = Counts([n_c, n_b], [0, 0], [n_c, n_b], [n_c, n_b], [0, 0], {0: [int(f_c[k]), int(f_b[k])]})
        stretch.add(counts)
        account.count(0, counts)
        account.fail(0, int(f_c[k]), int(f_b[k]), stretch, allocation)
        if account.evidence([stretch]).breached if k % 20 == 19 else account._breached:
            return (k + 1) * n_c
    return None


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_common_failures_of_equal_versions_breach_nothing(rate):
    """40 runs of 60 looks, base rates from 1 % to 50 %; promised: 1 %."""
    rng, runs = np.random.default_rng(22), 40
    found = [
        blocks(RateAccount(guard.errors(), ALPHA), rng, p_c=rate, p_b=rate, n_c=20, n_b=60, bins=60)
        for _ in range(runs)
    ]
    assert sum(x is not None for x in found) <= most(runs, ALPHA)


def test_where_failures_are_common_the_exact_law_finds_harm_sooner_than_the_odds_alone():
    """30 runs of 30 % against 40 %: median candidate exposures, with and without the hypergeometric part."""
    rng = np.random.default_rng(23)
    both, alone = [], []
    for _ in range(30):
        seed = rng.integers(1 << 30)
        found = blocks(RateAccount(guard.errors(), ALPHA), np.random.default_rng(seed), p_c=0.4, p_b=0.3, n_c=20, n_b=20,
                       bins=200)  # fmt: skip
        both.append(found or 4020)
        process, draw = OddsProcess(), np.random.default_rng(seed)
        f_c, f_b = draw.binomial(20, 0.4, 200), draw.binomial(20, 0.3, 200)
        when = 4020
        for k in range(200):
            process = process.fail(candidate=int(f_c[k]), control=int(f_b[k]), odds=1.0)
            if process.breached(ALPHA):
                when = (k + 1) * 20
                break
        alone.append(when)
    assert np.median(both) < 0.85 * np.median(alone)


def test_quantile_bounds_hold_at_all_looks_together():
    """50 runs, a look at every 20 % growth up to 1,000 values: the true 0.9 quantile is inside at 5 + 5 %."""
    rng, runs, missed = np.random.default_rng(24), 50, [0, 0]
    true = float(stats.lognorm.ppf(0.9, 1.0))
    for _ in range(runs):
        buckets, due, wrong = Buckets(UnitStore()), 20.0, [False, False]
        for n, value in enumerate(rng.lognormal(0, 1, 1000), start=1):
            buckets.add(0, float(value))
            if n >= due:
                due = n * 1.2
                low, high = buckets.bounds(0.9, lower=0.05, upper=0.05)
                wrong = [wrong[0] or low > true, wrong[1] or high < true]
        missed = [missed[0] + wrong[0], missed[1] + wrong[1]]
    assert max(missed) <= most(runs, 0.05)


def test_scores_of_one_distribution_never_lie_apart_for_certain():
    """30 runs of 1,000 scores an arm against a distance of 0.02, watched all along; promised: 1 %."""
    spec = Rollout(steps=["50%"], bake="1h", guardrails=[guard.shift(by="distance", max=0.02)], alpha=ALPHA)
    rng, back = np.random.default_rng(25), 0
    for _ in range(30):
        ledger = Ledger(spec)
        ledger.allocate(Allocation(1, "step", 0.5))
        for second in range(10):
            rows = [Row(0, 0, 0.0, float(a), float(b), -1, True) for a, b in rng.normal(0, 1, (100, 2))]
            ledger.fold(Bin(second, {}, [], rows))
        back += ledger.evidence(Phase.STEP, 0.5, NOW).guardrails[0].breached
    assert back <= most(30, ALPHA)
