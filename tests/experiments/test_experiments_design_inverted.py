"""Swapping the arms flips every sign and verdict, over plans and kinds; and a design is seldom wrong where nothing is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flyball as fb
from flyball.errors import InputError
from flyball.experiments import Comparison, Finding, aa_design, analyze, arms_of_table

KINDS: Mapping[str, fb.Metric] = {
    "proportion": fb.Metric("paid", kind="proportion", role="primary"),
    "mean": fb.Metric("spend", role="primary"),
    "count": fb.Metric("visits", kind="count", role="primary", direction="down"),
    "winsorised": fb.Metric("spend", role="primary", winsor=(1.0, 50.0)),
    "ratio": fb.Metric("per_visit", kind="ratio", of="spend", over="visits", role="primary"),
    "cuped": fb.Metric("spend", covariate="before", role="primary"),
    "quantile": fb.Metric("spend", kind="quantile", quantile=0.9, role="primary"),
}
PLANS = {
    "fixed": fb.plan.fixed(units=100),
    "sequential": fb.plan.sequential(),
    "group": fb.plan.group(looks=3, units=3000),
}
PAIRS = [(plan, kind) for plan in PLANS for kind in KINDS if (plan == "fixed" or kind != "quantile")]


def _units(seed: int, n: int, m: int, lift: float) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    new = np.arange(n + m) >= n
    before = rng.gamma(2.0, 5.0, n + m)
    return {
        "arm": np.where(new, "new", "old"), "before": before, "land": rng.choice(["north", "south"], n + m),
        "spend": (0.5 * before + rng.gamma(2.0, 5.0, n + m)) * np.where(new, lift, 1.0),
        "visits": 1 + rng.poisson(2.0 * np.where(new, lift, 1.0)),
        "paid": rng.random(n + m) < np.where(new, 0.2 * lift, 0.2),
    }  # fmt: skip


def _both(plan: str, metric: fb.Metric, table: Mapping[str, Any], **given: Any) -> tuple[Comparison, Comparison]:
    """Return the comparison as it is, and with the arms swapped."""
    n = {arm: int((table["arm"] == arm).sum()) for arm in ("old", "new")}
    total = sum(n.values())
    found = []
    for control, treatment in (("old", "new"), ("new", "old")):
        shares = {arm: n[arm] / total for arm in (control, treatment)}
        design = fb.Experiment("e", arms=shares, metrics=[metric], plan=PLANS[plan], planned_units=total, **given)
        found.append(analyze(design, arms_of_table(table, design)).of(metric.name, treatment))
    return found[0], found[1]


def _assert_flipped(one: Comparison, other: Comparison, *, rel: float = 1e-7) -> None:
    assert one.estimate is not None and other.estimate is not None
    assert one.estimate.effect == pytest.approx(-other.estimate.effect, rel=rel)
    assert one.estimate.lower == pytest.approx(-other.estimate.upper, rel=rel, abs=1e-9)
    assert one.estimate.upper == pytest.approx(-other.estimate.lower, rel=rel, abs=1e-9)
    assert one.p_adjusted == pytest.approx(other.p_adjusted, rel=1e-6)
    turned = {Finding.BETTER: Finding.WORSE, Finding.WORSE: Finding.BETTER}
    assert other.finding is turned.get(one.finding, one.finding)
    if one.relative is not None and other.relative is not None:
        assert (1.0 + one.relative[0]) * (1.0 + other.relative[0]) == pytest.approx(1.0, rel=rel)


@pytest.mark.parametrize(("plan", "kind"), PAIRS)
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000), st.integers(300, 900), st.integers(300, 900), st.floats(0.7, 1.4))
def test_swapped_arms_flip_every_number(plan: str, kind: str, seed: int, n: int, m: int, lift: float) -> None:
    _assert_flipped(*_both(plan, KINDS[kind], _units(seed, n, m, lift)))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["mean", "ratio"])
def test_swapped_arms_flip_within_strata(plan: str, kind: str) -> None:
    _assert_flipped(*_both(plan, KINDS[kind], _units(4, 800, 500, 1.2), strata=["land"]))


def test_swapped_arms_flip_beliefs() -> None:
    table, found = _units(4, 800, 500, 1.1), []
    for arms in (("old", "new"), ("new", "old")):
        n = {arm: float((table["arm"] == arm).mean()) for arm in arms}
        plan = fb.plan.fixed(units=100, posterior=True)
        design = fb.Experiment("e", arms=n, metrics=[KINDS["mean"]], plan=plan)
        found.append({b.arm: b for b in analyze(design, arms_of_table(table, design)).beliefs})
    for arm in ("old", "new"):
        assert found[0][arm].best == pytest.approx(found[1][arm].best, rel=1e-9)
        assert found[0][arm].loss == pytest.approx(found[1][arm].loss, rel=1e-6)


@pytest.mark.parametrize("plan", PLANS)
def test_a_design_finds_an_effect_of_nothing_as_seldom_as_its_plan_says(plan: str) -> None:
    table = {name: column for name, column in _units(7, 600, 600, 1.0).items() if name != "arm"}
    design = fb.Experiment(
        "e", arms={"a": 0.4, "b": 0.3, "c": 0.3}, metrics=[KINDS["cuped"], KINDS["proportion"]], plan=PLANS[plan],
        planned_units=100,
    )  # fmt: skip
    runs = 80
    tried = aa_design(table, design, rng=np.random.default_rng(1), runs=runs, looks=2)
    assert tried.wrong / runs <= 0.05 + 3.5 * (0.05 * 0.95 / runs) ** 0.5
    assert tried.check.verdict.name != "FAILED"
    assert tried.shipped <= tried.wrong
    assert tried.to_dict()["found"].keys() == {"spend/b", "spend/c", "paid/b", "paid/c"}


def test_a_design_that_looks_without_paying_for_it_fails_its_own_trial() -> None:
    table = {"spend": np.random.default_rng(3).normal(size=900)}
    design = fb.Experiment(
        "e", arms={f"arm{i}": 0.1 for i in range(8)}, metrics=[fb.Metric("spend")], correction="none",
        plan=fb.plan.fixed(units=10),
    )  # fmt: skip
    tried = aa_design(table, design, rng=np.random.default_rng(5), runs=100)
    assert tried.check.verdict.name == "FAILED"
    assert "5.0% is allowed" in str(tried)


def test_rows_of_one_unit_are_drawn_together() -> None:
    rng = np.random.default_rng(6)
    owner = rng.integers(0, 300, 3000)
    table = {"user": owner, "spend": rng.gamma(2.0, 1.0, 3000) + rng.normal(size=300)[owner]}
    design = fb.Experiment("e", arms={"a": 0.5, "b": 0.5}, metrics=[fb.Metric("spend")], plan=fb.plan.fixed(units=10))
    tried = aa_design(table, design, rng=np.random.default_rng(5), runs=60, rows="events")
    assert tried.check.passed
    with pytest.raises(InputError, match="at least 20 runs"):
        aa_design(table, design, rng=rng, runs=3)
