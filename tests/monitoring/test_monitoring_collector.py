from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from flyball.control import connect
from flyball.errors import UnknownName
from flyball.monitoring.collector import Collector, ModelMonitors
from flyball.monitoring.definitions import monitor
from flyball.monitoring.performance import metric_value
from flyball.monitoring.types import Alert, DriftWindow, PerformanceWindow
from flyball.profiles.reference import Reference, build_reference
from flyball.records.log import Batch
from flyball.records.types import Outcome, Prediction, Record
from flyball.units import to_micros

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
MONDAY = datetime(2020, 1, 6, 5, tzinfo=UTC)  # midnight in New York
ZONE = "America/New_York"
NAMES = ("a", "b")


class Store:
    """A MonitorStore in memory."""

    def __init__(self) -> None:
        self.windows: dict[tuple[str, str, datetime], DriftWindow] = {}
        self.values: dict[tuple[str, str, str, datetime], PerformanceWindow] = {}
        self.sent: dict[str, Alert] = {}

    def record_drift(self, window: DriftWindow) -> None:
        self.windows.setdefault((window.model, window.version, window.start), window)

    def drift(self, model: str, *, version: str | None = None, limit: int = 100) -> list[DriftWindow]:
        found = [w for w in self.windows.values() if w.model == model and version in (None, w.version)]
        return sorted(found, key=lambda w: w.start)[-limit:]

    def record_performance(self, window: PerformanceWindow) -> None:
        self.values[window.model, window.version, window.metric, window.start] = window

    def performance(self, model: str, *, limit: int = 1000) -> list[PerformanceWindow]:
        return sorted((w for w in self.values.values() if w.model == model), key=lambda w: w.start)[-limit:]

    def alert_once(self, alert: Alert) -> bool:
        return self.sent.setdefault(alert.key, alert) is alert

    def alerts(self, *, since: datetime | None = None) -> list[Alert]:
        return [a for a in self.sent.values() if since is None or a.at >= since]


def _reference(shift: float = 0.0, names: tuple[str, ...] = NAMES) -> Reference:
    rng = np.random.default_rng(0)
    at = to_micros(MONDAY - 14 * DAY) + np.linspace(0, 14 * 86_400e6 - 1e6, 7000)
    matrix = rng.normal(shift, 1, (7000, len(names)))
    return build_reference(matrix, names, at.astype(np.int64), window=DAY, timezone=ZONE)


REFERENCES = {("m", "v1"): _reference(), ("m", "v2"): _reference(shift=1.0), ("m", "v9"): _reference(names=("a", "c"))}


def _collector(store: Store, matures: timedelta = 2 * HOUR) -> Collector:
    watch = ModelMonitors("m", (monitor.drift(), monitor.performance("mae")), timezone=ZONE, matures=matures)
    return Collector(store=store, models=[watch], references=lambda m, v: REFERENCES.get((m, v)))


def _rows(day: float, rows: int = 600, hours: float = 24, shift: float = 0.0, seed: int = 1, **more) -> list[Record]:
    rng = np.random.default_rng([seed, int(day * 24)])
    start = to_micros(MONDAY + day * DAY)
    base = {"model": "m", "version": "v1", "arm": "champion", "table": 1, "value": 10.0} | more
    return [
        Prediction(
            id=f"{day}-{seed}-{i}", unit=str(i), at=start + int(i * hours * 3600e6 / rows), inputs={}, statuses=b"\0\0",
            features=[float(x) for x in rng.normal(shift, 1, 2)], **base,
        )
        for i in range(rows)
    ]  # fmt: skip


def _outcomes(rows: list[Record], value: float = 12.0, revision: int = 0) -> list[Record]:
    return [Outcome(r.id, value, r.at + 600_000_000, r.at + 600_000_000, revision=revision) for r in rows]


def _batch(records: list[Record]) -> list[Batch]:
    return [Batch("w0/x.seg", 0, 1, records)]


def test_quiet_days_record_windows_of_local_days_without_an_alert() -> None:
    store = Store()
    collector = _collector(store)
    for day in range(3):
        collector.fold(_batch(_rows(day)))
    closed = collector.close(MONDAY + 3 * DAY)
    assert [(w.start, w.rows, w.level) for w in closed] == [(MONDAY + d * DAY, 600, "none") for d in range(3)]
    assert store.alerts() == []


def test_a_window_closes_only_when_it_ended() -> None:
    collector = _collector(Store())
    collector.fold(_batch(_rows(0)))
    assert collector.close(MONDAY + DAY - timedelta(microseconds=1)) == []
    assert len(collector.close(MONDAY + DAY)) == 1
    assert collector.close(MONDAY + DAY) == []


def test_lasting_drift_warns_then_pages_once() -> None:
    store = Store()
    collector = _collector(store)
    for day in range(2):
        collector.fold(_batch(_rows(day, shift=0.8)))
        collector.close(MONDAY + (day + 1) * DAY)
    assert [a.severity for a in store.alerts()] == ["warn", "page"]
    assert [w.level for w in store.drift("m")] == ["warn", "page"]


def test_windows_and_alerts_come_back_equal_from_the_control_database(tmp_path: Path) -> None:
    database = connect(f"sqlite:///{tmp_path / 'control.db'}")
    memory = Store()
    for store in (memory, database.monitors):
        collector = _collector(store)
        for day in range(2):
            rows = _rows(day, shift=0.8)
            collector.fold(_batch(rows + _outcomes(rows)))
            collector.close(MONDAY + (day + 1) * DAY)
    assert database.monitors.drift("m") == memory.drift("m")
    assert database.monitors.performance("m") == memory.performance("m")
    assert database.monitors.alerts() == memory.alerts()
    database.close()


def test_a_restart_at_any_pass_comes_to_the_same_records() -> None:
    passes = [_rows(d, shift=0.5 * d) for d in range(4)]
    passes = [rows + _outcomes(rows[:300]) for rows in passes]
    whole, restarted = Store(), Store()
    collector = _collector(whole)
    for day, records in enumerate(passes):
        collector.fold(_batch(records))
        collector.close(MONDAY + (day + 1) * DAY + HOUR)
        again = _collector(restarted)  # a new process reads the log from its beginning
        for earlier in passes[: day + 1]:
            again.fold(_batch(earlier))
        again.close(MONDAY + (day + 1) * DAY + HOUR)
    assert whole.windows == restarted.windows
    assert whole.values == restarted.values
    assert whole.sent == restarted.sent


def test_a_promotion_splits_the_window_and_the_new_part_meets_the_new_reference() -> None:
    store = Store()
    collector = _collector(store)
    collector.fold(_batch(_rows(0, hours=12, rows=400)))
    collector.fold(_batch(_rows(0.5, hours=12, rows=400, shift=1.0, version="v2", table=2)))
    collector.close(MONDAY + DAY)
    old, new = store.drift("m", version="v1")[0], store.drift("m", version="v2")[0]
    assert (old.level, new.level) == ("none", "none")
    assert (old.rows, new.rows) == (400, 400)
    assert "served 50% of the window" in new.text


def test_candidates_count_for_the_champion_when_they_read_the_same_columns() -> None:
    store = Store()
    collector = _collector(store)
    collector.fold(_batch(_rows(0, rows=10)))
    collector.fold(_batch(_rows(0, rows=20, version="v2", arm="candidate", seed=2)))
    collector.fold(_batch(_rows(0, rows=40, version="v9", arm="candidate", seed=3)))
    collector.fold(_batch(_rows(0, rows=80, fallback=True, error="boom", arm="candidate", seed=4)))
    collector.fold(_batch(_rows(0, rows=90, arm="pinned", seed=6)))
    collector.fold(_batch(_rows(0, rows=160, value=None, error="boom", seed=5)))
    assert [(w.version, w.rows) for w in collector.close(MONDAY + DAY)] == [("v1", 30)]


def test_performance_is_pending_then_provisional_then_final() -> None:
    store = Store()
    collector = _collector(store)
    rows = _rows(0)
    collector.fold(_batch(rows))
    seen = []
    for hours, records in [(24, []), (25, _outcomes(rows[:300])), (26, _outcomes(rows[300:450], 16.0)), (30, [])]:
        collector.fold(_batch(records))
        collector.close(MONDAY + hours * HOUR)
        window = store.performance("m")[0]
        seen.append((window.state, window.value, window.coverage))
    final = ("final", pytest.approx((300 * 2 + 150 * 6) / 450), 0.75)
    assert seen == [("pending", None, 0.0), ("provisional", 2.0, 0.5), final, final]


def test_a_higher_revision_replaces_an_outcome_and_a_lower_one_does_not() -> None:
    store = Store()
    collector = _collector(store)
    rows = _rows(0)
    collector.fold(_batch(rows + _outcomes(rows, 12.0, revision=1)))
    collector.fold(_batch(_outcomes(rows, 99.0, revision=0) + _outcomes(rows[:300], 14.0, revision=2)))
    collector.close(MONDAY + DAY)
    assert store.performance("m")[0].value == pytest.approx(3.0)


def test_outcomes_may_be_read_a_pass_before_their_predictions_and_strangers_are_forgotten() -> None:
    store = Store()
    collector = _collector(store)
    rows = _rows(0)
    collector.fold(_batch(_outcomes(rows)))
    collector.fold(_batch(rows))
    collector.fold(_batch([Outcome("stranger", 1.0, 0, 0)]))
    for _ in range(3):
        collector.fold([])
    collector.close(MONDAY + DAY)
    assert store.performance("m")[0].coverage == 1.0
    assert collector.late == 1


def test_each_version_has_its_own_performance() -> None:
    store = Store()
    collector = _collector(store)
    good, bad = _rows(0), _rows(0, version="v2", arm="candidate", seed=2, value=30.0)
    collector.fold(_batch(good + bad + _outcomes(good) + _outcomes(bad)))
    collector.close(MONDAY + DAY)
    assert {w.version: w.value for w in store.performance("m")} == {"v1": 2.0, "v2": 18.0}


@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_are_their_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 2, 80).astype(float), np.round(rng.random(80), 1)
    ranked = stats.mannwhitneyu(p[y == 1], p[y == 0]).statistic / ((y == 1).sum() * (y == 0).sum())
    assert metric_value("auc", y, list(p)) == pytest.approx(ranked)
    assert metric_value("auc", np.ones(80), list(p)) is None
    assert metric_value("mae", y, list(p)) == pytest.approx(np.abs(y - p).mean())
    assert metric_value("rmse", y, list(p)) ** 2 == pytest.approx(metric_value("mse", y, list(p)))
    assert metric_value("brier", y, [[1 - v, v] for v in p]) == pytest.approx(((p - y) ** 2).mean())
    assert metric_value("accuracy", y, [[0.1, 0.2, 0.7]] * 80) == 0.0
    three = [[0.2, 0.5, 0.3]] * 80
    assert metric_value("logloss", y, three) == pytest.approx(-np.where(y == 1, np.log(0.5), np.log(0.2)).mean())
    with pytest.raises(UnknownName, match="did you mean mae"):
        metric_value("maee", y, list(p))
