"""What users write, and what they are told when it makes no sense."""

from datetime import timedelta

import pytest

from flyball.errors import DefinitionError, DuplicateName, UnitError, UnknownName
from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.release import Rollout
from flyball.units import Margin


def test_texts_become_numbers():
    spec = Rollout(
        shadow="6h", steps=["1%", "10%", 0.5], bake="12h",
        guardrails=[guard.errors(margin="1pp"), guard.latency(p99="50ms"), guard.metric("mae", margin="5%")],
    )  # fmt: skip
    assert ([s.share for s in spec.steps], spec.bake, spec.shadow) == (
        [0.01, 0.1, 0.5],
        timedelta(hours=12),
        timedelta(hours=6),
    )
    assert [rail.name for rail in spec.guardrails] == ["errors", "latency", "mae"]
    assert spec.guardrails[0].margin == Margin(0.0, 0.01)
    assert spec.guardrails[1].limit == pytest.approx(0.05)
    assert spec.guardrails[2].margin == Margin(0.05, 0.0)
    assert (spec.min_requests, spec.max_wait, spec.alpha) == (200, timedelta(days=7), 0.01)


def test_a_relative_error_margin_keeps_the_absolute_floor():
    assert guard.errors(margin="20%").margin == Margin(0.2, 0.01)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"steps": ["25%", "20%"]},
            DefinitionError,
            r"step 2 has weight 0.20, not above step 1 \(0.25\); steps must rise",
        ),
        ({"steps": []}, DefinitionError, "has no steps"),
        ({"steps": ["0%"]}, DefinitionError, "at least 0.0001"),
        ({"steps": ["120%"]}, UnitError, "is no share"),
        ({"bake": "12 apples"}, UnitError, "is no duration"),
        ({"alpha": 0.7}, DefinitionError, "alpha is 0.7"),
        ({"min_requests": 0}, DefinitionError, "min_requests is 0"),
        ({"guardrails": [guard.errors(), guard.errors()]}, DuplicateName, "2 guardrails named 'errors'"),
    ],
)
def test_mistakes_are_named(change, error, message):
    with pytest.raises(error, match=message):
        Rollout(**{"steps": ["1%"], "bake": "1h", **change})


def test_unknown_metrics_name_the_known_ones():
    with pytest.raises(UnknownName, match="did you mean mae"):
        guard.metric("maee", margin="5%")


def test_a_metric_guardrail_needs_a_limit():
    with pytest.raises(DefinitionError, match="has no limit"):
        guard.metric("mae")
