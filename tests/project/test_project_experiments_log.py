"""What an experiment reads of the log: shipped or not, doubled, revised, broken, by covariate and by stratum."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any

import numpy as np
import project_kit as kit
import pyarrow.parquet as pq
import pytest

from flyball.adapters.log_files import LogShipper, ShippedFiles
from flyball.errors import DefinitionError, UnknownName
from flyball.experiments.design.metric import Metric
from flyball.experiments.design.plans import plan
from flyball.experiments.design.types import ArmData, Experiment
from flyball.experiments.lifecycle import ExperimentStatus
from flyball.project import Project
from flyball.project.experiment_log import LogScan
from flyball.records.segment import SegmentWriter
from flyball.records.types import Exposure, Outcome, Prediction, encode
from flyball.units import to_micros

FLAGS = kit.DEFINITIONS + '\nnew_map = fb.Flag("new_map", share="10%")\n'
METRICS = [
    Metric("minutes", of="outcome", direction="down", role="primary"),
    Metric("told", of="prediction", kind="mean"),
    Metric("broken", kind="proportion", of="error", direction="down", role="guardrail", margin="1pp"),
    Metric("slow", kind="quantile", of="latency", direction="down", quantile=0.9),
]


@pytest.fixture
def project(trained):
    (trained / "definitions.py").write_text(FLAGS)
    with Project.open(trained) as opened:
        opened.apply()
        yield opened


def begin(project: Project, **more: Any) -> ExperimentStatus:
    given: dict[str, Any] = {"arms": {"champion": 0.5, "v2": 0.5}, "model": "eta", "metrics": METRICS}
    return project.experiments.start(Experiment("minutes", **{**given, **more}))


def rows_of(project: Project, status: ExperimentStatus, n: int = 400) -> list[Any]:
    """Make predictions of n units, with all that can be wrong with an outcome."""
    rng, at = np.random.default_rng(3), to_micros(project.clock.now())
    records: list[Any] = []
    for k in range(n):
        arm, why = (("champion", "control"), ("v2", "variant"))[k % 2]
        inputs = {"zone": k % 3, "distance": 1.5}
        records.append(
            Prediction(f"p-{k}", "eta", "v1", arm, status.tables[0], f"u'{k} \"é\"", at + k, inputs, [1.0], b"",
                       float(k), total=1000 + k, why=why, error="slow" if k % 50 == 0 else None)
        )  # fmt: skip
        records.append(Outcome(f"p-{k}", float(rng.normal(10, 2)), at, at))
    records += [Outcome("p-0", 99.0, at, at, revision=1), Outcome("p-1", 99.0, at, at, revision=1)]
    records += records[3:4] * 2  # the outcome of p-1 again
    records += [Outcome("p-2", float("nan"), at, at, revision=2), Outcome("p-4", float("inf"), at, at, revision=2)]
    records += [Outcome("nobody", 5.0, at, at)]
    return records


def write(project: Project, records: list[Any], worker: str = "w7") -> None:
    writer = SegmentWriter(project.layout.log / worker)
    for start in range(0, len(records), 64):
        writer.append(encode(records[start : start + 64]))
    writer.close()
    SegmentWriter(project.layout.log / worker).append(encode([]))  # so that the one before counts as closed


def ship(project: Project) -> int:
    shipper = LogShipper(project.layout.log, project.log.files)
    try:
        return shipper.ship()
    finally:
        shipper.close()


def flat(arms: dict[str, ArmData]) -> dict[str, Any]:
    return {
        arm: (data.units, data.metrics, {name: values.tolist() for name, values in data.values.items()}, data.strata)
        for arm, data in arms.items()
    }


def test_what_is_shipped_says_the_same_as_what_is_not(project, monkeypatch):
    status = begin(project)
    write(project, rows_of(project, status))
    live = project.experiments["minutes"].gather()
    assert ship(project) == 1
    shipped = project.experiments["minutes"].gather()
    monkeypatch.setattr(ShippedFiles, "local", False, raising=False)
    monkeypatch.setattr(LogScan, "_shipped", _through_fsspec(LogScan._shipped))
    fetched = project.experiments["minutes"].gather()
    for other in (shipped, fetched):
        assert (other.left_out, other.silent) == (live.left_out, live.silent)
        for arm in live.arms:
            ours, theirs = live.arms[arm], other.arms[arm]
            assert ours.units == theirs.units == 200
            for metric in ("minutes", "told", "broken"):
                assert theirs.metrics[metric].means == pytest.approx(ours.metrics[metric].means, rel=1e-12)
                assert theirs.metrics[metric].n == ours.metrics[metric].n
            assert sorted(theirs.values["slow"]) == sorted(ours.values["slow"])


def _through_fsspec(shipped: Any) -> Any:
    def asked(scan: LogScan, *arguments: Any) -> Any:
        scan._files.local = False
        return shipped(scan, *arguments)

    return asked


def test_of_an_outcome_the_newest_revision_counts_once_and_what_is_no_number_not_at_all(project):
    status = begin(project)
    records = rows_of(project, status)
    write(project, records)
    gathered = project.experiments["minutes"].gather()
    truth = {r.id: r.value for r in records if isinstance(r, Outcome)}
    truth |= {"p-1": 99.0, "p-2": 0.0, "p-4": 0.0}
    for arm, odd in (("champion", 0), ("v2", 1)):
        wanted = np.mean([truth[f"p-{k}"] for k in range(odd, 400, 2)])
        assert gathered.arms[arm].metrics["minutes"].mean("outcome") == pytest.approx(wanted, rel=1e-12)
    assert gathered.left_out == {"outcome is no number": 2}
    assert gathered.silent == {"minutes": 2}, "they count as 0, and that is told"
    assert project.experiments["minutes"].status()["silent"] == {"minutes": 2}


def test_strata_are_an_input_of_the_first_request(project):
    status = begin(project, strata=["zone"])
    write(project, rows_of(project, status))
    for shipped in (False, True):
        if shipped:
            ship(project)
        arms = project.experiments["minutes"].gather().arms
        assert set(arms["v2"].strata) == {"0", "1", "2"}
        assert sum(s["minutes"].n for s in arms["v2"].strata.values()) == arms["v2"].units == 200
    assert "over 3 strata" in project.experiments["minutes"].result().of("told", "v2").estimate.method


def test_strata_and_covariates_are_rows_of_a_source_before_the_exposure(project):
    metrics = [Metric("minutes", of="trips.minutes", covariate="trips.distance", window="1d")]
    given = {"arms": {"false": 0.5, "true": 0.5}, "flag": "new_map", "unit": "zone"}
    now = project.clock.now()
    project.experiments.start(Experiment("map", metrics=metrics, **given))
    rows = [Exposure(f"x{k}", "map", str(k), ("false", "true")[k % 2], to_micros(now)) for k in range(1, 7)]
    write(project, rows)
    arms = project.experiments["map"].gather().arms
    assert sum(a.pending["minutes"] for a in arms.values()) == 6
    with Project.open(project.root) as later:
        from flyball.project.experiment_data import gather

        experiment, status = later.database.experiments.get("map")
        arms = gather(later, experiment, status, now + timedelta(days=2)).arms
    table = pq.read_table(project.root / "data" / "trips.parquet")
    ended = np.array([t.replace(tzinfo=UTC).timestamp() for t in table["dropoff_at"].to_pylist()])
    zones, distance = table["zone"].to_numpy(), table["distance"].to_numpy()
    took = ended - np.array([t.replace(tzinfo=UTC).timestamp() for t in table["pickup_at"].to_pylist()])
    kept = (took >= 60) & (took <= 3600) & (ended >= now.timestamp() - 86400) & (ended < now.timestamp())
    wanted = np.mean([distance[kept & (zones == k)].sum() for k in (1, 3, 5)])
    assert arms["true"].metrics["minutes"].mean("trips.distance") == pytest.approx(wanted, rel=1e-9)


def test_a_stratum_that_nothing_holds_is_refused_before_the_first_exposure(project):
    with pytest.raises(UnknownName, match="country"):
        begin(project, strata=["country"])
    flag: dict[str, Any] = {"arms": {"false": 0.5, "true": 0.5}, "flag": "new_map", "unit": "zone"}
    counted = [Metric("trips", kind="count", of="trips.*")]
    with pytest.raises(DefinitionError, match=r"SOURCE\.COLUMN"):
        project.experiments.start(Experiment("map", metrics=counted, strata=["country"], **flag))
    with pytest.raises(DefinitionError, match="timestamp and no number"):
        project.experiments.start(Experiment("map", metrics=[Metric("when", of="trips.pickup_at")], **flag))
    stratified = Experiment("map", metrics=counted, strata=["trips.minutes"], **flag)
    project.experiments.start(stratified)
    write(project, [Exposure("x", "map", "3", "true", to_micros(project.clock.now()) + 1)])
    (stratum,) = project.experiments["map"].gather().arms["true"].strata
    assert float(stratum) > 0


def test_a_peek_between_two_looks_is_no_verdict_and_spends_nothing(project):
    status = begin(project, plan=plan.group(looks=4, units=1600), metrics=METRICS[:2])
    write(project, rows_of(project, status))
    handle = project.experiments["minutes"]
    peeked = handle.result(peek=True)
    assert not peeked.final and "0 of 4" in peeked.sentence
    first = handle.result()
    assert handle.result().look.time == first.look.time
    assert [e.kind for e in handle.events()].count("Looked") == 1, "without a new unit it is the same look"
    page = handle.report(peek=True)
    assert "1 of 4 are taken" in page and "<script" not in page


def test_lists_tell_units_against_the_plan_and_days_left(project):
    status = begin(project, planned_units=1600, ends=project.clock.now() + timedelta(days=3))
    write(project, rows_of(project, status))
    (line,) = project.experiments.list(seen=True)
    assert (line["units"], line["planned_units"], line["days_left"], line["ratio"]) == (400, 1600, 3.0, "passing")
