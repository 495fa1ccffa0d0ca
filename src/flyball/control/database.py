"""One handle on everything the control database keeps, store by store."""

from __future__ import annotations

from typing import Self

from sqlalchemy import Engine

from flyball.control.audit import Audit
from flyball.control.datasets import Datasets
from flyball.control.deployments import Deployments
from flyball.control.engine import Gate, engine_for
from flyball.control.erasures import Erasures
from flyball.control.experiments import Experiments
from flyball.control.keys import Keys
from flyball.control.leases import Leases
from flyball.control.loop import Loop
from flyball.control.monitors import Monitors
from flyball.control.outbox import Outbox
from flyball.control.rollouts import Rollouts
from flyball.control.routing import RoutingStore
from flyball.control.runs import Runs
from flyball.control.schema import ensure_schema, schema_version
from flyball.control.telling import Telling
from flyball.control.versions import Versions
from flyball.errors import Unavailable

__all__ = ["Database", "connect"]


class Database:
    """The stores of one control database; safe to share between threads, not across a fork."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.versions = Versions(gate)
        self.datasets = Datasets(gate)
        self.runs = Runs(gate)
        self.rollouts = Rollouts(gate)
        self.experiments = Experiments(gate)
        self.monitors = Monitors(gate)
        self.loop = Loop(gate)
        self.leases = Leases(gate)
        self.routing = RoutingStore(gate)
        self.deployments = Deployments(gate)
        self.erasures = Erasures(gate)
        self.keys = Keys(gate)
        self.audit = Audit(gate)
        self.outbox = Outbox(gate)
        self.telling = Telling(gate)

    def close(self) -> None:
        """Close all connections."""
        self._gate.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(url: str, *, served: int = 0) -> Database:
    """Open a control database, creating or migrating its tables first when needed.

    Args:
        url: sqlite:///PATH (or a bare path) or postgresql://USER@HOST/NAME.
        served: The newest routing table that was in force here, 0 for none. With one, the database exists and knows
            tables: an empty one in its place is refused, as following it would end all traffic.

    Raises:
        SchemaTooNew: a newer flyball wrote it.
        Unavailable: it cannot be opened, or it was lost.
        ConfigError: the URL names no database flyball can use.
    """
    engine = engine_for(url, create=not served)
    try:
        if served and schema_version(engine) is None:
            raise _lost(engine, served)
        ensure_schema(engine)
        database = Database(Gate(engine))
        if served and database.routing.version() == 0:
            raise _lost(engine, served)
    except BaseException:
        engine.dispose()
        raise
    return database


def _lost(engine: Engine, served: int) -> Unavailable:
    name = engine.url.render_as_string(hide_password=True)
    return Unavailable(
        f"the control database {name} is empty or gone, but routing table {served} was in force here; restore it from "
        "a backup, or set control.database to where it is (to begin anew, move the whole state folder away)"
    )
