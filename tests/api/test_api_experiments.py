"""Experiments over the admin API of a real project, its control process in this one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "testing_helpers"))

import project_kit as kit
from project_fixtures import trained, trained_template  # noqa: F401 fixtures are found by name

from flyball.api.app import create_app
from flyball.project import Project
from flyball.serving.http.access import Access, AccessFile, KeyGrant, hash_of

DESIGN = {
    "name": "minutes", "model": "eta", "arms": {"champion": "50%", "v2": "50%"},
    "metrics": [{"name": "minutes", "of": "outcome", "window": "7d"}],
}  # fmt: skip


class Control:
    def __init__(self, project: Project) -> None:
        self.project = project

    async def work(self, call: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(call)

    order = work


@pytest.fixture
def project(trained: Path) -> Iterator[Project]:  # noqa: F811 the fixture
    with Project.open(trained) as opened:
        yield opened


def asked(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8081") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def test_an_experiment_is_started_shown_stopped_and_archived(project: Project) -> None:
    app = create_app(Control(project))  # type: ignore[arg-type]
    started = asked(app, "POST", "/v1/experiments", json={"design": DESIGN})
    assert (started.status_code, started.json()["state"]) == (200, "running")
    ask = kit.caller(project)
    ask.ask(10)
    ask.http.close()
    shown = asked(app, "GET", "/v1/experiments/minutes").json()
    assert shown["units"] == 10 and shown["design"]["arms"] == [["champion", 0.5], ["v2", 0.5]]
    assert [e["kind"] for e in shown["events"]] == ["Stored", "Started"]
    (listed,) = asked(app, "GET", "/v1/experiments").json()
    assert listed["state"] == "running"
    stopped = asked(app, "POST", "/v1/experiments/minutes/stop", json={"reason": "enough"}).json()
    assert (stopped["state"], stopped["reason"]) == ("stopped", "enough")
    assert asked(app, "POST", "/v1/experiments/minutes/archive").json()["archived"] is True
    assert asked(app, "GET", "/v1/experiments").json() == []
    actions = {entry.action for entry in project.database.audit.list()}
    assert {"experiment started", "experiment stopped", "POST /v1/experiments"} <= actions


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/experiments", {}, 400, "either the name"),
        ("/v1/experiments", {"name": "other"}, 404, "other"),
        ("/v1/experiments", {"design": {"name": "x"}}, 400, "metrics"),
        ("/v1/experiments", {"design": DESIGN | {"arms": {"champion": 0.5, "v9": 0.5}}}, 404, "v9"),
        ("/v1/experiments/other/stop", {}, 404, "other"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_status(
    project: Project, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    answer = asked(create_app(Control(project)), "POST", path, json=body)  # type: ignore[arg-type]
    assert answer.status_code == status and said in answer.json()["error"]


def test_an_edited_design_is_a_conflict(project: Project) -> None:
    app = create_app(Control(project))  # type: ignore[arg-type]
    asked(app, "POST", "/v1/experiments", json={"design": DESIGN})
    answer = asked(app, "POST", "/v1/experiments", json={"design": DESIGN | {"owner": "me"}})
    assert answer.status_code == 409 and "may not change" in answer.json()["error"]


def test_others_than_admins_may_only_read(project: Project, tmp_path: Path) -> None:
    import msgspec

    path = tmp_path / "access.json"
    grants = {hash_of("k"): KeyGrant("reader", "analyst", (), 0.0, 0.0, 0, 5)}
    path.write_bytes(msgspec.json.encode(Access(version=1, keys=grants, closed=True)))
    app = create_app(Control(project), access=AccessFile(path))  # type: ignore[arg-type]
    key = {"authorization": "Bearer k"}
    assert asked(app, "GET", "/v1/experiments", headers=key).json() == []
    assert asked(app, "POST", "/v1/experiments", headers=key, json={"design": DESIGN}).status_code == 403
    assert asked(app, "GET", "/v1/experiments").status_code == 401
