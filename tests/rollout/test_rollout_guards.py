"""What users may say about guardrails, and what is refused."""

from datetime import timedelta

import msgspec
import pytest

import flyball as fb
from flyball.errors import DefinitionError, UnknownName
from flyball.rollout.definitions.calls import found, remember
from flyball.rollout.definitions.guards import NO_MARGIN, guard, guards
from flyball.rollout.evidence.ledger import alphas
from flyball.rollout.types import RolloutSpec, RolloutStatus


def queue_length(status: RolloutStatus) -> float:
    return 3.0


def test_strict_carries_the_four_limits_of_the_issue():
    errors, latency, drift, mae = guards.strict()
    assert errors.limit == pytest.approx(0.001)
    assert (latency.cap, latency.quantile) == (0.1, 0.99)
    assert (drift.limit, drift.action) == (0.2, "hold")
    assert mae.margin.relative == pytest.approx(0.1)
    assert guards.strict(action="roll_back")[2].action == "roll_back"
    assert fb.guards is guards


def test_a_spec_with_every_kind_survives_json():
    rails = [
        guard.errors(max="1%"), guard.timeouts(), guard.fallbacks(), guard.slow(times=1.5, max="80ms"),
        guard.metric("revenue", of="outcome", margin="5%", over="visits", delay="2h"),
        guard.metric("spend", of="outcome", margin="5%", covariate="before"),
        guard.metric("p90", of="mae", margin="5%", quantile=0.9), guard.quality("accuracy", margin="1%", min=0.7),
        guard.shift(by="distance"), guard.drift(), guard.srm(), guard.resources(memory="2GB", cpu=0.9),
        guard.custom("queue", queue_length, max=10),
    ]  # fmt: skip
    spec = fb.Rollout(steps=["1%"], bake="1h", guardrails=rails)
    again = msgspec.json.decode(msgspec.json.encode(spec), type=RolloutSpec)
    assert again == spec
    assert again.guardrails[4].delay == timedelta(hours=2)


def test_only_what_rolls_back_by_a_test_spends_the_error_budget():
    rails = [
        guard.errors(weight=3),
        guard.shift(margin="5%"),
        guard.drift(),
        guard.srm(),
        guard.timeouts(action="hold"),
    ]
    assert alphas(fb.Rollout(steps=["1%"], bake="1h", guardrails=rails))[:2] == pytest.approx([0.0075, 0.0025])


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (guard.latency, DefinitionError, "needs one of p99"),
        (lambda: guard.latency(p99="50ms", times=2), DefinitionError, "needs one of p99"),
        (lambda: guard.latency(times=0.5), DefinitionError, "at least 1"),
        (lambda: guard.latency(p99="0s"), DefinitionError, "a time above 0"),
        (lambda: guard.errors(max="0%"), DefinitionError, "above 0 and below 1"),
        (lambda: guard.metric("outcome", max=3), DefinitionError, "absolute limit is min="),
        (lambda: guard.metric("mae", min=3), DefinitionError, "absolute limit is max="),
        (lambda: guard.metric("x", of="maee", margin="5%"), UnknownName, "mae"),
        (lambda: guard.metric("mae", margin="5%", over="n", covariate="x"), DefinitionError, "use one of"),
        (lambda: guard.quality("outcome"), UnknownName, "quality"),
        (guard.shift, DefinitionError, "needs margin="),
        (lambda: guard.shift(by="distance", margin=1), DefinitionError, "takes max="),
        (lambda: guard.drift(max=0), DefinitionError, "above 0"),
        (guard.resources, DefinitionError, "has no limit"),
        (lambda: guard.custom("x", lambda s: 1.0, max=1), DefinitionError, "defined with def"),
        (lambda: guard.custom("x", queue_length, max=float("nan")), DefinitionError, "finite"),
        (lambda: guard.errors(weight=0), DefinitionError, "must be above 0"),
        (lambda: guard.errors(min_samples=-1), DefinitionError, "0 or more"),
        (lambda: guard.errors(action="shout"), UnknownName, "roll_back"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_reason(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_a_function_is_found_again_by_its_name():
    name = remember("queue", queue_length)
    assert found(name) is queue_length
    with pytest.raises(UnknownName, match="guardrail function"):
        found("nowhere:nothing")


def test_a_metric_without_any_limit_of_its_own_has_no_margin():
    assert guard.metric("mse", max=40).margin.absolute == NO_MARGIN
