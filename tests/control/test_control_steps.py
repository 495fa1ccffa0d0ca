"""Rollouts that an older flyball stored, with shares for steps, are read and go on."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from flyball.control import connect
from flyball.control.engine import engine_for
from flyball.control.schema import schema_version
from flyball.control.tables import HEAD
from flyball.rollout.definitions.release import Rollout
from flyball.rollout.orders import order, start
from flyball.rollout.types import Step

NOW = datetime(2026, 1, 5, tzinfo=UTC)
ADDED = ("strategy", "primary", "calendar", "approve_promotion", "floor", "pace")


def test_stored_shares_become_steps_of_finished_and_active_rollouts(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    database = connect(str(path))
    spec = Rollout(steps=["1%", "50%"], bake="12h")
    for model in ("eta", "churn"):
        start(database.rollouts, spec, model=model, candidate="v2", champion="v1", now=NOW)
    database.close()
    with sqlite3.connect(path) as raw:  # as schema 0003 had it
        for seq, text in raw.execute("SELECT seq, spec FROM rollouts").fetchall():
            old = {key: value for key, value in json.loads(text).items() if key not in ADDED}
            old["steps"] = [step["share"] for step in old["steps"]]
            raw.execute("UPDATE rollouts SET spec = ? WHERE seq = ?", (json.dumps(old), seq))
        tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for later in tables & {"experiments", "experiment_events"}:
            raw.execute(f"DROP TABLE {later}")
        raw.execute("UPDATE alembic_version SET version_num = '0003'")
    again = connect(str(path))
    assert schema_version(engine_for(str(path))) == HEAD
    found = again.rollouts.list(active=True)
    assert [status.model for _, status in found] == ["eta", "churn"]
    assert all(read == spec for read, _ in found)
    assert found[0][0].steps == (Step(0.01), Step(0.5))
    assert order(again.rollouts, found[0][1].id, "abort", now=NOW).wanted == "abort"
    again.close()
