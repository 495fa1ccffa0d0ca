"""Checks beside a result: outliers, weekdays, exposure, the sample ratio over looks; beliefs; Dunnett's correction."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

import flyball as fb
from flyball.errors import DefinitionError
from flyball.experiments import ArmData, Experiment, Outcome, Result, Stats, analyze, arms_of_table
from flyball.experiments.bayes import beta_posterior, probability_best
from flyball.experiments.design.instrument import sample_ratio
from flyball.experiments.tails import Tails
from flyball.experiments.trust.outliers import influence


def _design(*metrics: fb.Metric, plan: Any = None, arms: Any = None, **given: Any) -> Experiment:
    plan = plan or fb.plan.fixed(units=100)
    return Experiment("e", arms=arms or {"old": 0.5, "new": 0.5}, metrics=metrics, plan=plan, **given)


def _check(result: Result, name: str) -> Any:
    return next((check for check in result.trust.checks if check.name.startswith(name)), None)


def _spend(n: int = 1000, *, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"arm": np.repeat(["old", "new"], n), "spend": rng.normal(10.0, 2.0, 2 * n)}


def test_one_unit_that_makes_the_verdict_is_told() -> None:
    table = _spend(200)
    table["spend"][250] = 4000.0
    table["spend"][200:250] += 3.0
    result = analyze(_design(fb.Metric("spend")), arms_of_table(table, _design(fb.Metric("spend"))))
    check = _check(result, "outliers of spend")
    whole = influence(table["spend"][200:], table["spend"][:200], most=0.5)
    assert str(check.verdict) == str(whole.check.verdict)
    assert check.numbers["effect"] == pytest.approx(whole.effect, rel=1e-12)
    assert check.numbers["fewest"] == whole.fewest
    calm = analyze(_design(fb.Metric("spend")), arms_of_table(_spend(), _design(fb.Metric("spend"))))
    assert _check(calm, "outliers of spend").passed


def test_ends_merge_in_any_order_and_know_what_the_whole_knows() -> None:
    values = np.random.default_rng(3).normal(size=999)
    parts = [Tails.of(part.tolist(), kept=7) for part in np.array_split(values, 10)]
    forward, backward = Tails(kept=7), Tails(kept=7)
    for part in parts:
        forward = forward.merge(part)
    for part in reversed(parts):
        backward = backward.merge(part)
    assert forward == backward == Tails.of(values.tolist(), kept=7)
    assert json.loads(json.dumps(forward.to_dict()))["kept"] == 7


def _week(*, lift: float, dates: bool) -> dict[str, Any]:
    rng, n = np.random.default_rng(5), 21_000
    day = np.arange(n) % 21 + 20_000  # 2024-10-04, a Friday, and on
    new = rng.random(n) < 0.5
    weekend = (day + 3) % 7 >= 5
    spend = rng.normal(10.0, 2.0, n) + np.where(new & weekend, lift, 0.0)
    return {"arm": np.where(new, "new", "old"), "spend": spend, "day": day.astype("datetime64[D]") if dates else day}


def test_an_effect_of_weekends_only_is_told_by_days_of_the_calendar() -> None:
    design = _design(fb.Metric("spend"))
    result = analyze(design, arms_of_table(_week(lift=1.0, dates=True), design, day="day"))
    check = _check(result, "effect by weekday")
    assert str(check.verdict) == "warning"
    assert min(check.numbers[f"effect {d}"] for d in ("Saturday", "Sunday")) > 0.7
    assert max(abs(check.numbers[f"effect {d}"]) for d in ("Monday", "Wednesday", "Friday")) < 0.3
    same = analyze(design, arms_of_table(_week(lift=0.0, dates=True), design, day="day"))
    assert _check(same, "effect by weekday").passed
    counted = analyze(design, arms_of_table(_week(lift=1.0, dates=False), design, day="day"))
    assert _check(counted, "effect by weekday") is None  # days since exposure have no weekday


def _rates(**counts: tuple[int, int]) -> dict[str, ArmData]:
    return {arm: ArmData(n, {"paid": Stats(n, ("paid",), (k / n,), ((k * (n - k) / n,),))})
            for arm, (k, n) in counts.items()}  # fmt: skip


def test_unequal_exposure_of_assigned_units_is_not_to_be_trusted() -> None:
    from dataclasses import replace

    design = _design(fb.Metric("paid", kind="proportion"))
    arms = _rates(old=(100, 1000), new=(120, 1000))
    known = {arm: replace(data, assigned=1000 if arm == "old" else 1200) for arm, data in arms.items()}
    result = analyze(design, known)
    assert result.outcome is Outcome.UNTRUSTED
    assert "exposure differs by arm" in result.sentence
    half = {**known, "new": arms["new"]}
    assert _check(analyze(design, half), "exposure") is None


def test_a_sample_ratio_that_was_wrong_at_any_look_stays_wrong() -> None:
    design = _design(fb.Metric("paid", kind="proportion"), plan=fb.plan.sequential())
    broken = analyze(design, _rates(old=(100, 1000), new=(120, 1300)))
    assert broken.outcome is Outcome.UNTRUSTED
    mended = _rates(old=(1000, 10_000), new=(1000, 10_010))
    assert analyze(design, mended).trust.trusted
    later = analyze(design, mended, earlier=[broken.look])
    assert later.outcome is Outcome.UNTRUSTED
    assert later.look.ratio == broken.look.ratio == broken.to_dict()["look"]["ratio"]
    assert sample_ratio(design, {"old": 10_000, "new": 10_010}, [broken.look]).p == pytest.approx(
        np.exp(-broken.look.ratio)
    )


def test_the_chance_that_the_ratio_ever_alarms_stays_below_its_level_over_looks() -> None:
    design = _design(fb.Metric("paid", kind="proportion"), plan=fb.plan.sequential())
    rng, runs, alarms = np.random.default_rng(9), 1000, 0
    for _ in range(runs):
        looks: list[Any] = []
        seen = np.cumsum(rng.binomial(100, 0.5, 30))
        for at, n in enumerate(seen):
            process = sample_ratio(design, {"old": int(n), "new": 100 * (at + 1) - int(n)}, looks)
            looks = [fb.experiments.Look(0.0, {}, process.peak)]
        alarms += not process.check(alpha=0.05).passed
    assert alarms / runs <= 0.05 + 4 * (0.05 * 0.95 / runs) ** 0.5


def test_beliefs_are_those_of_beta_posteriors_and_decide_nothing() -> None:
    metrics = (fb.Metric("paid", kind="proportion"),)
    arms = _rates(old=(100, 1000), new=(120, 1000))
    asked = analyze(_design(*metrics, plan=fb.plan.fixed(units=100, posterior=True)), arms)
    plain = analyze(_design(*metrics), arms)
    assert plain.beliefs == () and (asked.outcome, asked.sentence) == (plain.outcome, plain.sentence)
    old, new = asked.beliefs
    best = probability_best([beta_posterior(100, 1000), beta_posterior(120, 1000)])
    assert (old.best, new.best) == pytest.approx(best, rel=1e-9)
    assert (new.lower, new.upper) == pytest.approx(scipy_stats.beta(121, 881).interval(0.95), rel=1e-9)
    assert "best in paid" in str(asked)
    assert json.loads(json.dumps(asked.to_dict(), allow_nan=False))["beliefs"][1]["arm"] == "new"
    assert "best with" in fb.experiments.render_experiment(
        _design(*metrics, plan=fb.plan.fixed(units=100, posterior=True)), asked
    )


@pytest.mark.parametrize("kind", ["proportion", "mean"])
def test_where_down_is_good_the_lowest_arm_is_best(kind: Any) -> None:
    plan = fb.plan.sequential(posterior=True)
    arms = _rates(old=(100, 1000), new=(120, 1000))
    up = analyze(_design(fb.Metric("paid", kind=kind), plan=plan), arms).beliefs
    down = analyze(_design(fb.Metric("paid", kind=kind, direction="down"), plan=plan), arms).beliefs
    for one, other in zip(up, down, strict=True):
        assert other.best == pytest.approx(1.0 - one.best, rel=1e-9)
        assert (other.mean, other.lower, other.upper) == pytest.approx((one.mean, one.lower, one.upper), rel=1e-6)
        assert other.lower < other.mean < other.upper


def test_dunnetts_correction_is_scipys() -> None:
    rng = np.random.default_rng(2)
    values = {"c": rng.normal(10, 2, 300), "a": rng.normal(10.3, 2, 200), "b": rng.normal(10.6, 2, 250)}
    shares = {"c": 0.4, "a": 0.267, "b": 0.333}
    design = _design(fb.Metric("y"), arms=shares, correction="dunnett", plan=fb.plan.fixed(units=700))
    arms = {arm: ArmData(len(v), {"y": Stats.of({"y": v})}) for arm, v in values.items()}
    result = analyze(design, arms)
    right = scipy_stats.dunnett(values["a"], values["b"], control=values["c"], rng=np.random.default_rng(0))
    interval = right.confidence_interval()
    for at, arm in enumerate(("a", "b")):
        mine = result.of("y", arm)
        assert mine.p_adjusted == pytest.approx(right.pvalue[at], abs=2e-3)
        assert mine.estimate is not None and mine.relative is not None
        assert (mine.estimate.lower, mine.estimate.upper) == pytest.approx(
            (interval.low[at], interval.high[at]), abs=5e-3
        )
        assert (mine.p_adjusted <= 0.05) == (mine.estimate.lower > 0) == (mine.relative[1] > 0)
        assert "Dunnett" in mine.estimate.method


def test_dunnett_splits_its_error_over_metrics_and_answers_in_p_values_as_in_intervals() -> None:
    rng = np.random.default_rng(8)
    design = _design(fb.Metric("y", role="primary"), fb.Metric("z", role="primary"), correction="dunnett",
                     arms={"c": 0.3, "a": 0.3, "b": 0.4}, plan=fb.plan.fixed(units=90))  # fmt: skip
    for _ in range(20):
        arms = {}
        for arm, n in (("c", 30), ("a", 30), ("b", 40)):
            own = {name: Stats.of({name: rng.normal(0.5 * (arm == "b"), 1.0, n)}) for name in ("y", "z")}
            arms[arm] = ArmData(n, own)
        for c in analyze(design, arms).comparisons:
            assert c.estimate is not None and c.p_adjusted is not None
            assert (c.p_adjusted <= 0.05) == (c.estimate.lower > 0 or c.estimate.upper < 0)


def test_dunnett_is_refused_where_it_would_not_hold() -> None:
    with pytest.raises(DefinitionError, match="sequential plan"):
        _design(fb.Metric("y"), correction="dunnett", plan=fb.plan.sequential())
    with pytest.raises(DefinitionError, match="'y' is a ratio"):
        _design(fb.Metric("y", kind="ratio", over="n"), correction="dunnett")
    with pytest.raises(DefinitionError, match="'y' is adjusted"):
        _design(fb.Metric("y", covariate="x"), correction="dunnett")
