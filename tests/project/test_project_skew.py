"""Skew: what was served is what history says; a difference is found, named, and refused where it must be exact."""

from __future__ import annotations

import json
import math
from datetime import timedelta

import numpy as np
import project_kit as kit
import pytest

from flyball.cli.app import run
from flyball.errors import InputError, UnknownName
from flyball.features.skew import compare
from flyball.features.spec import (
    ColumnSpec,
    EntitySpec,
    FeatureService,
    FeatureSpec,
    ServiceColumn,
    SourceSpec,
    Stat,
    ViewSpec,
)
from flyball.project import Project
from flyball.records.segment import SegmentWriter
from flyball.records.types import Prediction, encode
from flyball.units import to_micros

NAN = math.nan


@pytest.fixture(scope="module")
def served_template(trained_template, tmp_path_factory):
    """A project that served two hours while trips were pushed."""
    folder = kit.copy_of(trained_template, tmp_path_factory.mktemp("served") / "small")
    with Project.open(folder) as project:
        ask = kit.caller(project)
        for _ in range(2):
            project.clock.set(project.clock.now() + timedelta(minutes=40))
            project.features.materialize("traffic")  # a few trips of the file end after it was materialized first
            ask.push_ended()
            ask.ask(40, per_request=2)
        ask.http.close()
    return folder


def served_wrongly(folder, **changes):
    """Log one prediction of v1 as served a moment ago, with values changed."""
    with Project.open(folder) as project:
        at = to_micros(project.clock.now())
        names = project.models["eta"].load("v1").manifest.service.names
        table = (
            project.features.history([{"zone": 1, "at": project.clock.now()}], ["traffic"], at="at")
            .to_arrow()
            .to_pylist()[0]
        )
        values = {"trips_1h": table["trips_1h"], "minutes_24h": table["minutes_24h"], "distance": 2.0} | changes
        features = [float(values[n]) for n in names]
    writer = SegmentWriter(folder / ".flyball" / "log" / "w9")
    writer.append(encode([
        Prediction("bad", "eta", "v1", "champion", 1, "u", at, {"zone": 1, "distance": 2.0}, features, bytes(3), 1.0)
    ]))  # fmt: skip
    writer.close()


def test_serving_while_rows_come_in_has_no_skew(served_template):
    with Project.open(served_template) as project:
        report = project.features.skew()
        (version,) = report.versions
        assert (version.model, version.version, version.predictions) == ("eta", "v1", 80)
        assert [(c.name, c.exact) for c in version.columns] == [
            ("trips_1h", True), ("minutes_24h", False), ("distance", True),
        ]  # fmt: skip
        assert report.skewed == 0
        assert report.broken == ()


def test_a_sample_takes_all_requests_of_an_entity_or_none(served_template):
    from flyball.project.skew import _drawn, _served

    with Project.open(served_template) as project:
        taken: dict[int, set[bool]] = {}
        for record in _served(project, None, None):
            taken.setdefault(record.inputs["zone"], set()).add(_drawn(project, record, 0.5, {}))
        assert {len(v) for v in taken.values()} == {1}
        assert set.union(*taken.values()) == {True, False}


def test_only_one_view_one_model_some_entities_or_a_time_can_be_asked_for(served_template):
    with Project.open(served_template) as project:
        skew = project.features.skew
        assert [c.name for c in skew("traffic").versions[0].columns] == ["trips_1h", "minutes_24h"]
        half = skew(sample=0.5).versions[0].predictions
        assert 0 < half < 80
        assert skew(sample=0.5).versions[0].predictions == half
        assert skew(since=project.clock.now() + timedelta(days=1)).versions == ()
        with pytest.raises(UnknownName, match="traffic"):
            skew("trafic")
        with pytest.raises(UnknownName, match="eta"):
            skew(model="etta")
        with pytest.raises(InputError):
            skew(sample=0)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"trips_1h": 999}, {"mismatch": 1, "missing": 0, "extra": 0}),
        ({"trips_1h": NAN}, {"mismatch": 0, "missing": 1, "extra": 0}),
    ],
)
def test_an_exact_feature_that_differs_is_named_with_an_example_and_refused(
    served_template, tmp_path, capsys, changes, counts
):
    folder = kit.copy_of(served_template, tmp_path / "s")
    served_wrongly(folder, **changes)
    assert run(["feature", "skew", "--json", "-p", str(folder)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["broken"] == ["eta v1 trips_1h"]
    column = found["report"]["versions"][0]["columns"][0]
    assert {k: column[k] for k in counts} == counts
    assert column["examples"][0]["prediction"] == "bad"
    assert run(["feature", "skew", "-p", str(folder), "--out", str(tmp_path / "skew.html")]) == 1
    said = capsys.readouterr()
    assert "trips_1h of bad: served" in said.out
    assert "must be exact" in said.err
    assert "Not exact: eta v1 trips_1h" in (tmp_path / "skew.html").read_text()


def test_a_float_that_differs_is_reported_and_not_refused(served_template, tmp_path, capsys):
    folder = kit.copy_of(served_template, tmp_path / "s")
    served_wrongly(folder, minutes_24h=77.0)
    assert run(["feature", "skew", "traffic", "--json", "-p", str(folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["skewed"], found["broken"]) == (1, [])


def service(*features: FeatureSpec) -> FeatureService:
    source = SourceSpec("s", "p", "at", None, "UTC", (), None, 0)
    view = ViewSpec("v", EntitySpec("e", (ColumnSpec("k", "int64"),)), source, None, features)
    columns = tuple(ServiceColumn(f.name, "view", view="v") for f in features)
    return FeatureService("m", "at", columns, (), (view,))


def told(
    stat: Stat | None, served: list[float], recomputed: list[float], kind: str = "float64"
) -> tuple[int, int, int]:
    spec = FeatureSpec("f", kind, "x", stat, *(() if stat is None else (1, 1)))
    rows = [str(i) for i in range(len(served))]
    (found,) = compare(rows, np.array([served]).T, np.array([recomputed]).T, service(spec))
    return found.mismatch, found.missing, found.extra


@pytest.mark.parametrize("stat", [Stat.COUNT, Stat.MIN, Stat.MAX, Stat.FIRST, Stat.LAST, None])
def test_exact_means_to_the_last_bit(stat):
    assert told(stat, [1.0, 2.0], [1.0, np.nextafter(2.0, 3.0)]) == (1, 0, 0)


@pytest.mark.parametrize("stat", [Stat.SUM, Stat.MEAN, Stat.STD, Stat.VAR])
def test_sums_in_another_order_may_differ_in_the_last_digits(stat):
    assert told(stat, [1.0, 2.0], [1.0, 2.0 + 1e-12]) == (0, 0, 0)
    assert told(stat, [1.0, 2.0], [1.0, 2.0 + 1e-11]) == (1, 0, 0)


def test_a_sum_of_integers_is_exact():
    assert told(Stat.SUM, [1e15], [1e15 + 1], "int64") == (1, 0, 0)


def test_absent_and_infinite_values_are_compared_as_such():
    assert told(None, [NAN, NAN, 1.0, math.inf, math.inf], [NAN, 1.0, NAN, math.inf, -math.inf]) == (1, 1, 1)
