"""Snapshots, runs, gates, promotion; and a run whose child is killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import project_kit as kit
import pytest

from flyball.cli.app import run as cli
from flyball.errors import Refused, StageFailed
from flyball.project import Project
from flyball.project.bootstrap import bootstrap
from flyball.project.runs import new_run, spawn_run
from flyball.training.types import STAGES, RunState


def test_the_same_inputs_give_the_same_snapshot(trained):
    with Project.open(trained) as project:
        assert project.data.snapshot("eta").manifest.digest == project.data.snapshot("eta").manifest.digest


def test_a_snapshot_is_the_same_in_another_folder(trained, trained_template):
    with Project.open(trained) as here, Project.open(kit.copy_of(trained_template, trained.parent / "other")) as there:
        assert here.data.snapshot("eta").manifest.digest == there.data.snapshot("eta").manifest.digest


def test_a_shorter_look_back_is_another_snapshot(trained):
    with Project.open(trained) as project:
        long, short = project.data.snapshot("eta").manifest, project.data.snapshot("eta", train_on="3d").manifest
        assert short.digest != long.digest and short.rows < long.rows


def test_the_holdout_is_later_than_what_is_trained_on(trained):
    with Project.open(trained) as project:
        found = project.data.snapshot("eta")
        assert len(found.y) > len(found.holdout[1]) > 200


def test_train_runs_all_stages_in_a_child_and_tells_each_once(trained):
    told = []
    with Project.open(trained) as project:
        run = project.train("eta", progress=lambda r: told.append((r.stages[-1].stage, r.stages[-1].state)))
    assert run.state is RunState.SUCCEEDED and run.version == "v3"
    assert [stage for stage, state in told if state == "done"] == list(STAGES)
    assert ("train", "started") in told  # the long one is seen to begin


def test_a_temporary_project_trains_promotes_and_serves(temp):
    temp.apply()
    run = temp.train("eta")
    temp.models["eta"].promote(run.version)
    ask = kit.caller(temp)
    (value,) = ask.http.infer("eta", [{"zone": 3, "distance": 2.0}])["predictions"]
    ask.http.close()
    assert value == pytest.approx(3 + 3.5 * 2.0 + 3, abs=1.5)


def test_a_version_that_does_not_pass_its_gate_is_not_promoted(trained):
    kit.edit(trained, ('fb.gate.metric("mae", max=10)', 'fb.gate.metric("mae", max=0.01)'))
    with Project.open(trained) as project:
        project.apply()
        done = project.run_stages_here(new_run(project, "eta", {}).id)
        assert done.state is RunState.GATED_OUT
        with pytest.raises(Refused, match="breached"):
            project.models["eta"].promote(done.version)
        assert project.models["eta"].champion.version == "v1"


def test_promoting_is_recorded_and_moves_the_route(trained):
    with Project.open(trained) as project:
        project.models["eta"].promote("v2", reason="we want it")
        assert project.models["eta"].champion.version == "v2"
        assert project.database.routing.current().models["eta"].champion.version == "v2"


def test_a_failed_train_says_stage_cause_and_how_to_go_on_and_a_resume_works(trained):
    kit.edit(trained, ("    from sklearn", "    if not params:\n        raise ValueError('no luck')\n    from sklearn"))
    with Project.open(trained) as project:
        project.apply()
        with pytest.raises(StageFailed, match=r"stage train: ValueError: no luck.*flyball run --run eta-"):
            project.train("eta")
        assert project.train("eta", {"fit_intercept": True}).state is RunState.SUCCEEDED


def test_a_second_start_says_that_an_edit_is_not_live(trained):
    said: list[str] = []
    with Project.open(trained) as project:
        bootstrap(project, say=said.append, progress=lambda *_: None)
        assert said == []
        (trained / "notes.py").write_text("SEEN = True\n")
        bootstrap(project, say=said.append, progress=lambda *_: None)
    assert len(said) == 1 and "flyball apply" in said[0]


def test_a_run_keeps_the_code_it_was_made_with(trained):
    with Project.open(trained) as project:
        run = new_run(project, "eta", {})
        kit.edit(trained, ("    from sklearn", "    raise ValueError('edited')\n    from sklearn"))
        project.apply()
        assert project.run_stages_here(run.id).state is RunState.SUCCEEDED


def test_a_killed_child_is_resumed_by_the_command_line(trained, capsys):
    waits = "    import pathlib, time\n    flag = pathlib.Path(%r)\n    while not flag.exists():\n        time.sleep(0.01)\n"
    flag = trained / "go"
    kit.edit(trained, ("    from sklearn", waits % str(flag) + "    from sklearn"))
    with Project.open(trained) as project:
        project.apply()
        run = new_run(project, "eta", {})
        child = spawn_run(project, run.id)
        until = time.monotonic() + 60
        while not any(s.stage == "train" for s in project.database.runs.get(run.id).stages):
            assert time.monotonic() < until and child.poll() is None, child.error()
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert f"flyball run --run {run.id}" in child.error()
    flag.touch()
    capsys.readouterr()
    assert cli(["run", "--run", run.id, "--json", "-p", str(trained)]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["state"] == "succeeded" and [s["stage"] for s in done["stages"]] == list(STAGES)


def test_a_moved_project_folder_still_serves(trained, tmp_path):
    moved = tmp_path / "elsewhere" / "project"
    moved.parent.mkdir()
    trained.rename(moved)
    with Project.open(moved) as project:
        ask = kit.caller(project)
        assert ask.http.infer("eta", [{"zone": 1, "distance": 2.0}])["model_version"] == "v1"
        ask.http.close()


def test_no_path_of_this_machine_is_in_a_version(trained_template):
    with sqlite3.connect(Path(trained_template) / ".flyball" / "control.db") as database:
        assert not [line for line in database.iterdump() if str(trained_template) in line]
