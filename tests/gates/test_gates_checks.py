"""The gate's checks: verdicts at their limits, intervals against references and by simulation."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from flyball.errors import DefinitionError, UnitError, UnknownName
from flyball.features.spec import FeatureService
from flyball.gates.checks import MIN_CALLS, MIN_ROWS, Facts, gate, judge
from flyball.gates.paired import paired_difference
from flyball.gates.run import measure_latency, run_gate
from flyball.gates.types import Check, GateReport, GateSpec, Verdict
from flyball.registry.evaluation import Evaluation, auc, metrics_of
from flyball.registry.types import Manifest

UNIX = datetime(1970, 1, 1, tzinfo=UTC)


def evaluation(
    n: int = 1000, *, candidate: float = 1.0, champion: float | None = 1.0, classifier: bool = False, left_out: int = 0
) -> Evaluation:
    """Return answers that miss the truth by exactly the given error."""
    y = np.linspace(0.0, 10.0, n)
    mine = y + candidate
    theirs = None if champion is None else y - champion
    return Evaluation(
        rows=n, metrics=metrics_of(y, mine, classifier=classifier), y=y, candidate=mine, champion=theirs,
        champion_version=None if champion is None else "v1", left_out=left_out, low=float(mine.min()),
        high=float(mine.max()), classifier=classifier,
    )  # fmt: skip


def verdict(spec: GateSpec, seen: Evaluation, *, size: int = 1000, latencies: np.ndarray | None = None) -> Check:
    times = np.full(MIN_CALLS, 1e-3) if latencies is None else latencies
    report = judge([spec], Facts(seen, size, times), model="eta", version="v2", dataset="d")
    return report.checks[0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(1.0, Verdict.PASSING), (1.0099, Verdict.PASSING), (1.0101, Verdict.BREACHED), (0.5, Verdict.PASSING)],
)
def test_beats_champion_allows_its_margin(error: float, expected: Verdict) -> None:
    assert verdict(gate.beats_champion("mae", margin="1%"), evaluation(candidate=error)).verdict is expected


def test_beats_champion_shows_both_numbers_and_an_interval() -> None:
    text = verdict(gate.beats_champion("mae", margin="1%"), evaluation(candidate=2.0)).text
    assert "mae 2 against 1 of champion v1 on the same 1000 rows" in text
    assert "95 % interval" in text


def test_first_version_passes_and_says_so() -> None:
    check = verdict(gate.beats_champion("mae"), evaluation(champion=None))
    assert check.verdict is Verdict.PASSING
    assert "no champion yet" in check.text


def test_too_few_common_rows_are_inconclusive() -> None:
    check = verdict(gate.beats_champion("mae"), evaluation(MIN_ROWS - 1))
    assert check.verdict is Verdict.INCONCLUSIVE
    assert f"only {MIN_ROWS - 1} rows" in check.text


def test_a_champion_that_cannot_answer_is_inconclusive() -> None:
    seen = evaluation(champion=None)
    seen = Evaluation(**{**as_dict(seen), "champion_version": "v1", "reason": "its inputs are gone"})
    check = verdict(gate.beats_champion("mae"), seen)
    assert check.verdict is Verdict.INCONCLUSIVE
    assert "its inputs are gone" in check.text


def test_higher_is_better_is_read_the_right_way_round() -> None:
    y = np.tile([0.0, 1.0], 500)
    good, bad = np.where(y == 1, 0.8, 0.2), np.where(y == 1, 0.6, 0.4)
    flip = np.arange(1000) % 5 == 0
    weak = np.where(flip, 1 - bad, bad)
    better = Evaluation(rows=1000, metrics=metrics_of(y, good, classifier=True), y=y, candidate=good, champion=weak,
                        champion_version="v1", classifier=True)  # fmt: skip
    worse = Evaluation(rows=1000, metrics=metrics_of(y, weak, classifier=True), y=y, candidate=weak, champion=good,
                       champion_version="v1", classifier=True)  # fmt: skip
    for metric in ("auc", "accuracy"):
        assert verdict(gate.beats_champion(metric, margin="1%"), better).verdict is Verdict.PASSING
        assert verdict(gate.beats_champion(metric, margin="1%"), worse).verdict is Verdict.BREACHED


def test_metric_limits() -> None:
    seen = evaluation(candidate=2.0)
    assert verdict(gate.metric("mae", max=2.1), seen).verdict is Verdict.PASSING
    assert verdict(gate.metric("mae", max=1.9), seen).verdict is Verdict.BREACHED
    assert verdict(gate.metric("r2", min=0.9), seen).verdict is Verdict.BREACHED
    assert verdict(gate.metric("auc", min=0.5), seen).verdict is Verdict.INCONCLUSIVE
    assert verdict(gate.metric("mae", max=9.0), evaluation(50)).verdict is Verdict.INCONCLUSIVE


def test_a_passing_check_names_its_limits() -> None:
    assert verdict(gate.metric("mae", max=2.1), evaluation()).text.endswith("limit at most 2.1")
    assert verdict(gate.metric("r2", min=-5, max=1), evaluation()).text.endswith("limit at least -5 and at most 1")
    assert verdict(gate.bounds(0, 20), evaluation()).text.endswith("limit 0 to 20")


def test_latency_reads_the_99th_percentile() -> None:
    slow = np.full(400, 1e-3)
    slow[:8] = 0.1
    assert verdict(gate.latency(p99="20ms"), evaluation(), latencies=slow).verdict is Verdict.BREACHED
    assert verdict(gate.latency(p99="20ms"), evaluation()).verdict is Verdict.PASSING
    assert verdict(gate.latency(p99="20ms"), evaluation(), latencies=slow[:10]).verdict is Verdict.INCONCLUSIVE


def test_size_is_parsed_and_compared_in_bytes() -> None:
    assert verdict(gate.size("1kB"), evaluation(), size=1000).verdict is Verdict.PASSING
    assert verdict(gate.size("1kB"), evaluation(), size=1001).verdict is Verdict.BREACHED


def test_bounds_hold_for_every_prediction() -> None:
    seen = evaluation()  # predictions 1 to 11
    assert verdict(gate.bounds(0, 20), seen).verdict is Verdict.PASSING
    assert verdict(gate.bounds(2, 20), seen).verdict is Verdict.BREACHED
    assert verdict(gate.bounds(0, 10.9), seen).verdict is Verdict.BREACHED
    assert verdict(gate.bounds(0, 20), Evaluation(**{**as_dict(seen), "bad": 1})).verdict is Verdict.BREACHED


def test_worst_verdict_decides_and_no_checks_pass() -> None:
    facts = Facts(evaluation(candidate=2.0), 1, np.empty(0))
    wanted = [gate.metric("mae", max=9), gate.latency(p99="1s"), gate.metric("mae", max=1)]
    report = judge(wanted, facts, model="m", version="v1", dataset="d")
    assert [c.verdict for c in report.checks] == [Verdict.PASSING, Verdict.INCONCLUSIVE, Verdict.BREACHED]
    assert report.verdict is Verdict.BREACHED
    assert judge([], facts, model="m", version="v1", dataset="d").verdict is Verdict.PASSING


def test_report_survives_json() -> None:
    report = judge([gate.size(5)], Facts(evaluation(), 1, np.empty(0)), model="m", version="v1", dataset="d")
    body = report.to_json()
    assert msgspec.json.decode(body)["verdict"] == "passing"
    assert msgspec.json.decode(body, type=GateReport) == report


def test_wrong_definitions_say_what_to_write() -> None:
    with pytest.raises(UnknownName, match="did you mean mae"):
        gate.beats_champion("maee")
    with pytest.raises(DefinitionError, match="no limit"):
        gate.metric("mae")
    with pytest.raises(DefinitionError, match="empty"):
        gate.bounds(2, 1)
    with pytest.raises(UnitError, match="no size"):
        gate.size("50 apples")


def test_interval_of_a_mean_difference_is_the_normal_one() -> None:
    from scipy import stats

    rng = np.random.default_rng(1)
    y = rng.normal(size=500)
    a, b = y + rng.normal(size=500), y + rng.normal(size=500)
    d = np.abs(a - y) - np.abs(b - y)
    expected = stats.norm.interval(0.95, loc=d.mean(), scale=stats.sem(d))
    assert paired_difference("mae", y, a, b, classifier=False) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", ["mae", "rmse", "r2"])
def test_interval_covers_the_true_difference(metric: str) -> None:
    """400 repetitions: 95 % coverage has a standard error of 1.1 points, so 91 to 99 % is within 3.6 of them."""
    rng = np.random.default_rng(2)
    truth = {"mae": math.sqrt(2 / math.pi) * 0.1, "rmse": 0.1, "r2": -(1.1**2 - 1.0) / 4.0}[metric]
    hits = 0
    for _ in range(400):
        y = rng.normal(scale=2.0, size=600)
        a, b = y + 1.1 * rng.normal(size=600), y + rng.normal(size=600)
        low, high = paired_difference(metric, y, a, b, classifier=False)
        hits += low <= truth <= high
    assert 0.91 <= hits / 400 <= 0.99


def test_metrics_equal_scikit_learn() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(3)
    y, p = rng.normal(size=300), rng.normal(size=300)
    ours = metrics_of(y, p, classifier=False)
    assert ours["r2"] == pytest.approx(metrics.r2_score(y, p))
    assert ours["mse"] == pytest.approx(metrics.mean_squared_error(y, p))
    c = (y > 0).astype(float)
    q = np.round(1 / (1 + np.exp(-y - p)), 1).clip(0.05, 0.95)  # rounded, for ties
    both = np.column_stack([1 - q, q])
    ours = metrics_of(c, both, classifier=True)
    assert ours["auc"] == pytest.approx(metrics.roc_auc_score(c, q))
    assert ours["logloss"] == pytest.approx(metrics.log_loss(c, both))
    assert ours["brier"] == pytest.approx(metrics.brier_score_loss(c, q))


def test_auc_of_one_class_is_unknown() -> None:
    assert math.isnan(auc(np.ones(3), np.arange(3.0)))


def test_latency_is_measured_row_by_row() -> None:
    shapes = set()

    def predict(row: np.ndarray) -> np.ndarray:
        shapes.add(row.shape)
        return row[:, 0]

    assert len(measure_latency(predict, np.zeros((3, 2)))) == MIN_CALLS
    assert shapes == {(1, 2)}
    assert len(measure_latency(predict, np.zeros((0, 2)))) == 0


def as_dict(seen: Evaluation) -> dict[str, object]:
    return {name: getattr(seen, name) for name in Evaluation.__dataclass_fields__}


def test_a_passing_disturbance_is_not_held_against_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)  # a busy machine must not decide this test
    monkeypatch.setattr("flyball.gates.run.time", clock)

    class Disturbed:
        calls = 0
        path = tmp_path
        manifest = Manifest("m", "v1", "r", "skops", {}, FeatureService("m", "at", (), ()), "d", "", UNIX)

        def sample(self) -> np.ndarray:
            return np.zeros((4, 1))

        def predict(self, row: np.ndarray) -> np.ndarray:
            self.calls += 1
            clock.now += 0.003 if self.calls <= 350 else 0.0001
            return row[:, 0]

    model: Any = Disturbed()
    assert run_gate([gate.latency(p99="2ms")], model, evaluation()).verdict is Verdict.PASSING
    assert model.calls == 700
