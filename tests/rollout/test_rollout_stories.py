"""Rollouts told from start to end by the simulator, on real log segments."""

from datetime import timedelta

import pytest

from flyball.errors import FenceLost, Refused
from flyball.records.log import follow
from flyball.rollout.definitions.guards import guard
from flyball.rollout.explain import explain
from flyball.testing.scenarios import Behaviour, scenario
from flyball.units import to_micros


def kinds(story):
    return [event.kind for event in story.events]


def test_breach_rolls_back_before_bake_ends():
    story = scenario(steps=["5%", "50%", "100%"], bake="10m").given_traffic(per_minute=400)
    story.for_("1m").when(candidate_error_rate=0.5).for_("2m")
    story.then(phase="RolledBack", champion_weight=1.0, within="2m")
    assert kinds(story) == ["RolloutStarted", "WeightsChanged", "GuardrailBreached", "RollbackStarted", "RolledBack"]
    assert story.retired == ["v2"]
    assert story.replay().same


def test_a_good_candidate_is_promoted_through_all_steps():
    rails = [guard.errors(margin="1pp"), guard.metric("mae", margin="5%"), guard.latency(p99="50ms")]
    story = scenario(steps=["10%", "50%"], bake="10m", shadow="10m", guardrails=rails).given_traffic(per_minute=300)
    story.for_("45m").then(phase="Promoted", champion_weight=1.0)
    assert kinds(story) == ["RolloutStarted", "ShadowStarted", "WeightsChanged", "WeightsChanged", "Promoted"]
    assert story.promoted == ["v2"]
    route = story.routes.current().models["eta"]
    assert (route.champion.version, route.champion.trusted, route.warm[0].version) == ("v2", True, "v1")
    assert route.candidate is None
    assert story.replay().same


def test_worse_answers_are_found_in_the_shadow_before_any_exposure():
    rails = [guard.metric("mae", margin="5%")]
    story = scenario(shadow="1h", guardrails=rails).given_traffic(per_minute=200).when(candidate_shift=2.0)
    story.for_("10m").then(phase="RolledBack", champion_weight=1.0)
    assert all(table.models["eta"].candidate_cut == 0 for table in story.routes.tables)
    assert story.replay().same


def test_worse_answers_are_found_in_the_canary_by_pairs():
    rails = [guard.metric("mae", margin="5%")]
    story = scenario(steps=["10%"], bake="1h", guardrails=rails).given_traffic(per_minute=200)
    story.when(candidate_shift=1.5).for_("30m").then(phase="RolledBack")
    assert "mae of the candidate is worse" in story.status.reason


def test_an_absolute_limit_rolls_back_whatever_the_champion_does():
    story = scenario(steps=["20%"], bake="1h", guardrails=[guard.metric("mae", max=0.8)])
    story.given_traffic(per_minute=300).for_("30m").then(phase="RolledBack")
    assert "above max=0.8" in story.status.reason


def test_slow_answers_roll_back_against_the_control_cohort():
    story = scenario(steps=["20%"], bake="1h", guardrails=[guard.latency(p99="50ms")]).given_traffic(per_minute=300)
    story.for_("2m").when(candidate_latency=0.08).for_("5m").then(phase="RolledBack", within="5m")


def test_an_incident_of_both_arms_stops_the_ramp_and_blames_nobody():
    story = scenario(steps=["20%", "50%"], bake="10m").given_traffic(per_minute=300).for_("8m")
    story.when(candidate_error_rate=0.4, champion_error_rate=0.4).for_("20m").then(phase="Step", champion_weight=0.8)
    story.when(candidate_error_rate=0.0, champion_error_rate=0.0).for_("15m").then(phase="Step", champion_weight=0.5)


def test_a_lasting_veto_rolls_back():
    story = scenario(steps=["20%"], bake="1h").given_traffic(per_minute=300).for_("1m")
    story.when(veto=True).for_("80s").then(phase="RolledBack", within="80s")
    assert story.status.reason.startswith("veto: workers kept the candidate out")


def test_a_veto_that_is_lifted_when_the_host_is_back_is_no_verdict():
    story = scenario(steps=["20%"], bake="1h").given_traffic(per_minute=300).for_("1m")
    story.when(veto=True).for_("20s").when(veto=False).for_("20m").then(phase="Step")


def test_without_traffic_it_waits_and_after_max_wait_it_pauses():
    story = scenario(steps=["20%"], bake="10m", max_wait="1h").for_("50m", every="5m").then(phase="Step")
    story.for_("15m", every="5m").then(phase="Paused", champion_weight=0.8)
    assert "50 more candidate requests needed" in story.status.reason
    story.ordered("run").then(phase="Step")


def test_orders_are_obeyed():
    story = scenario(steps=["20%", "50%"], bake="10m").given_traffic(per_minute=100).for_("1m")
    story.ordered("pause", "lunch").then(phase="Paused").for_("30m", every="1m").then(
        phase="Paused", champion_weight=0.8
    )
    story.ordered("run").then(phase="Step", champion_weight=0.8)
    story.ordered("abort", "enough").then(phase="RolledBack", champion_weight=1.0)
    assert story.status.reason == "aborted: enough"
    with pytest.raises(Refused, match="is over"):
        story.ordered("run")


def test_promote_by_order_skips_the_steps():
    story = scenario(steps=["1%"], bake="10d").given_traffic(per_minute=10).for_("1m").ordered("promote", "trust me")
    story.then(phase="Promoted")
    assert story.promoted == ["v2"]


def test_skipping_the_shadow_is_recorded():
    story = scenario(shadow="6h", skip_shadow=True).then(phase="Step")
    assert story.events[0].details["skip_shadow"] is True


def test_a_takeover_in_the_middle_changes_no_verdict():
    plain = scenario(steps=["20%"], bake="30m", seed=3).given_traffic(per_minute=200)
    taken = scenario(steps=["20%"], bake="30m", seed=3).given_traffic(per_minute=200)
    plain.when(candidate_error_rate=0.03)
    taken.when(candidate_error_rate=0.03)
    for _ in range(10):
        plain.for_("1m")
        taken.for_("1m").restart()
    assert taken.status.state == plain.status.state
    assert (taken.status.phase, taken.status.finished) == (plain.status.phase, plain.status.finished)
    assert taken.replay().same


def test_an_old_controller_cannot_act_and_its_evidence_is_ignored():
    story = scenario(steps=["20%"], bake="30m").given_traffic(per_minute=200).for_("1m")
    old, cursor = story.reconciler, dict(story._cursor)
    story.reconciler, story._cursor, story.fence = story._controller(), {}, 2
    story.for_("30s")
    table = story.routes.current()
    story.traffic.send(table.models["eta"], table.version, [to_micros(story.clock.now())], Behaviour())
    with pytest.raises(FenceLost):
        old.step(follow(story.traffic.root, cursor), story.clock.now() + timedelta(seconds=5), 1)
    story.for_("1m").restart().for_("30s").when(candidate_error_rate=0.9).for_("1m").then(phase="RolledBack")
    assert story.replay().same


def test_explain_says_limit_interval_and_samples():
    rails = [guard.errors(margin="1pp"), guard.metric("mae", margin="5%")]
    story = scenario(steps=["20%"], bake="30m", guardrails=rails).given_traffic(per_minute=200).for_("3m")
    told = explain(story.spec, story.status, story.events)
    errors, mae = told["guardrails"]
    assert errors["limit"] == pytest.approx(200.0)
    assert "e-value" in errors["sentence"]
    assert mae["samples"] > 50
    assert "the margin is" in mae["sentence"]
