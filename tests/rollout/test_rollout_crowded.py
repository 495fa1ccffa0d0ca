"""Predictions whose outcome is not waited for any more, because too many wait: told, and missing from the coverage."""

from __future__ import annotations

import pytest

from flyball.rollout.definitions.guards import guard
from flyball.rollout.evidence import bins
from flyball.testing import scenario


def test_predictions_let_go_are_told_and_the_replay_counts_them_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bins, "_KEEP_ROWS", 50)
    story = scenario(steps=["50%"], bake="10m", min_requests=20, guardrails=[guard.metric("mae", margin="1.0")])
    story.given_traffic(per_minute=60).when(outcomes=False).for_("5m")
    (rail,) = story.status.state["evidence"]["guardrails"]
    assert "250 predictions were let go while too many waited" in rail["text"]
    assert rail["coverage"] == 0.0
    story.when(outcomes=True).for_("30m").then(phase="Promoted")
    assert story.replay().same
