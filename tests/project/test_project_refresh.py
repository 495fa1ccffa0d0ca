"""Refreshes run by the control pass: due, failed, missed, resolved."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flyball.features import definitions as fb
from flyball.project import Project
from flyball.project.loop import ControlPass
from flyball.project.refresh import Refresher

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def write(root: Path, name: str, user: int, at: datetime, value: float = 1.0) -> None:
    (root / "events").mkdir(exist_ok=True)
    table = pa.table({"user": [user], "at": pa.array([at], pa.timestamp("us", "UTC")), "value": [value]})
    pq.write_table(table, root / "events" / f"{name}.parquet")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    write(tmp_path, "a", 1, NOW - 60 * MINUTE)
    user = fb.Entity("user", keys={"user": int})
    check = fb.check.range("value", 0)
    events = fb.ParquetSource("events", "events/*.parquet", event_time="at", checks=[check])
    view = fb.FeatureView("newest", entity=user, source=events, refresh="15m", features=[fb.Feature("value", float)])
    with Project.temporary([view], root=tmp_path, now=NOW) as made:
        made.apply()
        yield made


def value(project: Project, user: int) -> Any:
    return project.features.online([{"user": user}], ["newest"]).to_dicts()[0]["value"]


def set_clock(project: Project, to: datetime) -> datetime:
    project.clock.set(to)  # type: ignore[attr-defined]
    return to


def test_a_step_of_the_clock_runs_what_is_due_and_nothing_else(project: Project, tmp_path: Path) -> None:
    control = ControlPass(project)
    write(tmp_path, "b", 2, NOW - 90 * MINUTE, 2.0)
    assert control.step(set_clock(project, NOW + 14 * MINUTE), 1) == [] and value(project, 2) is None
    assert control.step(set_clock(project, NOW + 15 * MINUTE), 1) == ["Refreshed newest: 1 rows"]
    assert value(project, 2) == 2.0, "the late row landed"
    assert control.step(set_clock(project, NOW + 16 * MINUTE), 1) == []
    spec = project.applied.view("newest").spec
    assert project.database.deployments.watermark(spec.digest) == NOW + 15 * MINUTE
    assert project.database.monitors.alerts() == []


def test_a_refresh_that_fails_alerts_once_backs_off_and_is_resolved(project: Project, tmp_path: Path) -> None:
    control = ControlPass(project)
    write(tmp_path, "b", 2, NOW - MINUTE, -5.0)
    did = control.step(set_clock(project, NOW + 15 * MINUTE), 1)
    assert did[0].startswith("RefreshFailed newest: source 'events' failed 1 data check")
    assert control.step(set_clock(project, NOW + 15 * MINUTE + timedelta(seconds=9)), 1) == [], (
        "it waits before it tries again"
    )
    assert control.step(set_clock(project, NOW + 16 * MINUTE), 1)[0].startswith("RefreshFailed")
    alerts = project.database.monitors.alerts()
    assert [(a.severity, a.model) for a in alerts] == [("page", "view:newest")]
    write(tmp_path, "b", 2, NOW - MINUTE, 5.0)
    assert control.step(set_clock(project, NOW + 18 * MINUTE), 1)[0].startswith("Refreshed newest")
    assert project.database.monitors.alerts()[-1].text == "view newest is refreshed again"
    actions = [e.action for e in project.database.audit.list(subject="newest") if e.actor == "refresh"]
    started = "refresh started"
    assert actions == [started, "refresh failed", started, "refresh failed", started, "refreshed"]


def test_a_refresh_found_later_than_its_own_period_was_missed(project: Project) -> None:
    spec = project.applied.view("newest").spec
    refresher = Refresher(project, waits=False)
    did = refresher.step((spec,), set_clock(project, NOW + 31 * MINUTE))
    assert did == ["Alert the refresh of view newest (every 15m) is 0:16:00 late"]
    deadline = datetime.now(UTC) + timedelta(seconds=20)
    while refresher._running and datetime.now(UTC) < deadline:
        refresher.step((spec,), project.clock.now())
    assert project.database.deployments.watermark(spec.digest) == NOW + 31 * MINUTE
    assert [a.severity for a in project.database.monitors.alerts()] == ["page", "warn"], "missed, then refreshed again"
    refresher.close()


def settle(refresher: Refresher, project: Project) -> list[str]:
    spec, did = project.applied.view("newest").spec, list[str]()
    deadline = datetime.now(UTC) + timedelta(seconds=20)
    while refresher._running and datetime.now(UTC) < deadline:
        did += refresher.step((spec,), project.clock.now())
    return did


def test_of_two_control_processes_one_refreshes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, gate, calls, fill = project.applied.view("newest").spec, threading.Event(), [], project.features.fill

    def slowly(*given: Any, **named: Any) -> Any:
        calls.append(given)
        gate.wait(20)
        return fill(*given, **named)

    monkeypatch.setattr(project.features, "fill", slowly)
    now = set_clock(project, NOW + 15 * MINUTE)
    first, second = (Refresher(project, waits=False, owner=name) for name in ("first", "second"))
    for _ in range(3):
        first.step((spec,), now), second.step((spec,), now)
    holder = project.database.leases.holder(f"refresh/{spec.digest}")
    assert holder is not None and holder.owner == "first" and not second._running
    gate.set()
    settle(first, project)
    second.step((spec,), now)
    assert len(calls) == 1 and project.database.leases.holder(f"refresh/{spec.digest}") is None
    first.close()
    second.close()


def test_who_lost_the_lease_records_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, wall, fill = project.applied.view("newest").spec, [1e9], project.features.fill
    monkeypatch.setattr(project.database.leases, "_wall", lambda: wall[0])
    now, gates = set_clock(project, NOW + 15 * MINUTE), [threading.Event(), threading.Event()]
    waiting = iter(gates)

    def slowly(*given: Any, **named: Any) -> Any:
        next(waiting).wait(20)
        return fill(*given, **named)

    monkeypatch.setattr(project.features, "fill", slowly)
    first, second = (Refresher(project, waits=False, owner=name) for name in ("first", "second"))
    first.step((spec,), now)
    wall[0] += 31  # the first one has hung for longer than its lease
    second.step((spec,), now)
    assert second._running
    gates[0].set()
    settle(first, project)
    assert [e.details["fence"] for e in project.database.audit.list(subject="newest") if e.actor == "refresh"], (
        "started"
    )
    held = project.database.leases.holder(f"refresh/{spec.digest}")
    assert held is not None and held.owner == "second"
    gates[1].set()
    settle(second, project)
    assert project.database.leases.holder(f"refresh/{spec.digest}") is None
    first.close()
    second.close()


def test_a_refresh_says_that_it_began(project: Project) -> None:
    spec = project.applied.view("newest").spec
    Refresher(project, waits=True).step((spec,), set_clock(project, NOW + 15 * MINUTE))
    [started] = [e for e in project.database.audit.list(subject="newest") if e.action == "refresh started"]
    assert started.details["every"] == "15m" and started.details["fence"] > 0
