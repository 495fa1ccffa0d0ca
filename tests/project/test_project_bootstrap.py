"""What `flyball up` restores before it serves."""

from __future__ import annotations

import shutil
from pathlib import Path

import project_kit as kit
import pytest

from flyball.adapters.local.views import read_views
from flyball.errors import IntegrityError
from flyball.project import Project
from flyball.project.bootstrap import bootstrap


def test_a_lost_list_of_views_is_written_again(trained: Path) -> None:
    said: list[str] = []
    with Project.open(trained) as project:
        before = read_views(project.layout)
        (project.layout.state / "views.json").unlink()
        bootstrap(project, say=said.append, progress=lambda *_: None)
        assert before == read_views(project.layout) != ()
    assert "views.json was lost; writing it again" in said


def test_a_lost_online_store_is_filled_again(trained: Path) -> None:
    with Project.open(trained) as project:
        view = project.features.views()[0]
        before = project.features.count_online(view)
    shutil.rmtree(trained / ".flyball" / "online")
    with Project.open(trained) as project:
        bootstrap(project, say=lambda _: None, progress=lambda *_: None)
        assert project.features.count_online(view) == before > 0


@pytest.mark.parametrize("damage", [b"", b'[{"name": "tra', b"{}", b"\xff\xfe"])
def test_a_damaged_list_of_views_is_one_clear_sentence(trained: Path, damage: bytes) -> None:
    with Project.open(trained) as project:
        (project.layout.state / "views.json").write_bytes(damage)
        with pytest.raises(IntegrityError, match="is no list of feature views .*; delete it"):
            read_views(project.layout)


def test_a_model_that_cannot_be_trained_stops_nothing_else(small: Path) -> None:
    kit.edit(small, ("return LinearRegression(**params).fit(data.X, data.y)", "raise ValueError('no luck today')"))
    said: list[str] = []
    with Project.open(small) as project:
        bootstrap(project, say=said.append, progress=lambda *_: None)
        assert project.features.count_online(project.features.views()[0]) == 6
    assert any("could not be trained" in s and "no luck today" in s and "flyball run" in s for s in said)


def test_a_plan_says_that_online_rows_were_never_built(trained: Path) -> None:
    with Project.open(trained) as project:
        view = project.features.views()[0]
        assert not project.apply(dry_run=True)
        project.database.deployments.set_watermark(view.digest, None)
        (change,) = project.apply(dry_run=True).changes
        assert change.rebuilds and "never built" in change.text
        assert project.apply().filled == (view.name,)
        assert not project.apply(dry_run=True)
