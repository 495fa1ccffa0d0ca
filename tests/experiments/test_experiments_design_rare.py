"""Guardrails on what hardly ever happens are judged by counts, not by a standard error that is not there."""

from __future__ import annotations

import pytest

from flyball.experiments import ArmData, Experiment, Metric, Stats, analyze, plan
from flyball.experiments.design.plans import Plan, PlanKind
from flyball.experiments.design.rare import rare_bounds
from flyball.experiments.design.result import Finding


def judged(bad: tuple[int, int], n: int, way: Plan, margin: str = "1pp") -> Finding:
    rail = Metric("errors", kind="proportion", direction="down", role="guardrail", margin=margin)
    design = Experiment("x", arms={"old": 0.5, "new": 0.5}, metrics=[Metric("paid", kind="proportion"), rail], plan=way,
                        planned_units=2 * n)  # fmt: skip

    def arm(k: int) -> ArmData:
        def of(name: str, yes: int) -> Stats:
            return Stats(n, (name,), (yes / n,), ((yes * (n - yes) / n,),))

        return ArmData(n, {"paid": of("paid", n // 10), "errors": of("errors", k)})

    return analyze(design, {"old": arm(bad[0]), "new": arm(bad[1])}).of("errors", "new").finding


@pytest.mark.parametrize("way", [plan.fixed(), plan.sequential(), plan.group(looks=2)])
def test_no_errors_at_all_are_safe_once_there_are_units_enough(way):
    assert judged((0, 0), 3000, way) is Finding.SAFE
    assert judged((0, 0), 30, way) is Finding.OPEN
    assert judged((0, 0), 3000, way, margin="0.01pp") is Finding.OPEN


@pytest.mark.parametrize("way", [plan.fixed(), plan.sequential()])
def test_few_errors_of_one_arm_are_harm(way):
    assert judged((0, 18), 1000, way, margin="0.1pp") is Finding.WORSE
    assert judged((18, 0), 1000, way, margin="0.1pp") is Finding.SAFE


def test_bounds_of_a_fixed_plan_are_newcombes_hybrid_at_both_ends():
    # Newcombe (1998), Statistics in Medicine 17, table II, method 10, example (d): 9/10 against 3/10, 95 %
    found = rare_bounds(((9, 10), (3, 10)), PlanKind.FIXED, 0.975)
    assert (found.lower, found.upper) == (pytest.approx(0.1705, abs=5e-5), pytest.approx(0.8090, abs=5e-5))
    assert found.level == pytest.approx(0.95)
