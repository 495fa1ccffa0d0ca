"""What a person does with a release: forecast, approve, override, look back, return at once; and storms."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import project_kit as kit
import pytest

from flyball.errors import ConflictError, Refused
from flyball.project import Project
from flyball.project.releases import history, record, stormy
from flyball.rollout.types import Phase


@pytest.fixture
def served(trained):
    with Project.open(trained) as project:
        ask = kit.caller(project)
        yield ask
        ask.http.close()


def test_an_override_without_a_reason_is_refused_and_changes_nothing(served):
    handle = served.project.rollout("eta", "v2")
    handle.start(skip_shadow=True)
    served.step(timedelta(minutes=1))
    with pytest.raises(Refused, match="overrides the evidence"):
        handle.promote()
    assert handle.status.wanted == "run"
    handle.promote("hot fix")
    served.step(timedelta(minutes=1))
    assert handle.status.phase is Phase.PROMOTED
    ordered = next(e for e in handle.events() if e.kind == "OrderGiven")
    assert [rail["safe"] for rail in ordered.details["evidence"]["guardrails"]] == [False, False]


def test_the_former_champion_is_kept_warm_and_one_call_returns_to_it(served):
    served.project.rollout("eta", "v2").start(skip_shadow=True)
    served.step(timedelta(minutes=1))
    served.project.rollout("eta", "v2").promote("hot fix")
    served.step(timedelta(minutes=1))
    route = served.project.database.routing.current().models["eta"]
    assert (route.champion.version, [ref.version for ref in route.warm]) == ("v2", ["v1"])
    assert served.project.models["eta"].switch(reason="it was worse").version == "v1"
    route = served.project.database.routing.current().models["eta"]
    assert (route.champion.version, [ref.version for ref in route.warm]) == ("v1", ["v2"])


def test_history_keeps_how_each_release_ended_with_its_metrics(served):
    served.project.rollout("eta", "v2").start(skip_shadow=True)
    served.step(timedelta(minutes=1))
    served.ask(40)
    served.step(timedelta(minutes=1))
    served.project.rollout("eta", "v2").abort("wrong file")
    served.step(timedelta(minutes=1))
    (row,) = history(served.project)
    assert (row["candidate"], row["phase"]) == ("v2", "RolledBack")
    assert row["metrics"]["errors"]["samples"] > 0
    assert row["metrics"]["errors"]["breached"] is False
    told = record(served.project, "v2")
    assert told["status"].id == row["id"] and "wrong file" in told["reason"]
    assert told["next"]["what"] == "nothing"
    ended = told["events"][-1]
    assert ended.kind == "RolledBack" and ended.details["evidence"]["guardrails"][0]["name"] == "errors"


def test_rollbacks_that_come_too_fast_hold_new_releases_until_a_person_forces_one(served):
    project = served.project
    store, now = project.database.rollouts, project.clock.now()
    for k in range(3):
        project.rollout("eta", "v2").start(skip_shadow=True, force=True)
        (_, status) = store.list("eta", active=True)[0]
        gone = replace(status, phase=Phase.ROLLED_BACK, finished=now + timedelta(minutes=k), fault="errors")
        store.save(gone, expected=status.revision, fence=None)
        project.clock.set(now + timedelta(minutes=k + 1))
    assert "3 rollbacks of eta" in stormy(project, "eta")
    assert "3 rollbacks of eta" in project.rollout("eta", "v2").explain()["storm"]
    with pytest.raises(ConflictError, match="3 rollbacks of eta within 7 d"):
        project.rollout("eta", "v2").start()
    started = project.rollout("eta", "v2").start(force=True, actor="ann")
    entry = next(e for e in project.database.audit.list() if e.subject == started.id)
    assert (entry.actor, entry.details["force"]) == ("ann", True)
