"""Experiments in the control database: frozen, one for each model and flag, compared and set; SQLite and PostgreSQL."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from flyball.control import Database
from flyball.errors import ConflictError, IntegrityError, RevisionConflict, UnknownName
from flyball.experiments.design.metric import Metric
from flyball.experiments.design.plans import plan
from flyball.experiments.design.types import Experiment
from flyball.experiments.lifecycle import ExperimentEvent, ExperimentStatus, State

NOW = datetime(2020, 3, 11, tzinfo=UTC)


def design(name: str = "checkout", **more: object) -> Experiment:
    given: dict = {"model": "eta", "arms": {"champion": 0.5, "v2": 0.5}, "ends": "2020-04-01T00:00Z"}
    metrics = [
        Metric("spend", window="7d", winsor=(0, 500), margin="1%"),
        Metric("slow", role="guardrail", margin="1pp"),
    ]
    return Experiment(name, metrics=metrics, plan=plan.group(looks=5, units=1000), **{**given, **more})


def store(db: Database, experiment: Experiment) -> ExperimentStatus:
    status = ExperimentStatus(experiment.name, experiment.digest, State.STARTING, NOW, "exp:", {"v2": "v2"})
    db.experiments.create(experiment, status, ExperimentEvent(experiment.name, NOW, "Stored", "stored"))
    return status


def test_a_design_comes_back_as_it_was_stored(db: Database) -> None:
    status = store(db, design())
    assert db.experiments.get("checkout") == (design(), status)
    assert [e.kind for e in db.experiments.events("checkout")] == ["Stored"]
    assert db.experiments.find("other") is None
    with pytest.raises(UnknownName, match="checkout"):
        db.experiments.get("chekout")


def test_a_model_has_one_active_experiment_and_others_run_beside_it(db: Database) -> None:
    store(db, design())
    with pytest.raises(ConflictError, match="experiment checkout has the units of model eta"):
        store(db, design("other"))
    for k in range(3):
        store(db, design(f"flag{k}", model="", flag=f"flag{k}"))
        store(db, design(f"table{k}", model=""))
    assert len(db.experiments.list(active=True)) == 7


def test_a_model_is_free_once_its_experiment_has_ended_and_the_name_is_not(db: Database) -> None:
    status = store(db, design())
    db.experiments.save(dataclasses.replace(status, state=State.STOPPED), expected=0)
    assert db.experiments.list(active=True) == []
    with pytest.raises(ConflictError, match="another name"):
        store(db, design())
    store(db, design("next"))


def test_a_status_is_compared_and_set_with_its_events(db: Database) -> None:
    status = store(db, design())
    event = ExperimentEvent("checkout", NOW, "Started", "from table 4 on", {"table": 4})
    running = dataclasses.replace(status, state=State.RUNNING, started=NOW, tables=(4, 0))
    saved = db.experiments.save(running, expected=0, events=[event])
    assert saved.revision == 1 and db.experiments.get("checkout")[1] == saved
    with pytest.raises(RevisionConflict, match="at revision 1, not 0"):
        db.experiments.save(running, expected=0, events=[event])
    assert [e.kind for e in db.experiments.events("checkout")] == ["Stored", "Started"]


def test_of_many_threads_one_gets_the_model(db: Database) -> None:
    def begin(n: int) -> int:
        try:
            store(db, design(f"e{n}"))
        except ConflictError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(begin, range(16))) == 1


def test_a_design_that_was_changed_in_the_database_is_found_out(db: Database) -> None:
    store(db, design())
    with db._gate.write() as raw:
        raw.execute(text("UPDATE experiments SET spec = replace(spec, '\"holm\"', '\"none\"')"))
    with pytest.raises(IntegrityError, match="not the one its digest"):
        db.experiments.get("checkout")
