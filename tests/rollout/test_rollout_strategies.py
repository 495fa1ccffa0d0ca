"""Each strategy told from start to end by the simulator, on real log segments and the real router."""

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from flyball.errors import ConflictError, DefinitionError, Refused
from flyball.rollout.definitions.calendar import calendar
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.strategies import strategy
from flyball.rollout.orders import start
from flyball.rollout.routing import Condition
from flyball.rollout.types import Phase, RolloutSpec, Step, Strategy
from flyball.testing.scenarios import MODEL, scenario

ERRORS = [guard.errors(margin="1pp")]
GAIN = guard.metric("mae", margin="0.05")


def kinds(story):
    return [event.kind for event in story.events]


def route(story):
    return story.routes.current().models[MODEL]


def cuts(story):
    return [table.models[MODEL].candidate_cut for table in story.routes.tables]


def test_all_at_once_promotes_in_the_first_pass_and_keeps_the_champion_warm():
    story = scenario(strategy.all_at_once()).then(phase="Promoted")
    assert kinds(story) == ["RolloutStarted", "Promoted"]
    assert (route(story).champion.version, route(story).warm[0].version, story.promoted) == ("v2", "v1", ["v2"])


def test_blue_green_switches_all_traffic_once_the_shadow_showed_it_safe():
    spec = strategy.blue_green(shadow="10m", bake="10m", guardrails=[*ERRORS, guard.metric("mae", margin="5%")])
    story = scenario(spec).given_traffic(per_minute=300).for_("12m").then(phase="Step", champion_weight=0.0)
    assert (route(story).champion.version, route(story).candidate.version) == ("v1", "v2")
    story.for_("12m").then(phase="Promoted")
    assert sorted(set(cuts(story))) == [0, 1_000_000]
    assert story.replay().same


def test_blue_green_does_not_switch_while_harm_may_still_be_too_large():
    spec = strategy.blue_green(shadow="1m", guardrails=ERRORS, min_requests=10)
    story = scenario(spec).given_traffic(per_minute=20).for_("10m", every="1m").then(phase="Shadow")
    assert "not yet shown to be safe" in story.status.state["waiting"]


def test_blue_green_returns_all_traffic_at_once_after_a_bad_switch():
    spec = strategy.blue_green(shadow="10m", bake="2h", guardrails=[guard.metric("mae", margin="5%")])
    story = scenario(spec).given_traffic(per_minute=300).for_("12m").then(phase="Step", champion_weight=0.0)
    story.when(candidate_shift=3.0).for_("10m").then(phase="RolledBack", champion_weight=1.0, within="10m")


def test_gradual_holds_each_share_for_its_own_time():
    spec = strategy.gradual({"1%": "10m", "10%": "20m", "50%": "30m", "100%": "0s"}, guardrails=ERRORS, min_requests=20)
    story = scenario(spec).given_traffic(per_minute=600)
    assert [step.share for step in spec.steps] == [0.01, 0.1, 0.5]
    story.for_("11m").then(phase="Step", champion_weight=0.9)
    story.for_("18m").then(phase="Step", champion_weight=0.9)
    story.for_("3m").then(phase="Step", champion_weight=0.5)
    story.for_("31m").then(phase="Promoted")


def test_a_segment_comes_first_and_is_compared_within_itself():
    spec = strategy.segment_first(
        where={"country": "NL"}, share="50%", then=["60%"], bake="10m", guardrails=ERRORS, min_requests=50
    )
    story = scenario(spec).given_traffic(per_minute=400).given_requests(country={"NL": 0.25, "DE": 0.75})
    assert route(story).within == (Condition("country", "==", ("NL",)),)
    story.for_("9m")
    seen = story.status.state["evidence"]
    asked = seen["in_phase"] + seen["control_in_phase"]
    assert 0.2 < asked / 3600 < 0.3
    assert 0.44 < seen["in_phase"] / asked < 0.56
    story.for_("3m").then(phase="Step", champion_weight=0.4)
    assert route(story).within == ()
    assert story.status.state["evidence"]["in_phase"] < 600
    story.for_("12m").then(phase="Promoted")
    assert story.replay().same


def test_harm_in_a_segment_is_found_within_it():
    spec = strategy.segment_first(where={"country": "NL"}, share="50%", then=["60%"], bake="1h", guardrails=ERRORS)
    story = scenario(spec).given_traffic(per_minute=400).given_requests(country={"NL": 0.25, "DE": 0.75})
    story.when(candidate_error_rate=0.2).for_("10m").then(phase="RolledBack", champion_weight=1.0)
    assert route(story).within == ()


def test_the_same_share_for_everybody_begins_its_own_evidence():
    spec = strategy.segment_first(where={"country": "NL"}, then=["30%"], bake="5m", guardrails=ERRORS, min_requests=50)
    assert [step.share for step in spec.steps] == [0.3, 0.3]
    story = scenario(spec).given_traffic(per_minute=600).given_requests(country={"NL": 0.5, "DE": 0.5})
    story.for_("5m", every="1m").for_("1m")
    assert (story.status.step, route(story).within) == (1, ())
    assert story.status.state["evidence"]["in_phase"] < 300
    assert story.events[-1].kind == "WeightsChanged"


def test_shadow_first_exposes_nobody_before_the_shadow_is_over():
    spec = strategy.shadow_first("10m", ["20%"], bake="10m", guardrails=ERRORS)
    story = scenario(spec).given_traffic(per_minute=300).for_("9m").then(phase="Shadow", champion_weight=1.0)
    story.for_("2m").then(phase="Step", champion_weight=0.8)
    with pytest.raises(DefinitionError, match="has no shadow"):
        strategy.shadow_first("0s")


def test_an_ab_test_promotes_the_better_arm():
    spec = strategy.ab(primary=GAIN, bake="30m", guardrails=ERRORS, min_requests=100)
    story = scenario(spec).given_traffic(per_minute=60).when(candidate_gain=0.4)
    story.for_("25m", every="1m").then(phase="Step", champion_weight=0.5)
    story.for_("40m", every="1m").then(phase="Promoted")
    assert "mae is better" in story.status.reason
    assert "VerdictReached" in kinds(story)
    assert story.replay().same


def test_an_ab_test_returns_to_the_champion_where_nothing_is_gained():
    story = scenario(strategy.ab(primary=GAIN, bake="10m")).given_traffic(per_minute=120)
    story.for_("2h", every="1m").then(phase="RolledBack", champion_weight=1.0)
    assert story.status.fault == "primary"
    assert "GuardrailBreached" not in kinds(story)
    assert next(e for e in story.events if e.kind == "VerdictReached").details["verdict"] == "no gain"


def test_an_ab_test_without_a_verdict_pauses():
    tiny = guard.metric("mae", margin="0.0001")
    story = scenario(strategy.ab(primary=tiny, bake="10m", max_wait="1h")).given_traffic(per_minute=60)
    story.when(candidate_shift=0.1).for_("70m", every="1m").then(phase="Paused", champion_weight=0.5)
    assert "no verdict within" in story.status.reason


def test_a_winner_that_may_do_harm_is_not_promoted():
    rails = [guard.errors(margin="0.1pp")]
    story = scenario(strategy.ab(primary=GAIN, bake="10m", guardrails=rails)).given_traffic(per_minute=60)
    story.when(candidate_gain=0.6).for_("30m", every="1m").then(phase="Step", champion_weight=0.5)
    assert "mae is better, but not yet shown to be safe: errors" in story.status.state["waiting"]


def test_a_bandit_follows_the_better_arm_until_it_has_won():
    spec = strategy.bandit(primary=guard.metric("mae", margin="0"), share="30%", bake="5m", pace="5m",
                           guardrails=ERRORS, min_requests=20)  # fmt: skip
    story = scenario(spec).given_traffic(per_minute=40).when(candidate_gain=0.25)
    story.for_("3h", every="1m").then(phase="Promoted")
    moved = [cut for cut in cuts(story) if 0 < cut < 1_000_000]
    assert moved[0] == 300_000
    assert max(moved) > 300_000
    assert story.replay().same


def test_a_bandit_gives_a_bad_arm_its_floor_and_then_nothing():
    spec = strategy.bandit(primary=guard.metric("mae", margin="0"), bake="2m", pace="2m", floor="20%", min_requests=5)
    story = scenario(spec).given_traffic(per_minute=40).when(candidate_shift=0.4, noise=1.0)
    story.for_("5h", every="1m").then(phase="RolledBack", champion_weight=1.0)
    assert min(cut for cut in cuts(story) if cut) == 200_000
    assert story.status.fault == "primary"


def test_a_challenger_reports_and_stays():
    spec = strategy.challenger(primary=GAIN, share="30%", bake="5m", guardrails=ERRORS, min_requests=20)
    story = scenario(spec).given_traffic(per_minute=60).when(candidate_gain=0.5)
    story.for_("2h", every="1m").then(phase="Step", champion_weight=0.7)
    assert story.status.state["waiting"].startswith("standing test, the challenger is better: mae")
    assert kinds(story).count("VerdictReached") == 1
    story.given_traffic(per_minute=0.01).for_("40d", every="4d").then(phase="Step", champion_weight=0.7)
    story.ordered("promote", "it is better").then(phase="Promoted")


def test_a_challenger_that_does_harm_is_rolled_back():
    spec = strategy.challenger(primary=GAIN, share="30%", guardrails=ERRORS)
    story = scenario(spec).given_traffic(per_minute=200).when(candidate_error_rate=0.3)
    story.for_("10m").then(phase="RolledBack", champion_weight=1.0)


def test_a_step_waits_for_approval_however_long_it_takes():
    spec = strategy.canary(
        ["20%", strategy.step("50%", approval=True)], bake="10m", guardrails=ERRORS, min_requests=50, max_wait="1h",
        approve_promotion=True,
    )  # fmt: skip
    story = scenario(spec).given_traffic(per_minute=300).for_("2h", every="1m").then(phase="Step", champion_weight=0.8)
    assert "step 2 waits for approval" in story.status.state["waiting"]
    story.ordered("approve", "looked at the report").then(phase="Step", champion_weight=0.5)
    with pytest.raises(Refused, match="needs no approval"):
        scenario(strategy.canary(["20%"], bake="10m")).ordered("approve")
    given = next(e for e in story.events if e.kind == "OrderGiven")
    assert (given.reason, given.details["actor"], given.details["step"]) == ("looked at the report", "story", 1)
    story.for_("20m", every="1m").then(phase="Step", champion_weight=0.5)
    story.ordered("approve", "go").then(phase="Promoted")


def test_shares_do_not_rise_in_a_freeze_and_rolling_back_is_allowed():
    rules = calendar(freeze=["mon 00:15 - mon 02:00"])
    spec = strategy.canary(["20%", "50%"], bake="20m", guardrails=ERRORS, calendar=rules, max_wait="1h")
    story = (
        scenario(spec).given_traffic(per_minute=300).for_("110m", every="1m").then(phase="Step", champion_weight=0.8)
    )
    assert "frozen by the calendar: mon 00:15 - mon 02:00 (UTC); until 2026-01-05 02:00 UTC" in str(story.status.state)
    story.for_("11m", every="1m").then(phase="Step", champion_weight=0.5)
    other = scenario(spec).given_traffic(per_minute=300).for_("30m", every="1m")
    other.when(candidate_error_rate=0.5).for_("5m").then(phase="RolledBack", champion_weight=1.0)


def test_a_promotion_by_order_in_a_freeze_needs_force_and_records_it():
    spec = strategy.canary(["20%"], bake="1h", calendar=calendar(freeze=["mon 00:05 - tue 00:00"]))
    story = scenario(spec).given_traffic(per_minute=60).for_("6m")
    with pytest.raises(Refused, match="may not be promoted now: frozen by the calendar"):
        story.ordered("promote", "hot fix")
    story.ordered("promote", "hot fix", force=True).then(phase="Promoted")
    given = next(e for e in story.events if e.kind == "OrderGiven")
    assert given.details["forced"].startswith("frozen by the calendar")
    assert given.details["evidence"]["in_phase"] > 0


def test_a_start_in_a_freeze_waits_with_no_exposure():
    spec = strategy.canary(["20%"], bake="10m", calendar=calendar(freeze=["mon 00:00 - mon 01:00"]))
    story = scenario(spec).given_traffic(per_minute=60).for_("50m", every="5m").then(phase="Pending")
    story.for_("11m", every="1m").then(phase="Step", champion_weight=0.8)


def test_drift_that_holds_stops_the_ramp_and_says_so():
    rails = [*ERRORS, guard.drift(max=0.2)]
    story = scenario(strategy.canary(["20%", "50%"], bake="10m", guardrails=rails)).given_traffic(per_minute=300)
    story.measured("drift", 0.5).for_("30m", every="1m").then(phase="Step", champion_weight=0.8)
    assert "guardrail drift holds the ramp" in story.status.state["waiting"]
    story.measured("drift", 0.05).for_("5m", every="1m").then(phase="Step", champion_weight=0.5)
    assert story.replay().same


def test_unknown_drift_holds_and_never_promotes():
    rails = [*ERRORS, guard.drift(max=0.2)]
    story = scenario(strategy.canary(["50%"], bake="10m", guardrails=rails)).given_traffic(per_minute=300)
    story.for_("1h", every="1m").then(phase="Step", champion_weight=0.5)
    assert "guardrail drift holds the ramp" in story.status.state["waiting"]


def test_after_three_rollbacks_in_a_week_new_rollouts_wait():
    story = scenario(strategy.canary(["20%"], bake="1h", guardrails=ERRORS))
    for version in ("v2", "v3", "v4"):
        if version != "v2":
            again = start(story.store, story.spec, model=MODEL, candidate=version, champion="v1", now=story.clock.now())
            story.id = again.id
        status = story.status
        story.clock.advance(timedelta(hours=1))
        story.store.save(
            _rolled_back(status, story.clock.now(), "errors"), expected=status.revision, fence=None
        )  # fmt: skip
    asked = {"model": MODEL, "candidate": "v5", "champion": "v1", "now": story.clock.now()}
    with pytest.raises(ConflictError, match="3 rollbacks of eta within 7 d; new rollouts wait until 2026-01-12 01:00"):
        start(story.store, story.spec, **asked, actor="loop", force=True)
    with pytest.raises(ConflictError, match="by hand with --force"):
        start(story.store, story.spec, **asked, actor="ann")
    forced = start(story.store, story.spec, **asked, actor="ann", force=True)
    assert "3 rollbacks" in story.store.events(forced.id)[0].details["forced"]


def _rolled_back(status, at, fault):
    return replace(status, phase=Phase.ROLLED_BACK, finished=at, fault=fault)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: strategy.blue_green(shadow="0s"), "would be blind"),
        (lambda: strategy.segment_first(where={}), "has no condition"),
        (lambda: strategy.segment_first(where={"a": 1}, then=[]), "has no steps for everybody"),
        (lambda: strategy.segment_first(where={"a": 1}, share="100%"), "all of a segment"),
        (lambda: strategy.ab(primary=guard.errors()), "primary metric is 'errors'"),
        (lambda: strategy.ab(primary=GAIN, share="100%"), "no champion to compare with"),
        (lambda: strategy.bandit(primary=GAIN, floor="50%"), "floor is above 0 and below 50 %"),
        (lambda: strategy.bandit(primary=GAIN, pace="0s"), "pace=0"),
        (lambda: strategy.gradual({"1%": "9d"}), "longer than max_wait"),
        (lambda: strategy.step("5%", weeks=-1), "counts are not negative"),
        (lambda: strategy.canary(["5%", strategy.step("9%", where={"a": 1})]), "goes back from all requests"),
    ],
)
def test_strategies_that_make_no_sense_are_named(make, message):
    with pytest.raises(DefinitionError, match=message):
        make()


def test_specs_survive_json():
    rules = calendar(timezone="Europe/Amsterdam", holidays=["2026-12-25"])
    for spec in (
        strategy.segment_first(where={"age": ">= 18"}, calendar=rules),
        strategy.bandit(primary=GAIN, guardrails=ERRORS),
        strategy.canary([Step(0.2, weeks=1, approval=True)]),
    ):
        assert msgspec.json.decode(msgspec.json.encode(spec), type=RolloutSpec) == spec
    assert strategy.bandit(primary=GAIN).strategy is Strategy.BANDIT
