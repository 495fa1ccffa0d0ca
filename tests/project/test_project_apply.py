"""`apply`: what it shows, what it makes live, and that a killed one changes nothing."""

from __future__ import annotations

import project_kit as kit
import pytest

from flyball.errors import DefinitionError, SourceError
from flyball.project import Project
from flyball.registry.types import Lifecycle

VIEW = """
slow = fb.FeatureView("slow", entity=zone, source=trips, features=[fb.max("longest_24h", of="minutes", window="24h")])
"""


class Killed(BaseException):
    """A kill -9."""


def plan(folder) -> list[tuple[str, str, str]]:
    with Project.open(folder) as project:
        return [(c.kind, c.name, c.action) for c in project.apply(dry_run=True).changes]


def test_the_first_apply_adds_everything(small):
    assert plan(small) == [("view", "traffic", "add"), ("model", "eta", "add")]


def test_nothing_changes_after_an_apply(trained_template):
    assert plan(trained_template) == []


def test_a_new_view_is_added_and_filled(trained):
    path = trained / "definitions.py"
    path.write_text(path.read_text() + VIEW)
    assert plan(trained) == [("view", "slow", "add")]
    with Project.open(trained) as project:
        assert project.apply().filled == ("slow",)
        assert project.features.online([{"zone": 1}], ["slow"]).to_dicts()[0]["longest_24h"] > 10


def test_a_view_that_is_gone_is_removed(trained):
    path = trained / "definitions.py"
    before = path.read_text()
    path.write_text(before + VIEW)
    with Project.open(trained) as project:
        project.apply()
    path.write_text(before)
    assert plan(trained) == [("view", "slow", "remove")]


def test_a_changed_model_names_its_parts(trained):
    kit.edit(trained, ('train_on="9d"', 'train_on="8d"'), ("max=10", "max=9"))
    with Project.open(trained) as project:
        (change,) = project.apply(dry_run=True).changes
    assert change.text == "model eta: train_on, gates changed"


def test_an_edit_of_train_is_a_change_of_code_only(trained):
    kit.edit(trained, ("    from sklearn", "    # for the record\n    from sklearn"))
    assert plan(trained) == [("code", "project", "change")]


def test_an_edit_changes_nothing_until_it_is_applied(trained):
    kit.edit(trained, ('fb.count("trips_1h", window="1h")', 'fb.count("trips_2h", window="2h")'))
    with Project.open(trained) as project:
        assert [f.name for f in project.features.views()[0].features] == ["trips_1h", "minutes_24h"]
        project.apply(force=True)
        assert [f.name for f in project.features.views()[0].features] == ["trips_2h", "minutes_24h"]


def test_a_version_keeps_serving_with_the_definitions_it_was_trained_with(trained):
    kit.edit(trained, ('fb.count("trips_1h", window="1h")', 'fb.count("trips_2h", window="2h")'))
    with Project.open(trained) as project:
        ask = kit.caller(project)
        before = ask.http.infer("eta", [{"zone": 1, "distance": 2.0}])["predictions"]
        project.apply(force=True)
        assert ask.http.infer("eta", [{"zone": 1, "distance": 2.0}])["predictions"] == before
        ask.http.close()


@pytest.mark.parametrize("point", ["fill", "record"])
def test_an_apply_killed_in_the_middle_changes_nothing_and_can_be_repeated(trained, monkeypatch, point):
    def kill(*_, **__):
        raise Killed

    path = trained / "definitions.py"
    path.write_text(path.read_text() + VIEW)
    with Project.open(trained) as project:
        before = project.database.deployments.applied()
        target = project.features if point == "fill" else project.database.deployments
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(target, "fill" if point == "fill" else "record_applied", kill)
            project.apply()
    with Project.open(trained) as project:
        assert project.database.deployments.applied() == before
        assert [v.name for v in project.features.views()] == ["traffic"]
        project.apply()
        assert [v.name for v in project.features.views()] == ["slow", "traffic"]


def count_of(project: Project, view) -> float:
    from flyball.features.lookup import lookup
    from flyball.units import to_micros

    found = lookup(project.features._store(), [{"zone": 1}], [view], None, to_micros(project.clock.now()))
    return found.to_dicts()[0]["trips_1h"]


def test_a_replaced_view_stays_fresh_while_a_version_reads_it(trained):
    with Project.open(trained) as project:
        old = project.features.views()[0]
        before = count_of(project, old)
    kit.edit(trained, ('fb.count("trips_1h", window="1h")', 'fb.count("trips_1h", window="1h", default=0)'))
    with Project.open(trained) as project:
        project.apply()
    with Project.open(trained) as project:
        now = project.clock.now()
        row = {"zone": 1, "distance": 2.0, "pickup_at": (now - kit.HOUR / 3).isoformat(), "dropoff_at": now.isoformat()}
        project.features.push("trips", [row])
        assert count_of(project, old) == before + 1
        assert count_of(project, project.features.views()[0]) == before + 1


def test_rows_of_a_view_that_nobody_reads_any_more_go(trained):
    path = trained / "definitions.py"
    text = path.read_text()
    path.write_text(text + VIEW)
    with Project.open(trained) as project:
        project.apply()
        slow = project.applied.view("slow").spec
        assert project.features.count_online(slow) > 0
    path.write_text(text)
    with Project.open(trained) as project:
        project.apply()
        assert project.features.count_online(slow) == 0
        assert not project.features.is_filled(slow)


def test_a_version_that_comes_back_gets_its_rows_back(trained):
    with Project.open(trained) as project:
        old = project.features.views()[0]
        for version in ("v1", "v2"):
            project.database.versions.set_lifecycle("eta", version, Lifecycle.RETIRED, now=project.clock.now())
    kit.edit(trained, ('fb.count("trips_1h", window="1h")', 'fb.count("trips_1h", window="1h", default=0)'))
    with Project.open(trained) as project:
        project.apply()
        assert project.features.count_online(old) == 0
        project.models["eta"].promote("v2")
        assert project.features.count_online(old) > 0


def test_what_cannot_work_is_refused_before_anything_is_applied(small):
    kit.edit(small, ('of="minutes"', 'of="minuts"'))
    with Project.open(small) as project:
        with pytest.raises(SourceError, match="did you mean minutes"):
            project.apply()
        assert project.database.deployments.applied() is None


def test_nothing_defined_is_refused(small):
    (small / "definitions.py").write_text("import flyball as fb\n")
    with Project.open(small) as project, pytest.raises(DefinitionError, match="neither a model nor a feature view"):
        project.apply()
