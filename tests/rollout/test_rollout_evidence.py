"""From log records to bins to evidence, in small examples."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy import stats

from flyball.records.log import Batch
from flyball.records.types import Outcome, Prediction, Shadow
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.evidence.bins import Allocation, Binner
from flyball.rollout.evidence.ledger import Ledger, alphas
from flyball.rollout.explain import forecast
from flyball.rollout.types import Phase
from flyball.testing.scenarios import scenario

SECOND = 1_000_000
NOW = datetime(1970, 1, 2, tzinfo=UTC)


def spec(*rails, **more):
    rails = rails or (guard.errors(), guard.metric("mae", margin="5%"))
    return Rollout(steps=["10%", "50%"], bake="1h", guardrails=rails, **more)


def prediction(id, at, *, arm="candidate", table=1, unit=None, value=1.0, **more):
    version = "v2" if arm == "candidate" else "v1"
    return Prediction(id, "eta", version, arm, table, unit or id, at, {}, [], b"", value, **more)


def pair(id, at, value, *, version="v1", table=1):
    return Shadow(id, "eta", version, table, id, at, value)


class Fold:
    """A binner and a ledger under one allocation."""

    def __init__(self, of, kind="step", share=0.1):
        self.binner = Binner(of, model="eta", candidate="v2")
        self.ledger = Ledger(of)
        self.share = share
        self.allocate(1, kind, share)

    def allocate(self, table, kind, share):
        allocation = Allocation(table, kind, share, pair=True)
        self.binner.allocate(allocation)
        self.ledger.allocate(allocation)

    def __call__(self, *records, now):
        closed = self.binner.fold([Batch("w0/a.seg", 0, 1, list(records))], now)
        for each in closed:
            self.ledger.fold(each)
        return closed

    def evidence(self, phase=Phase.STEP):
        return self.ledger.evidence(phase, self.share, NOW)


def test_bins_close_by_domain_time_and_late_records_join_the_next_open_one():
    fold = Fold(spec())
    assert [b.second for b in fold(prediction("a", 0), prediction("b", 5 * SECOND), now=2 * SECOND)] == [0]
    assert [b.second for b in fold(prediction("late", 1), now=3 * SECOND)] == [2]
    assert [b.second for b in fold(now=9 * SECOND)] == [5]


def test_a_unit_that_fails_often_within_ten_minutes_counts_once():
    fold = Fold(spec())
    rows = [prediction(f"r{i}", i * SECOND, unit="bot", error="no", fallback=True) for i in range(599)]
    fold(*rows, now=700 * SECOND)
    assert (fold.evidence().candidate.errors, fold.evidence().candidate.episodes) == (599, 1)
    fold(prediction("again", 700 * SECOND, unit="bot", error="no", fallback=True), now=800 * SECOND)
    assert fold.evidence().candidate.episodes == 2


def test_records_count_by_their_table():
    fold = Fold(spec())
    fold(prediction("before", 0, table=0), prediction("other", 0, table=1), now=SECOND)
    fold.allocate(5, "step", 0.5)
    fold(prediction("old", SECOND, table=4), prediction("new", SECOND, table=5), now=2 * SECOND)
    assert fold.evidence().in_phase == 2
    fold.share = 0.5
    assert fold.evidence().in_phase == 1


def test_chosen_assignments_are_no_evidence():
    fold = Fold(spec())
    rows = [prediction(w, 0, error="no", why=w) for w in ("header", "kill switch", "version")]
    fold(*rows, now=SECOND)
    assert fold.evidence().candidate.requests == 0


def test_a_veto_is_a_verdict_when_it_lasts():
    fold = Fold(spec())
    vetoed = [prediction(f"v{i}", i * 20 * SECOND, arm="champion", why="veto") for i in range(5)]
    fold(*vetoed[:4], now=70 * SECOND)
    assert fold.evidence().vetoed == ""
    fold(vetoed[4], now=90 * SECOND)
    assert "out of traffic" in fold.evidence().vetoed
    assert fold.evidence().control.requests == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 2, 1)])
def test_outcomes_join_pairs_in_any_order(order):
    fold = Fold(spec())
    for i in range(60):
        rows = [prediction(f"p{i}", i, value=3.0), pair(f"p{i}", i, 2.5), Outcome(f"p{i}", 2.0, i, i)]
        for k in order:
            fold(rows[k], now=(3 * i + k + 1) * SECOND)
    fold(now=10_000 * SECOND)
    mae = fold.evidence().guardrails[1]
    assert (mae.samples, mae.harm, mae.breached) == (60, 0.5, True)


def test_a_fallback_counts_as_an_error_and_its_outcome_for_nobody():
    fold = Fold(spec())
    fold(prediction("f", 0, error="no", fallback=True), Outcome("f", 2.0, 0, 0), now=5 * SECOND)
    assert fold.evidence().candidate.errors == 1
    assert fold.evidence().guardrails[1].samples == 0


def test_rows_without_a_pair_are_compared_by_arm():
    fold = Fold(spec())
    fold.allocate(2, "step", 0.1)
    fold.binner.allocations[1] = Allocation(2, "step", 0.1, pair=False)
    rng = np.random.default_rng(1)
    rows = []
    for i in range(600):
        arm = "candidate" if i % 4 == 0 else "champion"
        value = 2.0 + rng.normal() + (3.0 if arm == "candidate" else 0.0)
        rows += [prediction(f"p{i}", i, arm=arm, table=2, value=value), Outcome(f"p{i}", 2.0, i, i)]
    fold(*rows, now=10 * SECOND)
    mae = fold.evidence().guardrails[1]
    assert (mae.samples, mae.breached) == (150, True)


def test_several_rows_of_a_unit_are_one_value():
    fold = Fold(spec())
    for i in range(60):
        p = prediction(f"p{i}", i, unit="u", value=3.0)
        fold(p, pair(f"p{i}", i, 2.0), Outcome(f"p{i}", 2.0, i, i), now=(i + 1) * SECOND)
    fold(now=10_000 * SECOND)
    assert fold.evidence().guardrails[1].samples == 1


def test_shadow_answers_count_as_the_candidates():
    fold = Fold(spec(), kind="shadow", share=1.0)
    rows = []
    for i in range(100):
        rows += [prediction(f"p{i}", i, arm="champion"), pair(f"p{i}", i, 1.0, version="v2")]
    fold(*rows, now=10 * SECOND)
    seen = fold.evidence(Phase.SHADOW)
    assert (seen.in_phase, seen.control.requests) == (100, 100)


def test_a_broken_split_is_held():
    fold = Fold(spec())
    fold(*[prediction(f"p{i}", i, arm="candidate" if i % 2 else "champion") for i in range(400)], now=10 * SECOND)
    assert fold.evidence().mismatch


def test_the_budget_is_split_by_weight():
    assert alphas(spec(guard.errors(weight=3), guard.metric("mae", margin="5%"))) == pytest.approx([0.0075, 0.0025])


def test_no_errors_are_safe_only_after_enough_answers():
    fold = Fold(spec(guard.errors()))
    fold(*[prediction(f"a{i}", i) for i in range(200)], now=10 * SECOND)
    assert not fold.evidence().guardrails[0].safe
    fold(*[prediction(f"b{i}", 20 * SECOND + i) for i in range(1000)], now=30 * SECOND)
    assert fold.evidence().guardrails[0].safe


def test_whole_rollouts_of_equal_versions_are_seldom_rolled_back():
    rolled_back = 0
    rails = [guard.errors(margin="1pp"), guard.metric("mae", margin="5%")]
    for seed in range(40):
        story = scenario(steps=["10%", "50%"], bake="30m", guardrails=rails, seed=seed).given_traffic(per_minute=60)
        story.when(candidate_error_rate=0.02, champion_error_rate=0.02).for_("70m", every="1m")
        rolled_back += str(story.status.phase) == "RolledBack"
        story.close()
    assert rolled_back <= stats.binom.ppf(0.999, 40, 0.01)


def test_the_forecast_gives_days_and_says_when_traffic_is_too_thin():
    of = Rollout(shadow="6h", steps=["1%", "10%"], bake="12h", guardrails=[guard.errors()])
    told = forecast(of, per_day=20_000)
    assert [d["share"] for d in told["detect"]] == [0.01, 0.1]
    assert all(100 < d["candidate_requests"] < 900 for d in told["detect"])
    assert told["promote_days"] == pytest.approx(0.25 + 1.0 + 0.5, abs=0.6)
    assert forecast(of, per_day=0)["promote_days"] is None
    slow = forecast(of, per_day=200, matures=timedelta(hours=2))
    assert slow["promote_days"] > told["promote_days"]


@pytest.mark.parametrize(("why", "mismatch"), [("veto", False), ("kill switch", False), ("header", True)])
def test_units_that_a_veto_took_away_are_not_missing_from_the_split(why, mismatch):
    fold = Fold(spec(), share=0.5)
    rows = [prediction(f"c{k}", k * 1000, unit=f"cu{k}", why="share") for k in range(300)]
    rows += [prediction(f"x{k}", k * 1000, arm="champion", unit=f"xu{k}", why=why) for k in range(300)]
    rows += [prediction(f"b{k}", k * 1000, arm="champion", unit=f"u{k}", why="champion") for k in range(600)]
    fold(*rows, now=5 * SECOND)
    found = fold.evidence()
    assert found.mismatch is mismatch
    assert (found.candidate.requests, found.control.requests) == (300, 600)


def test_a_request_that_two_workers_answered_counts_once():
    fold = Fold(spec())
    twice = [prediction("x1", SECOND, unit="a"), prediction("x1", 2 * SECOND, unit="a")]
    plain = [prediction("01", SECOND, unit="b"), prediction("01", 2 * SECOND, unit="b")]  # cannot be one request
    fold(*twice, *plain, now=9 * SECOND)
    assert fold.evidence().candidate.requests == 3


def test_a_failed_try_and_the_answer_to_its_retry_both_count():
    fold = Fold(spec())
    failed = [prediction("x1", SECOND, unit="a", error="no", fallback=True)] * 2
    fold(*failed, prediction("x1", 2 * SECOND, unit="a"), now=9 * SECOND)
    found = fold.evidence().candidate
    assert (found.requests, found.errors) == (2, 1)


def test_a_mirrored_row_of_a_request_sent_twice_counts_once():
    fold = Fold(spec(), kind="shadow", share=1.0)
    fold(*[pair("x1", SECOND, 1.0, version="v2")] * 2, pair("02", SECOND, 1.0, version="v2"), now=9 * SECOND)
    assert fold.evidence(Phase.SHADOW).candidate.requests == 2
