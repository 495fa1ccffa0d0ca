"""What verdicts from the log are worth: equal arms, harmed guardrails, a log that lost rows of one arm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from flyball.experiments import analyze, arms_of_table
from flyball.experiments.design.metric import Metric
from flyball.experiments.design.plans import plan
from flyball.experiments.design.result import Outcome, Result
from flyball.experiments.design.types import Experiment
from flyball.project import Project
from flyball.records.segment import SegmentWriter
from flyball.records.types import Outcome as Truth
from flyball.records.types import Prediction, encode
from flyball.units import to_micros

METRICS = [
    Metric("minutes", of="outcome", direction="down", margin="2%", role="primary"),
    Metric("broken", kind="proportion", of="error", direction="down", role="guardrail", margin="1pp"),
]


@pytest.fixture
def project(trained):
    with Project.open(trained) as opened:
        opened.apply()
        yield opened


def judged(project: Project, *, n: int, effect: float = 0.0, broken: float = 0.0, lost: float = 0.0) -> Result:
    """Judge n units, the treatment's minutes longer by `effect`; of its rows a share is broken, and a share lost."""
    design = Experiment("minutes", arms={"champion": 0.5, "v2": 0.5}, model="eta", metrics=METRICS, planned_units=n)
    status = project.experiments.start(design)
    rng, at = np.random.default_rng(5), to_micros(project.clock.now())
    writer, records = SegmentWriter(project.layout.log / "w7"), []
    for k in range(n):
        treated = bool(rng.random() < 0.5)
        if treated and rng.random() < lost:
            continue
        arm, why = ("v2", "variant") if treated else ("champion", "control")
        error = "broken" if treated and rng.random() < broken else None
        records.append(Prediction(f"p-{k}", "eta", "v1", arm, status.tables[0], f"u{k}", at, {}, [], b"", 1.0, error,
                                  why=why))  # fmt: skip
        records.append(Truth(f"p-{k}", float(rng.normal(10.0 + effect * treated, 2.0)), at, at))
    for start in range(0, len(records), 512):
        writer.append(encode([*records[start : start + 512]]))
    writer.close()
    return project.experiments["minutes"].result()


def test_a_better_arm_with_safe_guardrails_is_shipped_and_a_lower_number_is_better(project):
    result = judged(project, n=6000, effect=-0.5)
    assert (result.outcome, result.winner) == (Outcome.SHIP, "v2")
    assert "v2 lowers minutes by 4" in result.sentence or "v2 lowers minutes by 5" in result.sentence
    assert "no guardrail is harmed; ship v2" in result.sentence


def test_a_harmed_guardrail_keeps_the_control_however_good_the_rest_is(project):
    result = judged(project, n=6000, effect=-0.5, broken=0.03)
    assert result.outcome is Outcome.KEEP and result.harmful and "keep champion" in result.sentence
    assert "broken" in result.sentence


def test_a_log_that_lost_rows_of_one_arm_is_not_to_be_trusted(project):
    result = judged(project, n=20_000, effect=-0.5, lost=0.1)
    assert result.outcome is Outcome.UNTRUSTED and result.harmful and result.winner == ""
    assert result.sentence.startswith("do not read the effects")
    shown = project.experiments["minutes"].status()
    assert shown["ratio"]["verdict"] == "failed"
    assert shown["verdict"]["outcome"] == "not to be trusted"
    assert [e.kind for e in project.experiments["minutes"].events()][-1] == "Looked", "what it told stays told"


@pytest.mark.parametrize("way", [plan.sequential(), plan.fixed()], ids=["sequential, five looks", "fixed"])
def test_of_equal_arms_no_more_is_shipped_than_the_plan_accepts(way):
    rng, runs, n = np.random.default_rng(17), 200, 2000
    wrong = 0
    metrics: list[Any] = [Metric("paid", kind="proportion"), Metric("spend")]
    design = Experiment("aa", arms={"old": 0.5, "new": 0.5}, metrics=metrics, plan=way, planned_units=n)
    for _ in range(runs):
        table = {"arm": np.where(rng.random(n) < 0.5, "new", "old"), "paid": (rng.random(n) < 0.1).astype(float),
                 "spend": rng.lognormal(1.0, 1.0, n)}  # fmt: skip
        looks = (n,) if way == plan.fixed() else (400, 800, 1200, 1600, 2000)
        ends = set()
        for size in looks:
            import pandas as pd

            result = analyze(design, arms_of_table(pd.DataFrame(table).head(size), design))
            ends.add(result.outcome)
        wrong += bool(ends & {Outcome.SHIP, Outcome.KEEP})
    allowed = int(stats.binom.ppf(0.999, runs, 0.05))
    assert wrong <= allowed, f"{wrong} of {runs} where {allowed} are likely at 5 %"
