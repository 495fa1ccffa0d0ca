"""Verdicts: by plan, corrected, with guardrails and the instrument first; in words, as JSON and as a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

import flyball as fb
from flyball.errors import InputError, UnknownName
from flyball.experiments import (
    ArmData,
    Finding,
    Look,
    Outcome,
    Stats,
    analyze,
    analyze_table,
    render_experiment,
)

PAID = fb.Metric("paid", kind="proportion", role="primary")
FIXED = fb.plan.fixed(units=1000)


def _rate(k: int, n: int) -> Stats:
    return Stats(n, ("paid",), (k / n,), ((k * (n - k) / n,),))


def _arms(**counts: tuple[int, int]) -> dict[str, ArmData]:
    return {arm: ArmData(n, {"paid": _rate(k, n)}) for arm, (k, n) in counts.items()}


def _design(*metrics: fb.Metric, arms: Mapping[str, float] | None = None, **more: Any) -> fb.Experiment:
    return fb.Experiment(
        "e", arms=arms or {"old": 0.5, "new": 0.5}, metrics=metrics or [PAID], **{"plan": FIXED, **more}
    )


def _normal(mean: float, n: int, sd: float = 1.0, name: str = "y") -> Stats:
    return Stats(n, (name,), (mean,), ((sd * sd * (n - 1),),))


def _two(control: Stats, treatment: Stats, **more: Any) -> dict[str, ArmData]:
    name = control.names[0]
    return {"old": ArmData(control.n, {name: control}, **more), "new": ArmData(treatment.n, {name: treatment}, **more)}


def test_a_rise_that_is_shown_is_shipped_in_words() -> None:
    result = analyze(_design(), _arms(old=(2000, 20_000), new=(2200, 20_000)))
    assert result.outcome is Outcome.SHIP
    assert result.winner == "new"
    assert result.sentence == "new raises paid by 10 % [3.87, 16.5]; ship new"
    assert not result.harmful


def test_a_fall_is_harm_and_keeps_the_control() -> None:
    result = analyze(_design(), _arms(old=(2200, 20_000), new=(2000, 20_000)))
    assert result.outcome is Outcome.KEEP
    assert result.harmful
    assert "new lowers paid by" in result.sentence
    assert result.sentence.endswith("keep old")


def test_down_is_good_where_the_metric_says_so() -> None:
    metric = fb.Metric("y", direction="down")
    result = analyze(_design(metric), _two(_normal(10.0, 5000), _normal(9.8, 5000)))
    assert result.outcome is Outcome.SHIP


@settings(max_examples=40, deadline=None)
@given(st.integers(200, 4000), st.integers(200, 4000), st.floats(0.05, 0.95), st.floats(0.05, 0.95),
       st.sampled_from(["fixed", "sequential", "group"]))  # fmt: skip
def test_swapped_arms_flip_every_sign_and_finding(n: int, m: int, p: float, q: float, kind: str) -> None:
    plans = {"fixed": FIXED, "sequential": fb.plan.sequential(), "group": fb.plan.group(units=n + m)}
    x, y = _rate(round(p * n), n), _rate(round(q * m), m)
    one = analyze(_design(plan=plans[kind]), {"old": ArmData(n, {"paid": x}), "new": ArmData(m, {"paid": y})})
    other = analyze(_design(plan=plans[kind]), {"old": ArmData(m, {"paid": y}), "new": ArmData(n, {"paid": x})})
    a, b = one.of("paid", "new"), other.of("paid", "new")
    assert a.estimate is not None
    assert b.estimate is not None
    assert a.estimate.effect == pytest.approx(-b.estimate.effect, abs=1e-12)
    assert a.estimate.lower == pytest.approx(-b.estimate.upper, abs=1e-9)
    flipped = {Finding.BETTER: Finding.WORSE, Finding.WORSE: Finding.BETTER}
    assert b.finding is flipped.get(a.finding, a.finding)


def test_a_fixed_plan_has_no_verdict_before_its_size() -> None:
    design = _design(plan=fb.plan.fixed(units=50_000))
    result = analyze(design, _arms(old=(2000, 20_000), new=(2400, 20_000)))
    assert result.outcome is Outcome.WAIT
    assert not result.final
    assert (
        result.sentence
        == "not enough data yet: about 10,000 more exposures; a fixed plan has no verdict before its planned size"
    )
    assert analyze(design, _arms(old=(2000, 20_000), new=(2400, 20_000)), ended=True).outcome is Outcome.SHIP


def test_units_in_other_shares_than_designed_end_it() -> None:
    result = analyze(_design(), _arms(old=(2000, 20_000), new=(2200, 21_000)))
    assert result.outcome is Outcome.UNTRUSTED
    assert result.harmful
    assert result.winner == ""
    assert result.sentence.startswith("do not read the effects")
    assert (
        analyze(_design(plan=fb.plan.sequential()), _arms(old=(2000, 20_000), new=(2200, 21_500))).outcome
        is Outcome.UNTRUSTED
    )


def test_units_seen_in_two_arms_end_it_from_one_per_cent() -> None:
    arms = _arms(old=(2000, 20_000), new=(2200, 20_000))
    crossed = {arm: ArmData(d.units, d.metrics, crossed=300) for arm, d in arms.items()}
    assert analyze(_design(), crossed).outcome is Outcome.UNTRUSTED


def test_an_open_guardrail_is_a_reason_to_wait_and_a_harmed_one_to_keep() -> None:
    rail = fb.Metric("y", direction="down", role="guardrail", margin="1%")
    design = _design(PAID, rail, plan=fb.plan.sequential(), planned_units=100_000)
    base = _arms(old=(2000, 20_000), new=(2400, 20_000))

    def with_rail(control: float, treatment: float) -> dict[str, ArmData]:
        values = {"old": control, "new": treatment}
        return {arm: ArmData(d.units, {**d.metrics, "y": _normal(values[arm], d.units)}) for arm, d in base.items()}

    safe = analyze(design, with_rail(100.0, 100.0))
    assert safe.outcome is Outcome.SHIP
    assert "no guardrail is harmed" in safe.sentence
    unknown = analyze(design, with_rail(1.0, 1.0))
    assert unknown.outcome is Outcome.WAIT
    assert "more exposures" in unknown.sentence
    assert "is not ruled out" in unknown.sentence
    harmed = analyze(design, with_rail(1.0, 1.1))
    assert harmed.outcome is Outcome.KEEP
    assert harmed.of("y", "new").finding is Finding.WORSE


def test_a_guardrail_is_the_textbooks_one_sided_test() -> None:
    rail = fb.Metric("y", role="guardrail", margin=0.1)
    arms = _two(_normal(5.0, 400), _normal(4.98, 500))
    arms = {a: ArmData(d.units, {**d.metrics, "paid": _rate(50, d.units)}) for a, d in arms.items()}
    found = analyze(_design(PAID, rail), arms).of("y", "new")
    se = math.sqrt(1 / 400 + 1 / 500)
    df = se**4 / ((1 / 400) ** 2 / 399 + (1 / 500) ** 2 / 499)
    assert found.worst == pytest.approx(0.02 + reference.t.isf(0.05, df) * se, rel=1e-6)


def test_an_effect_inside_the_margin_is_no_difference_that_counts() -> None:
    metric = fb.Metric("y", role="primary", margin=0.1)
    result = analyze(_design(metric), _two(_normal(5.0, 40_000), _normal(5.001, 40_000)))
    assert result.outcome is Outcome.SAME


def test_missing_data_is_told_in_exposures_and_power() -> None:
    metric = fb.Metric("y", role="primary", margin=0.1)
    design = _design(metric, plan=fb.plan.fixed(units=1000))
    found = analyze(design, _two(_normal(5.0, 500), _normal(5.01, 500))).of("y", "new")
    # the textbook's size: 2 (1.96 + 0.8416)^2 / 0.1^2 = 1570 an arm
    assert found.more is not None
    assert found.more + 1000 == pytest.approx(2 * 2 * (1.959964 + 0.841621) ** 2 / 0.1**2, rel=2e-3)
    assert found.power == pytest.approx(reference.norm.cdf(0.1 / math.sqrt(2 / 500) - 1.962), abs=2e-3)
    sequential = analyze(_design(metric, plan=fb.plan.sequential(), planned_units=4000),
                         _two(_normal(5.0, 500), _normal(5.01, 500))).of("y", "new")  # fmt: skip
    assert sequential.more is not None
    assert sequential.more > found.more


def test_adjusted_p_values_decide_over_arms_and_metrics() -> None:
    design = _design(
        PAID, fb.Metric("again", of="paid", kind="proportion", role="primary"), arms={"old": 0.3, "a": 0.3, "b": 0.3}
    )
    stats = {"old": _rate(1000, 10_000), "a": _rate(1090, 10_000), "b": _rate(1010, 10_000)}
    arms = {arm: ArmData(s.n, {"paid": s, "again": s}) for arm, s in stats.items()}
    result = analyze(design, arms)
    found = result.of("paid", "a")
    assert found.estimate is not None
    assert found.estimate.p is not None
    assert found.estimate.p < 0.05 < found.p_adjusted  # type: ignore[operator]
    assert found.p_adjusted == pytest.approx(4 * found.estimate.p)
    assert found.finding is Finding.OPEN
    plain = analyze(fb.Experiment.from_dict(design.to_dict() | {"correction": "none"}), arms)
    assert plain.of("paid", "a").finding is Finding.BETTER


def test_impact_is_effect_times_units_times_value() -> None:
    metric = fb.Metric("y", value=2.0, role="primary")
    result = analyze(_design(metric), _two(_normal(5.0, 1000), _normal(5.5, 1000)))
    (impact,) = result.impacts
    estimate = result.comparisons[0].estimate
    assert estimate is not None
    assert impact.amount == pytest.approx(0.5 * 1000 * 2.0)
    assert (impact.lower, impact.upper) == pytest.approx((estimate.lower * 2000, estimate.upper * 2000))


def test_a_covariate_narrows_the_interval_and_strata_do() -> None:
    rng = np.random.default_rng(4)
    before = rng.normal(size=4000)
    new = rng.random(4000) < 0.5
    y = before + 0.1 * new + rng.normal(scale=0.3, size=4000)
    table = {"arm": np.where(new, "new", "old"), "y": y, "before": before, "side": np.where(before > 0, "hi", "lo")}
    widths = []
    for design in (
        _design(fb.Metric("y")),
        _design(fb.Metric("y"), strata=["side"]),
        _design(fb.Metric("y", covariate="before")),
    ):
        estimate = analyze_table(table, design).comparisons[0].estimate
        assert estimate is not None
        widths.append(estimate.upper - estimate.lower)
    assert widths[0] > 1.3 * widths[1] > 1.3 * 1.3 * widths[2]


def test_a_group_plan_stops_at_a_look_and_remembers_the_looks_before() -> None:
    design = _design(plan=fb.plan.group(looks=2, units=40_000))
    first = analyze(design, _arms(old=(1000, 10_000), new=(1060, 10_000)))
    assert first.outcome is Outcome.WAIT
    assert first.look.time == 0.5
    look = Look(**json.loads(json.dumps(first.to_dict()["look"])))
    last = analyze(design, _arms(old=(2000, 20_000), new=(2150, 20_000)), earlier=[look])
    assert last.outcome is Outcome.SHIP
    estimate = last.comparisons[0].estimate
    assert estimate is not None
    # Lan-DeMets O'Brien-Fleming, two looks: 2.963 and 1.969 (Jennison and Turnbull 2000)
    reach = (estimate.upper - estimate.lower) / 2
    assert reach / (estimate.effect / estimate.statistic) == pytest.approx(1.969, abs=2e-3)  # type: ignore[operator]


@pytest.mark.parametrize("plan", [FIXED, fb.plan.sequential(), fb.plan.group(units=1000)])
def test_arms_without_data_or_variation_are_open_and_not_an_error(plan: Any) -> None:
    design = _design(PAID, fb.Metric("y"), plan=plan)
    for n, k in ((0, 0), (1, 0), (1, 1), (60, 0), (60, 60)):
        rate = Stats(n, ("paid",), (k / n if n else 0.0,), ((0.0,),))
        arms = {arm: ArmData(n, {"paid": rate, "y": _normal(3.0, n, sd=0.0)}) for arm in ("old", "new")}
        if n == 0 and plan.kind == "group":
            continue
        result = analyze(design, arms)
        assert result.outcome in (Outcome.WAIT, Outcome.INCONCLUSIVE)
        json.dumps(result.to_dict(), allow_nan=False)
        str(result)


def test_no_units_at_all_wait_under_a_group_plan_too() -> None:
    empty = Stats(0, ("paid",), (0.0,), ((0.0,),))
    result = analyze(_design(plan=fb.plan.group(units=1000)), {a: ArmData(0, {"paid": empty}) for a in ("old", "new")})
    assert result.outcome is Outcome.WAIT


def test_huge_counts_and_offsets_keep_their_effect() -> None:
    n = 10**12
    result = analyze(_design(fb.Metric("y")), _two(_normal(1e9, n), _normal(1e9 + 1e-3, n)))
    estimate = result.comparisons[0].estimate
    assert estimate is not None
    assert estimate.effect == pytest.approx(1e-3, rel=1e-3)
    assert result.outcome is Outcome.SHIP


def test_a_control_near_zero_has_no_relative_effect_and_negative_metrics_have() -> None:
    assert (
        analyze(_design(fb.Metric("y")), _two(_normal(0.001, 500), _normal(0.5, 500))).comparisons[0].relative is None
    )
    negative = analyze(_design(fb.Metric("y")), _two(_normal(-10.0, 500), _normal(-9.0, 500)))
    assert negative.outcome is Outcome.SHIP
    assert "raises y" in negative.sentence


def test_values_that_are_no_proportion_are_refused_and_a_missing_arm_is_named() -> None:
    with pytest.raises(InputError, match="more than 0 and 1"):
        analyze(_design(), _two(_normal(0.5, 100, name="paid"), _normal(0.5, 100, name="paid")))
    with pytest.raises(UnknownName, match="'new'"):
        analyze(_design(), _arms(old=(1, 10)))


def test_sequential_verdicts_are_seldom_wrong_under_continuous_looks() -> None:
    """120 A/A experiments, 20 looks each: at most 5 % may ever ship or keep; 3 binomial errors allowed."""
    rng = np.random.default_rng(11)
    runs, looks, step = 120, 20, 600
    design = _design(fb.Metric("y"), plan=fb.plan.sequential(), planned_units=6000)
    fixed = _design(fb.Metric("y"), plan=fb.plan.fixed(units=2))
    wrong = peeked = 0
    from flyball.experiments.design.judge import judged, measured
    from flyball.experiments.design.rulers import ruler_of

    for _ in range(runs):
        arms = {a: Stats(0, ("y",), (0.0,), ((0.0,),)) for a in ("old", "new")}
        said = peeks = False
        for look in range(1, looks + 1):
            arms = {a: s.merge(Stats.of({"y": rng.exponential(size=step // 2)})) for a, s in arms.items()}
            seen = measured(design, {a: ArmData(s.n, {"y": s}) for a, s in arms.items()})
            total = look * step
            said = said or judged(design, ruler_of(design, total), seen, total)[0].finding is not Finding.OPEN
            peeks = peeks or judged(fixed, ruler_of(fixed, total), seen, total)[0].finding is not Finding.OPEN
        wrong, peeked = wrong + said, peeked + peeks
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert peeked / runs >= 0.15  # what the same looks do with a fixed test


def test_a_page_runs_nothing_shows_every_comparison_and_escapes_names() -> None:
    metric = fb.Metric("<b>paid</b>", of="paid", kind="proportion", role="primary", margin="5%", value=3.0)
    design = _design(metric, hypothesis="a < b & c")
    arms = {a: ArmData(20_000, {metric.name: _rate(k, 20_000)}) for a, k in (("old", 2000), ("new", 2200))}
    html = render_experiment(design, analyze(design, arms))
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert "<b>paid</b>" not in html
    assert "a &lt; b &amp; c" in html
    assert html.count('<circle class="point') == 1
    assert "sample ratio" in html
    assert "default-src 'none'" in html


def test_results_print_and_turn_into_json_with_stable_keys() -> None:
    result = analyze(_design(), _arms(old=(2000, 20_000), new=(2200, 20_000)))
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert set(data) == {"experiment", "digest", "outcome", "winner", "sentence", "final", "units", "planned",
                         "comparisons", "trust", "impacts", "look", "notes", "beliefs"}  # fmt: skip
    assert data["outcome"] == "ship"
    text = str(result)
    assert text.startswith("e: ship\n")
    assert "sample ratio: passing" in text
