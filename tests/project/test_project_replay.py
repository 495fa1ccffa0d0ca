"""`project.replay`: logged traffic through a version, with the features as they were served."""

from __future__ import annotations

from pathlib import Path

import project_kit as kit
import pytest

from flyball.errors import InputError, UnknownName
from flyball.project import Project


@pytest.fixture(scope="module")
def asked(trained_template, tmp_path_factory) -> Path:
    """A trained project whose champion v1 answered 120 requests, outcomes included."""
    folder = kit.copy_of(trained_template, tmp_path_factory.mktemp("replay") / "asked")
    with Project.open(folder) as project:
        kit.train_here(project, train_on="3d")  # v3, which learned from less
        ask = kit.caller(project)
        ask.ask(120)
        ask.http.close()
    return folder


@pytest.fixture
def project(asked):
    with Project.open(asked) as opened:
        yield opened


def test_the_version_that_answered_agrees_with_itself(project):
    found = project.replay("eta", "v1")
    assert (found.rows, found.failed, found.agreement, found.worst) == (120, 0, 1.0, ())
    assert found.metrics == pytest.approx(found.logged_metrics)
    assert (found.labelled, found.shift.units, found.worse) == (120, 120, False)


def test_another_version_is_told_apart_row_by_row(project):
    found = project.replay("eta", "v3", tolerance=0.001)
    assert 0 < found.difference[-1] == abs(found.worst[0].new - found.worst[0].logged)
    assert found.metrics["mae"] != found.logged_metrics["mae"]


def test_recomputed_features_are_those_that_were_served(project):
    assert project.replay("eta", "v1", recompute=True).difference[-1] < 1e-9


def test_shipped_parquet_and_segments_replay_the_same(project, tmp_path):
    from flyball.adapters.log_files import LogShipper, ShippedFiles

    before = project.replay("eta", "v3", tolerance=0.01)
    files = ShippedFiles(str(tmp_path / "out"))
    with Project.open(kit.copy_of(project.root, tmp_path / "copy")) as copy:
        for segment in (copy.layout.log).glob("*/*.seg"):  # their writer is this process, which lives
            segment.rename(segment.with_name("00000000000000000001-4194305.seg"))
        shipper = LogShipper(copy.layout.log, files)
        assert shipper.ship() == 1
        shipper.close()
    for log in (tmp_path / "out", project.layout.log):
        found = project.replay("eta", "v3", log=log, tolerance=0.01)
        assert (found.difference, found.worst, found.labelled) == (before.difference, before.worst, before.labelled)


def test_what_cannot_be_replayed_is_said(project, tmp_path):
    with pytest.raises(InputError, match="there is no log at"):
        project.replay("eta", "v1", log=tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no request"):
        project.replay("eta", "v1", log=tmp_path)
    with pytest.raises(UnknownName):
        project.replay("eta", "v9")
