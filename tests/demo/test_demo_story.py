"""The demo's story on real processes and real trips: nothing in it is scripted to succeed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date

import pytest

from flyball.demo.report import judge
from flyball.demo.story import DRIFTING, run_demo
from flyball.errors import InputError
from flyball.ui.timeline import render_timeline


@pytest.mark.timeout(600)
def test_a_day_with_a_bad_release_costs_no_caller_anything(tmp_path):
    report = run_demo(tmp_path / "demo", story=replace(DRIFTING, end=date(2020, 3, 12)))
    assert report["failed_requests"] == 0
    assert report["trips_served"] == 11_543
    (release,) = report["rollouts"]
    assert (release["cause"], release["verdict"]) == ("kilometres", "rolled_back")
    assert "mae" in release["reason"]
    assert report["skew"] == {"vectors": 11_543, "values": 11_543 * 9, "different": 0}
    assert [d["day"] for d in report["error_by_day"]] == ["2020-03-11"]
    assert "v2 rolled back" in render_timeline(report)


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="is not empty"):
        run_demo(tmp_path)


def demo(folder, *options: str) -> dict:
    command = [sys.executable, "-c", "from flyball.cli import main; main()", "demo", str(folder), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", ["0", "7"])
def test_the_loop_closes_by_itself(tmp_path, seed):
    report = demo(tmp_path / "demo", "--seed", seed)
    assert report["failed_requests"] == 0
    verdicts = {r["cause"]: r["verdict"] for r in report["rollouts"]}
    assert verdicts["kilometres"] == verdicts["rare zones"] == "rolled_back"
    assert verdicts["drift"] == "promoted"
    assert report["drift_first_alarm"] is not None
    with_loop, without_loop = judge(report)
    assert with_loop < without_loop
    assert report["skew"]["different"] == 0
    assert report["peak_pss_mb"] < 1500


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_world_that_does_not_move_is_left_alone(tmp_path):
    report = demo(tmp_path / "demo", "--no-drift")
    assert report["failed_requests"] == 0
    assert report["rollouts"] == report["retrainings"] == []
    assert not [w for w in report["drift"] if w["level"] == "page"]
