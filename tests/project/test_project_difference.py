"""`apply --dry-run`: what was and is, field by field; what a change breaks, and that it needs --force."""

from __future__ import annotations

import json

import project_kit as kit
import pyarrow.parquet as pq
import pytest

from flyball.cli.app import run
from flyball.errors import Refused
from flyball.project import Project

COUNT = 'fb.count("trips_1h", window="1h")'
READERS = "eta v1 (champion), eta v2 (candidate), eta (definition)"


def change(folder, name="traffic"):
    with Project.open(folder) as project:
        return next(c for c in project.apply(dry_run=True).changes if c.name == name)


def test_a_field_that_changed_says_what_it_was_and_what_it_is(trained):
    kit.edit(trained, (COUNT, 'fb.count("trips_1h", window="3h")'), ("between 1 and 60", "between 1 and 90"))
    found = change(trained)
    assert ("feature trips_1h window", "1 h", "3 h") in [(f.field, f.was, f.now) for f in found.fields]
    assert ("source where", "minutes between 1 and 60", "minutes between 1 and 90") in [
        (f.field, f.was, f.now) for f in found.fields
    ]
    assert found.rebuilds
    assert not found.breaks


def test_a_derived_column_that_changed_is_named(trained):
    kit.edit(trained, ("(dropoff_at - pickup_at) / 1m", "(dropoff_at - pickup_at) / 60s"))
    assert [f.field for f in change(trained).fields] == ["source derive minutes"]


def test_who_reads_a_view_is_said_whatever_changes(trained):
    kit.edit(trained, ('ttl="7d"', 'ttl="8d"'))
    found = change(trained)
    assert [f.text for f in found.fields] == ["ttl: 7 d -> 8 d"]
    assert ", ".join(found.readers) == READERS


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (COUNT, 'fb.count("trips_hour", window="1h")', "feature trips_1h is renamed to trips_hour"),
        (COUNT + ",", "", "feature trips_1h is removed"),
        (COUNT, 'fb.sum("trips_1h", of="minutes", window="1h")', "type of feature trips_1h changes from int64"),
        ('keys={"zone": int}', 'keys={"zone": int, "hour": int}', "keys of entity zone change"),
    ],
)
def test_what_a_reader_cannot_follow_is_breaking(trained, old, new, said):
    kit.edit(trained, (old, new))
    found = change(trained)
    assert said in found.breaks[0]
    assert READERS in found.breaks[0]


def test_a_breaking_change_is_refused_and_nothing_is_applied(trained):
    kit.edit(trained, (COUNT + ",", ""))
    with Project.open(trained) as project:
        before = project.database.deployments.applied()
        with pytest.raises(Refused, match=r"trips_1h is removed, which breaks eta v1 .*--force"):
            project.apply()
        assert project.database.deployments.applied() == before


def test_force_applies_it_and_the_audit_trail_says_so(trained):
    kit.edit(trained, (COUNT + ",", ""))
    with Project.open(trained) as project:
        project.apply(force=True)
        assert [f.name for f in project.features.views()[0].features] == ["minutes_24h"]
        assert "trips_1h is removed" in project.database.audit.list()[-1].details["forced"][0]


def test_a_removed_view_that_a_version_reads_is_breaking(trained):
    kit.edit(trained, ('features=[traffic, fb.Field("distance", float)]', 'features=[fb.Field("distance", float)]'))
    path = trained / "definitions.py"
    path.write_text(path.read_text().replace("traffic = fb", "_traffic = fb"))
    found = change(trained)
    assert found.action == "remove"
    assert "eta v1 (champion)" in found.breaks[0]


def test_a_removed_view_that_nobody_reads_breaks_nothing(trained):
    path = trained / "definitions.py"
    text = path.read_text()
    path.write_text(
        text + '\nlone = fb.FeatureView("lone", entity=zone, source=trips, features=[fb.count("n", window="1h")])\n'
    )
    with Project.open(trained) as project:
        project.apply()
    path.write_text(text)
    assert change(trained, "lone").breaks == ()


def test_a_column_that_left_the_source_names_the_models_that_break(trained):
    kit.edit(
        trained, ('fb.mean("minutes_24h", of="minutes", window="24h", default=0.0)', COUNT.replace("trips_1h", "n"))
    )
    table = pq.read_table(trained / "data" / "trips.parquet").drop_columns(["pickup_at"])
    pq.write_table(table, trained / "data" / "trips.parquet")
    assert any("pickup_at" in text and "eta v1 (champion)" in text for text in change(trained).breaks)


def test_the_command_line_prints_the_difference_and_refuses_with_1(trained, capsys):
    kit.edit(trained, (COUNT + ",", ""))
    assert run(["apply", "--dry-run", "-p", str(trained)]) == 0
    out, err = capsys.readouterr()
    assert "feature trips_1h: count over 1 h -> (none)" in out
    assert "BREAKING: feature trips_1h is removed" in out
    assert "flyball apply --force" in err
    assert run(["apply", "-p", str(trained)]) == 1
    assert "eta v2 (candidate)" in capsys.readouterr().err
    assert run(["apply", "--force", "--json", "-p", str(trained)]) == 0
    assert json.loads(capsys.readouterr().out)["changes"][0]["breaks"]
