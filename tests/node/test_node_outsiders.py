"""What is measured beside the log of a node that runs: a host's memory, and a function of the user's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import project_kit as kit
import pytest

from flyball.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HEAD = """\
import time
from pathlib import Path


def told(status):
    text = Path({path!r}).read_text()
    if text == "slow":
        time.sleep(60)
    return 1 / 0 if text == "raise" else float(text)


"""
PLAN = """\
    rollout=fb.strategy.canary(["50%"], bake="6s", min_requests=20, guardrails=[
        fb.guard.errors(margin="50pp"), fb.guard.resources(memory="{memory}"),
        fb.guard.custom("queue", told, max=10.0)]),
"""


class Up:
    """`flyball up` of a project with a candidate, and callers that keep asking."""

    def __init__(self, folder: Path, *, memory: str = "4GB") -> None:
        self.value = folder / "value.txt"
        folder.mkdir()
        self.value.write_text("1")
        begin, end = kit.DEFINITIONS.index("    rollout="), kit.DEFINITIONS.index("    monitors=")
        text = kit.DEFINITIONS[:begin] + PLAN.format(memory=memory) + kit.DEFINITIONS[end:]
        text = text.replace("    gates=[fb.gate.beats", "    gates=[], #").replace("    retrain=", "    # retrain=")
        self.port, control = _free(), _free()
        toml = kit.TOML[: kit.TOML.index("[clock]")]
        toml = toml.replace("18080 # the gateway", str(self.port)).replace("18081", str(control))
        trips = kit.trips(kit.DAYS, start=datetime.now(UTC) - timedelta(days=kit.DAYS, hours=2))
        kit.write_project(folder, table=trips, definitions=HEAD.format(path=str(self.value)) + text, toml=toml)
        self.folder = folder
        with Project.open(folder) as project:
            project.apply()
            project.models["eta"].promote(kit.train_here(project))
            kit.train_here(project)
        self._done = threading.Event()
        self._caller = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Up:
        command = [sys.executable, "-c", "from flyball.cli import main; main()", "up", "-p", str(self.folder)]
        log = (self.folder / "up.log").open("w")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._caller.start()
        self.until(lambda: self.answered > 20, "answers")
        with Project.open(self.folder) as project:
            self.id = project.rollout("eta", "v2").start().id
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    answered = 0

    def _ask(self) -> None:
        while not self._done.is_set():
            body = json.dumps({"model": "eta", "rows": [{"zone": 1, "distance": 2.0}], "unit": f"u{time.time_ns()}"})
            ask = urllib.request.Request(f"http://127.0.0.1:{self.port}/predict", body.encode(), method="POST")
            ask.add_header("content-type", "application/json")
            with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(ask, timeout=5) as answer:
                self.answered += answer.status == 200
            self._done.wait(0.02)

    def until(self, holds, what: str, *, most: float = 60.0):
        """Wait for a fact; the node works by its own clock."""
        ends = time.monotonic() + most
        while time.monotonic() < ends:
            found = holds()
            if found:
                return found
            self._done.wait(0.2)
        raise AssertionError(f"no {what} after {most} s: {self.status}\n{(self.folder / 'up.log').read_text()[-3000:]}")

    @property
    def status(self):
        with Project.open(self.folder) as project:
            return project.database.rollouts.get(self.id)[1] if hasattr(self, "id") else None

    def rail(self, name: str) -> dict:
        evidence = self.status.state.get("evidence") or {"guardrails": []}
        return next((rail for rail in evidence["guardrails"] if rail["name"] == name), {"text": ""})

    def replay(self) -> bool:
        with Project.open(self.folder) as project:
            return project.rollout("eta", "v2").replay()["same"]


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_function_that_fails_hangs_or_tells_no_number_holds_the_ramp_until_it_tells_one(tmp_path):
    with Up(tmp_path / "up") as node:
        node.value.write_text("raise")
        node.until(lambda: "ZeroDivisionError" in node.rail("queue")["text"], "failing function")
        node.value.write_text("nan")
        node.until(lambda: "returned nan" in node.rail("queue")["text"], "NaN")
        assert node.status.phase == "Step"
        node.value.write_text("99")
        node.until(lambda: "99" in node.rail("queue")["text"], "a value above its limit")
        assert (node.status.phase, node.rail("queue")["holds"]) == ("Step", True)
        assert "MB of memory" in node.rail("resources")["text"]
        node.value.write_text("slow")
        node.until(lambda: "did not return within" in node.rail("queue")["text"], "a function that hangs")
        node.value.write_text("2")
        node.until(lambda: node.status.phase == "Promoted", "promotion", most=120)
        assert node.replay()


def test_a_host_that_takes_more_memory_than_it_may_holds_the_ramp(tmp_path):
    with Up(tmp_path / "up", memory="1MB") as node:
        node.until(lambda: "above max=1" in node.rail("resources")["text"], "memory above its limit")
        node.until(lambda: "holds the ramp" in str(node.status.state.get("waiting")), "a held ramp")
        assert node.status.phase == "Step"
        assert node.replay()
