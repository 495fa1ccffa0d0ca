"""A run is killed with kill -9 at every stage, twice, and ends exactly like one that was left in peace."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_world import open_world, write_trips

from flyball.training.types import STAGES, Run, RunState

POINTS = [f"{stage}:{when}" for stage in STAGES for when in ("started", "finished")]


def child(folder: Path, point: str) -> int:
    script = Path(__file__).with_name("training_world.py")
    return subprocess.run(
        [sys.executable, str(script), str(folder), "r1", point], check=False, capture_output=True, timeout=60
    ).returncode


def digests(run: Run) -> dict[str, object]:
    """Return what identifies a run's results."""
    found = {s.stage: s.outputs for s in run.stages}
    return {
        "version": run.version, "dataset": found["snapshot"]["dataset"], "model": found["train"]["model"],
        "rows": found["evaluate"]["rows"], "verdict": found["gate"]["verdict"],
    }  # fmt: skip


def test_a_run_killed_at_every_stage_ends_like_one_left_in_peace(tmp_path: Path) -> None:
    peaceful, harassed = tmp_path / "a", tmp_path / "b"
    for folder in (peaceful, harassed):
        write_trips(folder)
        open_world(folder).new_run()
    assert child(peaceful, "none") == 0
    for point in POINTS:
        assert child(harassed, point) == -signal.SIGKILL, point
        assert open_world(harassed).context.runs.get("r1").state is RunState.RUNNING
    assert child(harassed, "none") == 0
    calm, rough = (open_world(f).context for f in (peaceful, harassed))
    ended = rough.runs.get("r1")
    assert ended.state is RunState.SUCCEEDED
    assert digests(ended) == digests(calm.runs.get("r1"))
    assert [v.version for v in rough.versions.list("eta")] == ["v1"]
    assert rough.versions.get("eta", "v1").gate == "passing"
    assert not [p for p in (rough.layout.runs / "r1").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("point", ["train:finished"])
def test_a_done_stage_is_not_done_again(tmp_path: Path, point: str) -> None:
    write_trips(tmp_path)
    world = open_world(tmp_path)
    world.new_run()
    assert child(tmp_path, point) == -signal.SIGKILL
    before = {s.stage: s.finished for s in world.context.runs.get("r1").stages}
    made = (world.context.layout.runs / "r1" / "snapshot" / "manifest.json").stat().st_mtime_ns
    assert before["snapshot"] is not None
    assert child(tmp_path, "none") == 0
    assert (world.context.layout.runs / "r1" / "snapshot" / "manifest.json").stat().st_mtime_ns == made
