"""What is expected of a rollout, and what happens next, for every guardrail and way."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.explain import explain, upcoming
from flyball.rollout.forecast import forecast
from flyball.rollout.types import GuardrailSpec, Phase, RolloutSpec, RolloutStatus, Step, Strategy
from flyball.testing.trials import Arm, Stage, trial

NOW = datetime(2026, 5, 4, tzinfo=UTC)
KINDS = ["errors", "timeouts", "fallbacks", "latency", "metric", "shift", "drift", "srm", "resources", "custom"]


def spec(*rails, steps=(0.01, 0.1, 0.5), **more):
    return RolloutSpec(tuple(Step(s) for s in steps), timedelta(hours=12), guardrails=rails, **more)


def status(phase=Phase.STEP, **more):
    known = {"step": 0, "share": 0.01, "entered": NOW} | more
    return RolloutStatus("r1", "eta", "v2", "v1", phase, 1, NOW, **known)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_guardrail_has_a_line_for_each_step(kind):
    found = forecast(spec(GuardrailSpec("rail", kind)), per_day=100_000)["detect"]
    assert [(d["guardrail"], d["kind"], d["step"]) for d in found] == [("rail", kind, k) for k in (1, 2, 3)]
    counted = kind in {"errors", "timeouts", "fallbacks", "latency", "metric", "shift", "srm"}
    assert all((d["candidate_requests"] is not None) == counted for d in found)
    assert all(d["harm"] for d in found)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_control_or_traffic_nothing_is_promised(kind):
    assert forecast(spec(GuardrailSpec("r", kind), steps=(1.0,)), per_day=1e6)["detect"][0]["days"] is None
    assert forecast(spec(GuardrailSpec("r", kind)), per_day=0)["detect"][0]["days"] is None


@pytest.mark.parametrize(("name", "bad"), [("errors", {"errors": 0.01}), ("latency", {"latency": 0.165})])
def test_the_expected_requests_are_near_what_simulated_releases_need(name, bad):
    rails = Rollout(steps=["10%"], bake="1h", guardrails=[guard.errors(), guard.latency(p99="50ms")])
    expected = next(d for d in forecast(rails, per_day=1e6)["detect"] if d["guardrail"] == name)["candidate_requests"]
    usual = {"errors": 0.001, "latency": 0.01}
    took = [
        trial(rails, [Stage(0.1, 6000, 1.0)], Arm(usual | bad), Arm(usual), np.random.default_rng((8, k))).requests
        for k in range(24)
    ]
    assert 0.5 <= np.mean(took) / expected <= 1.5  # waits spread about as wide as they are long


def test_a_challenger_is_never_promoted_by_itself():
    found = forecast(spec(strategy=Strategy.CHALLENGER), per_day=1e6)
    assert found["promote_days"] is None
    assert "a person" in found["promotes"]


def test_steps_of_their_own_time_weeks_and_approvals_count():
    steps = (Step(0.1, bake=timedelta(days=2)), Step(0.5, weeks=1, approval=True, name="half"))
    found = forecast(RolloutSpec(steps, timedelta(hours=1)), per_day=1e6)
    assert [(p["name"], p["days"]) for p in found["phases"]] == [("step 1", 2.0), ("half", 7.0)]
    assert found["promotes"] == "after 9.0 days, and as long as approvals take"


@pytest.mark.parametrize(
    ("strategy", "words"),
    [(Strategy.AB, "has a winner"), (Strategy.BANDIT, "has a winner"), (Strategy.CANARY, "after")],
)
def test_each_way_says_when_it_promotes(strategy, words):
    primary = GuardrailSpec("clicks", "metric")
    assert words in forecast(spec(strategy=strategy, primary=primary), per_day=1e6)["promotes"]


@pytest.mark.parametrize(
    ("phase", "what"),
    [(Phase.PROMOTED, "nothing"), (Phase.ROLLED_BACK, "nothing"), (Phase.PAUSED, "order"), (Phase.PENDING, "pass"),
     (Phase.ROLLING_BACK, "pass"), (Phase.SHADOW, "step 1 (1 % of the traffic)"), (Phase.STEP, "step 2")],
)  # fmt: skip
def test_every_phase_says_what_comes_next(phase, what):
    step = -1 if phase is Phase.SHADOW else 0
    assert upcoming(spec(), status(phase, step=step), {}, NOW)["what"].startswith(what)


def test_the_next_step_comes_when_time_and_requests_suffice():
    later = NOW + timedelta(hours=10)
    calm = upcoming(spec(), status(), {"in_phase": 500}, later)
    assert calm["at"] == (NOW + timedelta(hours=12)).isoformat()
    thin = upcoming(spec(), status(), {"in_phase": 50}, later)  # 5 an hour: 150 more take 30 hours
    assert thin["at"] == (later + timedelta(hours=30)).isoformat()
    assert "150 more requests are seen" in thin["sentence"]
    assert "a breach rolls back at once" in thin["sentence"]


def test_a_step_that_waits_for_a_person_says_so_until_it_is_approved():
    steps = (Step(0.1), Step(0.5, approval=True))
    waiting = RolloutSpec(steps, timedelta(hours=1))
    assert "a person approves it" in upcoming(waiting, status(), {"in_phase": 900}, NOW)["sentence"]
    assert "approves" not in upcoming(waiting, status(approved=1), {"in_phase": 900}, NOW)["sentence"]


def test_power_so_far_is_part_of_the_sentence():
    rail = {"name": "errors", "breached": False, "safe": False, "e_value": 0.4, "limit": 100.0, "harm": 0.001,
            "lower": None, "upper": 0.03, "margin": 0.01, "samples": 900, "text": "2 of 900 failed",
            "action": "roll_back", "better": False, "power": 0.93}  # fmt: skip
    known = status(state={"evidence": {"guardrails": [rail], "candidate": {"requests": 900}}})
    rails = spec(GuardrailSpec("errors", "errors"))
    (told,) = explain(rails, known, [])["guardrails"]
    assert "seen by now with 93%" in told["sentence"]
    assert "e-value 0.4, a breach from 100 on" in told["sentence"]
    assert "harm may still be 0.03, promotion needs less than 0.01" in told["sentence"]
    holding = rail | {"breached": True, "action": "hold", "power": None}
    known = status(state={"evidence": {"guardrails": [holding], "candidate": {"requests": 900}}})
    assert "errors: holds the ramp" in explain(rails, known, [])["guardrails"][0]["sentence"]
