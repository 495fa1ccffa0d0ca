"""The rule itself, on evidence made by hand: what holds, what harms, what promotes, in which order."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.strategies import strategy
from flyball.rollout.evidence.accounts.primary import verdict
from flyball.rollout.judging.contest import share_of
from flyball.rollout.judging.decide import apply, decide
from flyball.rollout.judging.storms import StormRule, storm
from flyball.rollout.types import ArmCounts, Evidence, GuardrailEvidence, Phase, RolloutStatus

NOW = datetime(2026, 1, 7, 12, tzinfo=UTC)
SAFE = GuardrailEvidence(
    "errors", False, True, e_value=0.1, limit=100.0, harm=0.0, lower=-0.1, upper=0.001, margin=0.01
)
GOOD = Evidence(
    NOW, ArmCounts(5000), ArmCounts(5000), 5000, (SAFE,), NOW - timedelta(seconds=2), units_in_phase=4000,
    control_in_phase=5000,
)  # fmt: skip
SPEC = strategy.canary(["10%", "50%"], bake="1h", guardrails=[guard.errors()])
FIRST = RolloutStatus(
    "r", "eta", "v2", "v1", Phase.STEP, 3, NOW - timedelta(days=1), step=0, entered=NOW - timedelta(hours=2), share=0.1
)
LAST = replace(FIRST, step=1, share=0.5)


def decided(spec=SPEC, status=LAST, evidence=GOOD, now=NOW):
    return decide(spec, status, evidence, now)


def test_all_that_is_good_promotes():
    assert decided().action == "promote"
    assert decided(status=FIRST).action == "set_step"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"newest": None}, "stale: the last request came never"),
        ({"newest": NOW - timedelta(minutes=11)}, "evidence is stale"),
        ({"newest": NOW + timedelta(minutes=5)}, "ahead of our clock"),
        ({"in_phase": 0}, "200 more candidate requests needed"),
        ({"control_in_phase": 0}, "only the candidate is asked"),
        ({"control_in_phase": None, "control": ArmCounts()}, "only the candidate is asked"),
        ({"incident": True}, "both arms fail together"),
        ({"mismatch": True}, "units arrive in other shares"),
        ({"guardrails": (replace(SAFE, safe=False, text="wide"),)}, "not yet shown to be safe: errors: wide"),
        ({"guardrails": (replace(SAFE, upper=math.nan),)}, "errors is not a number"),
        ({"guardrails": (SAFE, replace(SAFE, name="drift", breached=True, action="hold", text="0.4"))}, "drift holds"),
        ({"primary": replace(SAFE, name="mae", harm=math.nan)}, "mae is not a number"),
    ],
)
@pytest.mark.parametrize("status", [FIRST, LAST])
def test_what_is_missing_or_unclear_holds(change, reason, status):
    found = decided(status=status, evidence=replace(GOOD, **change))
    if "not yet shown" in reason and status is FIRST:
        assert found.action == "set_step"
        return
    assert (found.action, reason in found.reason) == ("wait", True), found.reason


@pytest.mark.parametrize("name", ["e_value", "limit", "harm", "lower", "upper", "margin", "error"])
def test_a_nan_anywhere_is_never_safe(name):
    evidence = replace(GOOD, guardrails=(replace(SAFE, **{name: math.nan}),))
    assert decided(evidence=evidence).action == "wait"


def test_a_clock_that_went_back_holds():
    found = decided(now=NOW - timedelta(hours=3))
    assert (found.action, "the clock went back" in found.reason) == ("wait", True)


def test_a_clock_that_jumped_ahead_finds_its_evidence_stale():
    assert "stale" in decided(now=NOW + timedelta(days=2)).reason


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.SHADOW, Phase.STEP, Phase.PAUSED])
def test_harm_rolls_back_from_everywhere_but_holding_guardrails_do_not(phase):
    status = replace(LAST, phase=phase, resume=Phase.STEP if phase is Phase.PAUSED else None)
    rolls = replace(SAFE, breached=True, safe=False, text="too many")
    assert decided(status=status, evidence=replace(GOOD, guardrails=(rolls,))).action == "roll_back"
    holds = replace(rolls, action="hold")
    assert decided(status=status, evidence=replace(GOOD, guardrails=(holds,))).action != "roll_back"


def test_a_remembered_breach_rolls_back_though_its_numbers_are_lost():
    rail = replace(SAFE, breached=True, safe=False, harm=math.nan)
    assert decided(evidence=replace(GOOD, guardrails=(rail,))).action == "roll_back"


def test_patience_ends_in_a_pause_with_the_reason():
    late = replace(LAST, entered=NOW - timedelta(days=8))
    found = decided(status=late, evidence=replace(GOOD, incident=True))
    assert (found.action, found.reason) == (
        "pause", "no verdict within 7 d: both arms fail together; the ramp waits until that is over"
    )  # fmt: skip


def test_a_step_holds_for_whole_weeks_and_units():
    spec = strategy.canary([strategy.step("50%", weeks=1, min_units=4500)], bake="1h", guardrails=[guard.errors()])
    status = replace(FIRST, share=0.5)
    assert "left of 1 whole week" in decided(spec, status).reason
    later = NOW + timedelta(days=7)
    fresh = replace(GOOD, newest=later)
    assert decided(spec, status, fresh, later).reason == "not enough data yet: 500 more units needed"
    assert decided(spec, status, replace(fresh, units_in_phase=4500), later).action == "promote"


def test_a_hold_longer_than_max_wait_is_no_lack_of_a_verdict():
    spec = strategy.canary(["50%"], bake="10d", max_wait="7d")
    for days, action in ((9, "wait"), (16, "wait"), (17, "pause")):
        status = replace(FIRST, share=0.5, entered=NOW - timedelta(days=days))
        assert decided(spec, status, replace(GOOD, in_phase=0)).action == action


def test_a_step_may_have_holds_of_its_own():
    spec = strategy.canary([strategy.step("50%", bake="3h", min_requests=9000)], bake="1h")
    status = replace(FIRST, share=0.5)
    assert decided(spec, status).reason == "1 h of bake time left"
    assert "4000 more candidate requests" in decided(spec, replace(status, entered=NOW - timedelta(hours=4))).reason


def test_all_the_traffic_needs_no_control():
    spec = strategy.blue_green(shadow="1h", bake="1h", guardrails=[guard.errors()])
    status = replace(FIRST, share=1.0)
    assert decided(spec, status, replace(GOOD, control_in_phase=0)).action == "promote"


def test_a_bandit_waits_for_its_pace_and_keeps_when_it_began():
    spec = strategy.bandit(primary=guard.metric("mae", margin="0"), bake="1h", pace="1h")
    primary = GuardrailEvidence("mae", False, False, harm=-0.1, lower=-0.5, upper=0.3, error=0.1, samples=900)
    evidence = replace(GOOD, primary=primary)
    status = replace(FIRST, share=0.5, began=NOW - timedelta(hours=5))
    assert decided(spec, replace(status, entered=NOW - timedelta(minutes=59)), evidence).action == "wait"
    found = decided(spec, status, evidence)
    assert (found.action, found.step, found.share) == ("set_step", 0, 0.84)
    moved = apply(status, found, NOW)
    assert (moved.began, moved.entered, moved.share) == (status.began, NOW, 0.84)


@given(harm=st.floats(-5, 5), error=st.floats(1e-6, 5), floor=st.sampled_from([0.01, 0.1, 0.25]))
def test_a_bandits_share_is_mirrored_when_the_arms_are(harm, error, floor):
    mine = share_of(GuardrailEvidence("m", False, False, harm=harm, error=error, samples=99), floor=floor)
    theirs = share_of(GuardrailEvidence("m", False, False, harm=-harm, error=error, samples=99), floor=floor)
    assert floor <= mine <= 1 - floor
    assert mine + theirs == pytest.approx(1.0, abs=0.0101)


@given(lower=st.floats(-1, 1), width=st.floats(0.001, 1), margin=st.sampled_from([0.0, 0.1]))
def test_swapping_the_arms_turns_better_into_worse(lower, width, margin):
    found = GuardrailEvidence("m", False, False, lower=lower, upper=lower + width, margin=margin)
    swapped = replace(found, lower=-found.upper, upper=-found.lower)
    if verdict(found) == "better":
        assert verdict(swapped) == "worse"
    if margin == 0.0 and verdict(found) == "worse":
        assert verdict(swapped) == "better"


def test_only_rollbacks_by_evidence_make_a_storm():
    def over(hours, fault, phase=Phase.ROLLED_BACK):
        return replace(LAST, id=f"r{hours}", phase=phase, finished=NOW - timedelta(hours=hours), fault=fault)

    calm = [over(1, "abort"), over(2, "table"), over(3, "primary"), over(4, ""), over(5, "errors", Phase.PROMOTED)]
    faults = [over(10, "errors"), over(30, "veto"), over(50, "latency")]
    assert storm(calm + faults[:2], "eta", NOW) is None
    found = storm(calm + faults, "eta", NOW)
    assert found.until == NOW - timedelta(hours=50) + timedelta(days=7)
    assert storm(faults, "other", NOW) is None
    assert storm(faults, "eta", found.until) is None
    assert storm(faults, "eta", NOW, StormRule(rollbacks=4)) is None
    assert storm(faults, "eta", NOW, StormRule(window=timedelta(hours=20))) is None


_RAILS = st.builds(
    GuardrailEvidence, name=st.just("errors"), breached=st.booleans(), safe=st.booleans(),
    harm=st.sampled_from([None, 0.0, math.nan]), upper=st.sampled_from([None, 0.0, math.nan, math.inf]),
    action=st.sampled_from(["roll_back", "hold"]),
)  # fmt: skip
_EVIDENCE = st.builds(
    Evidence, at=st.just(NOW), candidate=st.just(ArmCounts(9)), control=st.just(ArmCounts(9)),
    in_phase=st.sampled_from([0, 199, 200]), guardrails=st.lists(_RAILS, max_size=2).map(tuple),
    newest=st.sampled_from([None, NOW, NOW - timedelta(days=1), NOW + timedelta(days=1)]),
    vetoed=st.sampled_from(["", "hard"]), incident=st.booleans(), mismatch=st.booleans(),
    control_in_phase=st.sampled_from([None, 0, 200]),
    primary=st.none() | st.builds(GuardrailEvidence, name=st.just("mae"), breached=st.just(False), safe=st.just(False),
                                  lower=st.sampled_from([None, -1.0, 1.0, math.nan]),
                                  upper=st.sampled_from([None, -0.5, 2.0, math.nan])),
)  # fmt: skip
_MAE = guard.metric("mae", margin="0.1")
_SPECS = [
    SPEC, strategy.blue_green(shadow="1h", bake="1h"), strategy.ab(primary=_MAE), strategy.bandit(primary=_MAE),
    strategy.challenger(primary=_MAE), strategy.segment_first(where={"a": 1}),
]  # fmt: skip


@settings(max_examples=400)
@given(
    spec=st.sampled_from(_SPECS), evidence=_EVIDENCE, phase=st.sampled_from([Phase.SHADOW, Phase.STEP]),
    ago=st.sampled_from([timedelta(hours=-1), timedelta(hours=1), timedelta(days=2), timedelta(days=60)]),
)  # fmt: skip
def test_nothing_rises_on_evidence_that_is_missing_unclear_or_bad(spec, evidence, phase, ago):
    last = len(spec.steps) - 1
    status = replace(LAST, phase=phase, step=last if phase is Phase.STEP else -1, entered=NOW - ago,
                     share=spec.steps[last].share if phase is Phase.STEP else 0.0)  # fmt: skip
    found = decide(spec, status, evidence, NOW)
    bad = (
        evidence.incident or evidence.mismatch or evidence.vetoed or evidence.in_phase < 200 or evidence.newest != NOW
        or ago < timedelta(0) or any(r.breached for r in evidence.guardrails)
        or any(n is not None and math.isnan(n) for r in evidence.guardrails for n in (r.harm, r.upper))
    )  # fmt: skip
    if bad:
        assert found.action in {"wait", "pause", "roll_back"}
    if found.action == "promote":
        assert all(rail.safe for rail in evidence.guardrails)
        assert phase is Phase.STEP
    if evidence.vetoed or any(r.breached and r.action == "roll_back" for r in evidence.guardrails):
        assert found.action == "roll_back"
