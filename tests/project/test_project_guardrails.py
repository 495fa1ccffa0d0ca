"""Every guardrail that reads the log, on a real project: a healthy candidate passes all, a harmful one is stopped."""

from __future__ import annotations

import pytest
from test_project_strategies import live

ALL = """[
    fb.guard.errors(margin="20pp"), fb.guard.timeouts(margin="20pp"), fb.guard.fallbacks(margin="20pp"),
    fb.guard.latency(p99="10s", margin="10pp"),
    fb.guard.metric("mae", margin="30%"),
    fb.guard.metric("worst tenth", of="mae", quantile=0.9, max=20.0),
    fb.guard.metric("per mile", of="mae", over="distance", margin="0.5"),
    fb.guard.metric("adjusted", of="mae", covariate="distance", margin="1.0"),
    fb.guard.metric("seen later", of="mae", margin="1.0", delay="1m"),
    fb.guard.quality("mse", margin="50%"),
    fb.guard.shift(margin="20%"), fb.guard.srm(),
]"""
OFF = "LinearRegression(**params).fit(data.X, data.y + {by})"


def _plan(rails: str) -> str:
    return f'fb.strategy.canary(["50%"], bake="6m", min_requests=100, guardrails={rails})'


def test_a_healthy_candidate_passes_every_guardrail_at_once(tmp_path):
    with live(tmp_path, _plan(ALL)) as story:
        story.until("Promoted", most=40)
        rails = story.handle.status.state["evidence"]["guardrails"]
        assert len(rails) == 12
        assert all(rail["safe"] and not rail["breached"] for rail in rails)
        assert story.replays()


@pytest.mark.parametrize(
    ("rail", "by"),
    [
        ('fb.guard.metric("mae", margin="30%")', 6),
        ('fb.guard.metric("mae", max=4.0)', 8),
        ('fb.guard.metric("worst tenth", of="mae", quantile=0.9, max=6.0)', 12),
        ('fb.guard.metric("per mile", of="mae", over="distance", margin="0.3")', 8),
        ('fb.guard.metric("adjusted", of="mae", covariate="distance", margin="0.5")', 6),
        ('fb.guard.metric("seen later", of="mae", margin="0.5", delay="1m")', 6),
        ('fb.guard.quality("mse", margin="10%")', 6),
        ('fb.guard.shift(margin="10%")', 6),
        ('fb.guard.shift(by="distance", max=0.1)', 12),
    ],
)
def test_a_candidate_that_is_off_is_rolled_back(tmp_path, rail, by):
    with live(tmp_path, _plan(f"[{rail}]"), second=OFF.format(by=by)) as story:
        story.until("RolledBack", most=25)
        assert story.handle.status.fault not in {"", "veto", "abort", "table"}
        assert story.replays()


def test_drift_that_nobody_measures_holds(tmp_path):
    with live(tmp_path, _plan("[fb.guard.errors(margin='20pp'), *fb.guards.strict()[1:]]")) as story:
        story.minutes(12)
        assert (story.phase, "drift is not known" in story.waits) == ("Step", True), story.waits
        assert story.replays()


def test_a_candidate_nobody_tells_outcomes_of_is_not_promoted(tmp_path):
    with live(tmp_path, _plan('[fb.guard.metric("mae", margin="30%")]')) as story:
        story.caller.report = lambda values: None  # type: ignore[method-assign]
        story.minutes(12)
        assert (story.phase, story.share) == ("Step", 0.5)
        assert "not enough outcomes yet" in story.waits
        assert story.replays()


@pytest.mark.parametrize("of", ['"revenue", of="outcome"', '"clicks", of="outcome", over="distance"'])
def test_a_candidate_that_earns_less_is_rolled_back_although_both_arms_answered_each_request(tmp_path, of):
    rail = f'fb.guard.metric({of}, direction="up", margin="0.5")'
    with live(tmp_path, _plan(f"[{rail}]")) as story:
        told = story.caller.report

        def report(values: dict[str, float]) -> None:
            drawn = {k: 10.0 - 6.0 * (story.version_of(k) == "v2") + story.caller.rng.normal() for k in values}
            told(drawn)

        story.caller.report = report  # type: ignore[method-assign]
        story.until("RolledBack", most=20)
        assert story.replays()


def test_a_candidate_that_earns_as_much_is_promoted(tmp_path):
    with live(tmp_path, _plan('[fb.guard.metric("revenue", of="outcome", direction="up", margin="5.0")]')) as story:
        story.until("Promoted", most=40)
        assert story.replays()
