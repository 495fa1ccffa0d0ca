"""Experiments on a flag and on a model's versions in a real node: processes, sockets, the log on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import project_kit as kit
import pytest

from flyball.adapters.local.running import Running, start, stop
from flyball.project import Project

FLAG = '\nnew_map = fb.Flag("new_map", share="10%")\n'
ON_VERSIONS = {
    "name": "minutes", "model": "eta", "arms": {"champion": 0.5, "v2": 0.5},
    "metrics": [{"name": "minutes", "of": "outcome", "direction": "down"}],
}  # fmt: skip
ON_FLAG = {
    "name": "map", "flag": "new_map", "unit": "zone", "arms": {"false": 0.5, "true": 0.5},
    "metrics": [{"name": "trips", "kind": "count", "of": "trips.*"}],
}  # fmt: skip


@pytest.fixture
def node(trained: Path) -> Iterator[tuple[Path, Running]]:
    (trained / "definitions.py").write_text(kit.DEFINITIONS + FLAG)
    text = (trained / "flyball.toml").read_text()
    (trained / "flyball.toml").write_text(
        text.replace("port = 18080", "port = 0\nworkers = 2").replace("port = 18081", "port = 0")
    )
    with Project.open(trained) as project:
        project.apply()
        layout = project.layout
    yield trained, start(trained / "flyball.toml", layout, timeout=60)
    stop(layout)


@pytest.mark.slow
def test_experiments_run_in_a_node_from_start_to_stop(node: tuple[Path, Running]) -> None:
    folder, running = node
    gateway = f"http://{running.host}:{running.port}"
    control = f"http://{running.control_host}:{running.control_port}"
    with httpx.Client(timeout=30) as http:
        for design in (ON_VERSIONS, ON_FLAG):
            started = http.post(f"{control}/v1/experiments", json={"design": design})
            assert (started.status_code, started.json().get("state")) == (200, "running"), started.text
        versions, values = [], []
        for k in range(120):
            body = {"model": "eta", "rows": [{"zone": 1 + k % 6, "distance": 2.0}], "unit": f"u{k}"}
            answer = http.post(f"{gateway}/predict", json=body).json()
            versions.append(answer["model_version"])
            outcome = {"prediction_id": answer["prediction_id"], "value": 10.0 + k % 7, "event_time": 1583539200000000}
            assert http.post(f"{gateway}/v1/outcomes", json=[outcome]).status_code == 200
            values.append(http.post(f"{gateway}/v1/flags/new_map", json={"unit": str(k)}).json()["value"])
        shown = http.get(f"{control}/v1/experiments/minutes").json()
        assert shown["exposed"] == {"champion": versions.count("v1"), "v2": versions.count("v2")}
        assert min(shown["exposed"].values()) > 30 and shown["ratio"]["verdict"] == "passing"
        assert http.get(f"{control}/v1/experiments/map").json()["exposed"] == {
            "false": values.count(False), "true": values.count(True),
        }  # fmt: skip
        with Project.open(folder) as project:
            result = project.experiments["minutes"].result()
            assert sum(result.units.values()) == 120 and result.comparisons[0].metric == "minutes"
        for name, ship in (("minutes", "v2"), ("map", "true")):
            stopped = http.post(f"{control}/v1/experiments/{name}/stop", json={"reason": "done", "ship": ship})
            assert (stopped.status_code, stopped.json().get("state")) == (200, "stopped"), stopped.text
        served = {
            http.post(f"{gateway}/predict", json={"model": "eta", "rows": [{"zone": 1, "distance": 2.0}], "unit": f"u{k}"})
            .json()["model_version"]
            for k in range(20)
        }  # fmt: skip
        assert served == {"v2"}
        asked = {http.post(f"{gateway}/v1/flags/new_map", json={"unit": str(k)}).json()["value"] for k in range(20)}
        assert asked == {True}
