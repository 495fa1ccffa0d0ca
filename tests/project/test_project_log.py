"""`project.log`: each record once, whether it was shipped, is being shipped or still lies in a segment."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from flyball.adapters.local.segments import read_shipped
from flyball.adapters.log_files import LogShipper
from flyball.errors import UnknownName
from flyball.project import Project
from flyball.project.explain import explain
from flyball.project.log import needed_since
from flyball.settings import ClockSettings
from flyball.testing import client
from flyball.units import to_micros


@pytest.fixture
def project(trained):
    with Project.open(trained) as opened:
        yield opened


def ship(project):
    shipper = LogShipper(project.layout.log, project.log.files)
    try:
        return shipper.ship()
    finally:
        shipper.close()


def ask(project, count):
    with client(project) as http:
        return [http.infer("eta", [{"zone": 1, "distance": 2.0}])["prediction_id"] for _ in range(count)]


def test_shipped_and_live_records_together_are_each_there_once(project):
    first = ask(project, 3)
    before = project.log.table()
    assert before.column("id").to_pylist() == first
    then = ask(project, 1)  # another gateway, another segment: the first one's is closed
    assert ship(project) == 1
    assert project.log.table().column("id").to_pylist() == [*first, *then]
    assert project.log.table().slice(0, 3).equals(before)
    assert project.log.to_pandas(model="other").empty
    assert project.log.table(until=project.clock.now() - timedelta(days=9999)).num_rows == 0


def test_an_unknown_kind_names_the_known_ones(project):
    with pytest.raises(UnknownName, match="predictions"):
        project.log.table("prediction")


def test_where_time_is_simulated_readers_need_everything(project):
    assert needed_since(project, project.clock.now()) == 0


def test_readers_need_the_log_since_the_oldest_window_that_may_be_open(project, monkeypatch):
    now = project.clock.now()
    settings = replace(project.settings, clock=ClockSettings())
    monkeypatch.setattr(type(project), "settings", property(lambda _: settings))
    assert to_micros(now - timedelta(days=30)) < needed_since(project, now) < to_micros(now - timedelta(days=1))


def test_an_erased_subject_leaves_shipped_files_too(project):
    with client(project) as http:
        asked = [{"zone": zone, "distance": 2.0} for zone in (1, 2, 1)]
        ids = [http.infer("eta", [row])["prediction_id"] for row in asked]
    ask(project, 1)
    assert ship(project) == 1
    dry = project.features.erase({"zone": 1}, dry_run=True)
    proof = project.features.erase({"zone": 1})
    shipped = {p.name: (p.removed, p.left) for p in proof.places if p.kind == "prediction log"}
    assert shipped == {"predictions, shadow answers, outcomes, exposures": (3, 0), "shipped Parquet": (2, 0)}
    assert [p.removed for p in dry.places if p.kind == "prediction log"] == [3, 2]
    assert project.log.table().column("id").to_pylist() == [ids[1]]


def test_a_prediction_whose_segment_is_gone_is_explained_from_what_was_shipped(project):
    (first,) = ask(project, 1)
    ask(project, 1)
    assert ship(project) == 1
    before = explain(project, first)
    with client(project) as http:
        row = {"prediction_id": first, "value": 9.5, "event_time": project.clock.now().isoformat()}
        assert http.post("/v1/outcomes", json=[row]).status_code == 200
    for name in read_shipped(project.layout.log).segments:
        (project.layout.log / name).unlink()
    after = explain(project, first)
    assert after["outcome"]["value"] == 9.5
    assert {**after, "outcome": None} == before
