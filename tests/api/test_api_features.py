"""Features over the control API: the values of `project.features`, typed, by role, within limits."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1] / "testing_helpers"))

import project_kit as kit
from project_fixtures import *  # noqa: F403 fixtures are found by name

from flyball.api.app import create_app
from flyball.api.features import _finite
from flyball.project import Project
from flyball.serving.http.access import AccessFile

OTHERS = """\
open_too = fb.FeatureView("online", entity=zone, source=trips, features=[
    fb.last("last_minutes", of="minutes", window="24h"),
])
both = fb.FeatureService("both", features=[traffic.select("trips_1h"), open_too])


def train("""


class Control:
    def __init__(self, project):
        self.project = project

    async def work(self, call):
        return await asyncio.to_thread(call)


def applied(folder):
    kit.write_project(folder)
    kit.edit(folder, ('ttl="7d", features=[', 'ttl="7d", readers=["serving"], features=['), ("def train(", OTHERS))
    opened = Project.open(folder)
    opened.apply()
    return opened


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with applied(tmp_path_factory.mktemp("api") / "small") as opened:
        yield opened


@pytest.fixture
def locked(tmp_path):
    """A project of its own: the first key closes the door for good."""
    with applied(tmp_path / "locked") as opened:
        yield opened


@pytest.fixture
def http(project):
    app = create_app(Control(project), access=AccessFile(project.layout.access))
    return TestClient(app, base_url="http://127.0.0.1:8081")


def test_online_gives_what_the_project_gives(project, http):
    rows = [{"zone": 3}, {"zone": 99}]
    answer = http.post("/v1/features/online", json={"names": ["traffic", "online:last_minutes"], "rows": rows}).json()
    found = project.features.online(rows, ["traffic", "online:last_minutes"])
    assert answer["names"] == list(found.names)
    assert answer["types"] == ["int64", "float64", "float64"]
    assert [tuple(v) for v in answer["values"]] == list(found.rows)
    assert answer["statuses"] == [[s.name for s in row] for row in found.statuses]
    assert answer["statuses"][1][2] == "MISSING"


def test_online_at_a_past_time_is_told_by_at(project, http):
    body = {"names": ["traffic"], "rows": [{"zone": 3}]}
    late = (project.clock.now() + kit.DAY * 9).isoformat()
    assert http.post("/v1/features/online", json=body).json()["values"][0][0] > 0
    assert http.post("/v1/features/online", json=body | {"at": late}).json()["values"][0][0] == 0


def test_history_gives_what_the_project_gives(project, http):
    times = [(kit.START + kit.DAY * d).isoformat() for d in (1, 5, 9)]
    requests = [{"zone": 3, "asked": t, "other": "x"} for t in times]
    body = {"names": ["both"], "requests": requests, "at": "asked", "join": "as_corrected"}
    answer = http.post("/v1/features/history", json=body).json()
    import pyarrow as pa

    table = pa.table({"zone": [3] * 3, "asked": pa.array([kit.START + kit.DAY * d for d in (1, 5, 9)])})
    found = project.features.history(table, ["both"], at="asked", join="as_corrected")
    assert answer["names"] == list(found.names)
    assert answer["types"] == ["int64", "float64"]
    assert answer["values"] == [
        list(r) for r in zip(*(found.to_arrow()[n].to_pylist() for n in found.names), strict=True)
    ]
    assert {s for row in answer["statuses"] for s in row} <= {"PRESENT", "NULL", "MISSING"}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("online", {"names": ["trafic"], "rows": [{"zone": 1}]}, 404, "did you mean traffic"),
        ("online", {"names": [], "rows": [{"zone": 1}]}, 400, "name 1 to"),
        ("online", {"names": ["traffic"], "rows": []}, 400, "at least one"),
        ("online", {"names": ["traffic"], "rows": [{"zone": "1"}]}, 400, "zone"),
        ("online", {"names": ["traffic"], "rows": [{}] * 10_001}, 413, "several calls"),
        ("online", {"names": ["traffic"], "rows": [{"zone": 1}], "nmaes": 1}, 400, "nmaes"),
        ("history", {"names": ["traffic"], "requests": [{"zone": 1}], "at": "asked"}, 400, "'asked'"),
        ("history", {"names": ["traffic"], "requests": [{"zone": 1, "asked": "x"}], "at": "asked"}, 400, "'asked'"),
        ("history", {"names": ["traffic"], "requests": [{}] * 10_001, "at": "asked"}, 413, "several calls"),
        ("history", {"names": ["traffic"], "requests": [{"zone": 1}], "at": "a", "join": "b"}, 400, "join"),
    ],
)
def test_a_bad_question_gets_one_sentence(http, path, body, status, words):
    answer = http.post(f"/v1/features/{path}", json=body)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_a_body_that_is_too_large_is_refused(http):
    answer = http.post("/v1/features/online", content=b" " * 8_000_001)
    assert answer.status_code == 413


def test_a_view_may_be_named_like_a_route(http):
    assert http.get("/v1/features/online").json()["name"] == "online"


def test_a_page_of_another_site_may_not_read(http):
    body = {"names": ["traffic"], "rows": [{"zone": 1}]}
    assert http.post("/v1/features/online", json=body, headers={"origin": "https://evil.example"}).status_code == 403


def test_what_json_has_no_number_for_is_text():
    assert _finite([float("nan"), float("inf"), -float("inf"), 1.5, None]) == [
        "NaN",
        "Infinity",
        "-Infinity",
        1.5,
        None,
    ]


def test_only_readers_of_every_view_may_read(locked):
    made = {role: locked.keys.create(role)[1] for role in ("serving", "analyst", "admin")}
    app = create_app(Control(locked), access=AccessFile(locked.layout.access))
    http = TestClient(app, base_url="http://127.0.0.1:8081")
    asked = {"asked": kit.NOW.isoformat(), "zone": 1}

    def status(names, role):
        headers = {"authorization": f"Bearer {made.get(role, 'fb_guess')}"}
        bodies = {"online": {"names": names, "rows": [{"zone": 1}]},
                  "history": {"names": names, "requests": [asked], "at": "asked"}}  # fmt: skip
        (found,) = {http.post(f"/v1/features/{p}", json=b, headers=headers).status_code for p, b in bodies.items()}
        return found

    for names in (["traffic"], ["traffic:trips_1h"], ["both"], ["online", "traffic"]):
        assert [status(names, r) for r in ("serving", "admin", "analyst", "")] == [200, 200, 403, 401]
    assert [status(["online"], r) for r in ("serving", "admin", "analyst")] == [200, 200, 200]
    assert http.post("/v1/rollouts", json={}, headers={"x-api-key": made["serving"]}).status_code == 403


@pytest.mark.parametrize("path", ["online", "history"])
@pytest.mark.parametrize(
    "body", [b'{"names":["\xff"]}', b'{"names":["traffic"],"rows":[{"zone":' + b"[" * 100_000, b"\xff\xfe{", b"null"]
)
def test_a_body_in_a_wrong_encoding_or_without_a_bottom_is_a_bad_request(http, path, body):
    answer = http.post(f"/v1/features/{path}", content=body)
    assert (answer.status_code, "the body is not what POST" in answer.json()["error"]) == (400, True)


def test_a_time_column_of_a_features_name_is_a_bad_request(http):
    body = {"names": ["traffic"], "requests": [{"zone": 1, "trips_1h": "2026-01-05"}], "at": "trips_1h"}
    answer = http.post("/v1/features/history", json=body)
    assert (answer.status_code, "rename one" in answer.json()["error"]) == (400, True)
