"""Real experiments: the three arms of an e-mail test, and 78 experiments replayed look by look."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest
from experiments_kit import ASOS, HILLSTROM, needs

import flyball as fb
from flyball.experiments import ArmData, Finding, Outcome, Stats
from flyball.experiments.design.judge import judged, measured
from flyball.experiments.design.rulers import ruler_of

mail, asos = needs(HILLSTROM), needs(ASOS)


def _mail(*metrics: fb.Metric, **more: Any) -> fb.Experiment:
    arms = {"No E-Mail": 1 / 3, "Mens E-Mail": 1 / 3, "Womens E-Mail": 1 / 3}
    given: dict[str, Any] = {"plan": fb.plan.fixed(units=64_000), **more}
    return fb.Experiment("mail", unit="customer", arms=arms, metrics=metrics, **given)


VISIT = fb.Metric("visit", kind="proportion", role="primary")
CONVERSION = fb.Metric("conversion", kind="proportion", role="primary")
SPEND = fb.Metric("spend", role="primary")


@mail
def test_the_published_figures_of_the_mail_test_come_out() -> None:
    result = fb.analyze(HILLSTROM, _mail(VISIT, CONVERSION, SPEND), arm="segment")
    assert result.units == {"No E-Mail": 21_306, "Mens E-Mail": 21_307, "Womens E-Mail": 21_387}
    men, women = result.of("visit", "Mens E-Mail").estimate, result.of("visit", "Womens E-Mail").estimate
    assert men is not None
    assert women is not None
    assert [round(100 * v, 2) for v in (men.control or 0, men.treatment or 0, women.treatment or 0)] == [
        10.62,
        18.28,
        15.14,
    ]
    # the data set's README: 7.659 points (6.995 to 8.323), 4.523 (3.889 to 5.157); z = 7.385, 3.780; t = 5.300, 3.256
    assert [round(100 * v, 2) for v in (men.effect, men.lower, men.upper)] == pytest.approx(
        [7.66, 7.0, 8.32], abs=0.011
    )
    assert [round(100 * v, 2) for v in (women.effect, women.lower, women.upper)] == pytest.approx(
        [4.52, 3.89, 5.16], abs=0.011
    )
    ps = {(c.metric, c.arm): c.estimate.p for c in result.comparisons if c.estimate is not None}
    assert ps["conversion", "Womens E-Mail"] == pytest.approx(0.000157, rel=5e-3)
    assert ps["spend", "Womens E-Mail"] == pytest.approx(0.00113, rel=5e-3)


@mail
def test_the_mens_mail_is_shipped_and_holm_decides() -> None:
    result = fb.analyze(HILLSTROM, _mail(VISIT, CONVERSION, SPEND), arm="segment")
    assert (result.outcome, result.winner) == (Outcome.SHIP, "Mens E-Mail")
    by_p = sorted((c.estimate.p or 0.0, c.p_adjusted or 0.0) for c in result.comparisons if c.estimate is not None)
    running = 0.0
    for left, (p, adjusted) in zip(range(6, 0, -1), by_p, strict=True):  # Holm by hand
        running = max(running, min(1.0, left * p))
        assert adjusted == pytest.approx(running, rel=1e-9)
    assert result.trust.checks[0].numbers["p"] == pytest.approx(0.904, abs=1e-3)


@mail
def test_last_years_purchases_hardly_explain_spend_and_keep_its_effect() -> None:
    plain = fb.analyze(HILLSTROM, _mail(SPEND), arm="segment").of("spend", "Mens E-Mail").estimate
    adjusted = (
        fb.analyze(HILLSTROM, _mail(fb.Metric("spend", covariate="history")), arm="segment").comparisons[0].estimate
    )
    assert plain is not None
    assert adjusted is not None
    assert adjusted.effect == pytest.approx(plain.effect, abs=0.01)
    assert adjusted.upper - adjusted.lower <= plain.upper - plain.lower


@mail
def test_the_mail_test_read_as_it_came_in_ends_by_a_sequential_plan_long_before_its_end() -> None:
    table = pq.read_table(HILLSTROM)
    design = _mail(VISIT, plan=fb.plan.sequential(), planned_units=64_000)
    shipped = next(n for n in range(1000, 64_001, 1000)
                   if fb.analyze(table.slice(0, n), design, arm="segment").outcome is Outcome.SHIP)  # fmt: skip
    assert shipped <= 12_000


def _series() -> Iterator[list[dict[str, Any]]]:
    """Yield the snapshots of metric 1, in order, of each (experiment, variant)."""
    rows = pq.read_table(ASOS, filters=[("metric_id", "=", 1)]).to_pylist()
    rows.sort(key=lambda r: (r["experiment_id"], str(r["variant_id"]), r["time_since_start"]))
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if min(row["count_c"], row["count_t"]) >= 2:
            found.setdefault((row["experiment_id"], str(row["variant_id"])), []).append(row)
    yield from found.values()


def _arm(n: float, mean: float) -> ArmData:
    units = int(n)
    return ArmData(units, {"y": Stats(units, ("y",), (mean,), ((units * mean * (1.0 - mean),),))})


def _z(row: dict[str, Any]) -> float:
    spread = row["variance_c"] / row["count_c"] + row["variance_t"] / row["count_t"]
    return float((row["mean_t"] - row["mean_c"]) / math.sqrt(spread)) if spread > 0 else 0.0


@asos
def test_on_78_experiments_peeking_stops_more_often_and_takes_more_back_than_a_sequence() -> None:
    """Metric 1 of 99 pairs at every snapshot: who ever stops, and whose last snapshot says no (|z| < 1.96)."""
    design = fb.Experiment("asos", arms={"c": 0.5, "t": 0.5}, plan=fb.plan.sequential(), planned_units=500_000,
                           metrics=[fb.Metric("y", kind="proportion")])  # fmt: skip
    peeked = sequential = taken_back = sequence_taken_back = at_last = pairs = 0
    for series in _series():
        pairs += 1
        last = abs(_z(series[-1])) >= 1.959964
        at_last += last
        peeks = any(abs(_z(row)) >= 1.959964 for row in series)
        peeked, taken_back = peeked + peeks, taken_back + (peeks and not last)
        # a sequence is wider than a fixed interval, so looks with a small z, which are most, need no second test
        found = any(abs(_z(row)) >= 1.5 and _finding(design, row) is not Finding.OPEN for row in series)
        sequential, sequence_taken_back = sequential + found, sequence_taken_back + (found and not last)
    print(f"{pairs} pairs: last snapshot {at_last}, peeking {peeked} ({taken_back} taken back), "
          f"sequence {sequential} ({sequence_taken_back} taken back)")  # fmt: skip
    assert (pairs, at_last) == (99, 26)  # the data set's README
    assert peeked >= 1.5 * at_last
    assert sequential <= peeked
    assert sequence_taken_back <= 0.25 * taken_back


def _finding(design: fb.Experiment, row: dict[str, Any]) -> Finding:
    arms = {"c": _arm(row["count_c"], row["mean_c"]), "t": _arm(row["count_t"], row["mean_t"])}
    units = sum(arm.units for arm in arms.values())
    return judged(design, ruler_of(design, units), measured(design, arms), units)[0].finding
