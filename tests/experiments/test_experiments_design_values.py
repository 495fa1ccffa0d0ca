"""Designs are frozen, refuse what makes no sense, and survive JSON to the bit."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import flyball as fb
from flyball.errors import DefinitionError, DuplicateName, UnknownName
from flyball.experiments import Role
from flyball.units import Margin

SPEND = fb.Metric("spend")


def _checkout(**changes: Any) -> fb.Experiment:
    given: dict[str, Any] = {
        "hypothesis": "fewer fields raise conversion",
        "arms": {"champion": "50%", "v7": 0.3, "v8": 0.2},
        "metrics": [
            fb.Metric("conversion", kind="proportion", role="primary", margin="1pp"),
            fb.Metric("week_1", kind="proportion", of="opened", starts="6d", window="7d"),
            fb.Metric("basket", kind="ratio", of="revenue", over="orders", winsor=(0, 500), value=0.5),
            fb.Metric("seconds", direction="down", role="guardrail", margin="1%", covariate="seconds_before"),
        ],
        "model": "eta",
        "starts": "2026-03-01T00:00+01:00",
        "ends": datetime(2026, 3, 15, tzinfo=UTC),
        "plan": fb.plan.group(looks=4, units=40_000),
    }
    return fb.Experiment("checkout", **{**given, **changes})


def test_a_design_survives_json_whatever_the_order_of_its_keys() -> None:
    design = _checkout()
    again = fb.Experiment.from_dict(json.loads(json.dumps(design.to_dict(), sort_keys=True)))
    assert again == design
    assert again.digest == design.digest
    assert again.treatments == ("v7", "v8")


def test_texts_become_values() -> None:
    design = _checkout()
    assert design.starts == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert design.metric("week_1").window == timedelta(days=7)
    assert design.metric("conversion").margin == Margin(absolute=0.01)
    assert design.planned_units == 40_000
    assert design.control == "champion"
    assert design.weights == {"champion": 0.5, "v7": 0.3, "v8": 0.2}
    assert design.metric("basket").columns == ("revenue", "orders")
    assert design.metric("seconds").columns == ("seconds", "seconds_before")


def test_every_word_of_a_design_is_in_its_digest() -> None:
    one = _checkout()
    for change in ({"hypothesis": "x"}, {"correction": "none"}, {"planned_units": 41_000}, {"owner": "ana"},
                   {"control": "v7"}, {"plan": fb.plan.fixed(units=40_000)}):  # fmt: skip
        assert _checkout(**change).digest != one.digest


def test_a_design_cannot_be_edited() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _checkout().name = "other"  # type: ignore[misc]


def test_shares_of_a_part_of_the_traffic_are_weighed_among_themselves() -> None:
    design = _checkout(arms={"champion": "5%", "v7": "15%"})
    assert design.shares == {"champion": 0.05, "v7": 0.15}
    assert design.weights["v7"] == pytest.approx(0.75)


def test_the_first_metric_that_is_no_guardrail_is_primary_unless_one_says_so() -> None:
    rail = fb.Metric("errors", role="guardrail", margin="1%")
    design = fb.Experiment("e", arms={"a": 0.5, "b": 0.5}, metrics=[rail, SPEND, fb.Metric("visits")])
    assert [m.name for m in design.primary] == ["spend"]
    assert [m.name for m in design.of(Role.SECONDARY)] == ["visits"]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"arms": {"a": 1.0}}, DefinitionError, "needs a control and at least one more"),
        ({"arms": {"a": 0.7, "b": 0.7}}, DefinitionError, "gives its arms 1.4 of the units"),
        ({"arms": {"a": 0.5, "b": 0.0}}, DefinitionError, "a share of 0.0"),
        ({"arms": [("a", 0.3), ("a", 0.3)]}, DuplicateName, "2 arms named 'a'"),
        ({"control": "v9"}, UnknownName, "no arm of experiment 'checkout' named 'v9'"),
        ({"metrics": []}, DefinitionError, "no metric to decide it"),
        ({"metrics": [SPEND, SPEND]}, DuplicateName, "2 metrics named 'spend'"),
        ({"flag": "new_ui"}, DefinitionError, "its arms come from one"),
        ({"ends": "2026-02-01"}, DefinitionError, "not after it starts"),
        ({"starts": "soon"}, DefinitionError, "write an ISO time"),
        ({"plan": fb.plan.fixed()}, DefinitionError, "a fixed plan without a size"),
        ({"correction": "tukey"}, UnknownName, "correction"),
        ({"planned_units": 1}, DefinitionError, "every arm needs at least one"),
        ({"strata": ["land"]}, DefinitionError, "strata and a metric with a covariate"),
        ({"metrics": [fb.Metric("p", kind="quantile")]}, DefinitionError, "quantiles are judged once"),
    ],
)
def test_a_design_that_makes_no_sense_is_refused(changes: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        _checkout(**changes)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"role": "guardrail"}, "guardrail without a margin"),
        ({"kind": "ratio"}, "has a denominator"),
        ({"over": "visits"}, "has a denominator"),
        ({"kind": "sum"}, "no kind"),
        ({"starts": "7d", "window": "7d"}, "no time at all"),
        ({"winsor": (5, 1)}, "write .low, high."),
        ({"quantile": 1.0}, "between 0 and 1"),
        ({"value": float("nan")}, "what one more of it is worth"),
        ({"covariate": "spend"}, "itself as covariate"),
        ({"kind": "quantile", "covariate": "before"}, "CUPED is for"),
    ],
)
def test_a_metric_that_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        fb.Metric("spend", **given)


def test_a_stored_design_that_was_tampered_with_is_refused() -> None:
    data = _checkout().to_dict()
    with pytest.raises(DefinitionError, match="no stored experiment"):
        fb.Experiment.from_dict(data | {"surprise": 1})
    del data["arms"]
    with pytest.raises(DefinitionError, match="no stored experiment"):
        fb.Experiment.from_dict(data)


@pytest.mark.parametrize("given", [{"alpha": 0.0}, {"alpha": 0.7}, {"power": 1.0}, {"units": 1}])
def test_a_plan_out_of_range_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError):
        fb.plan.sequential(**given)
    with pytest.raises(DefinitionError, match="2 to 100"):
        fb.plan.group(looks=1, units=100)
