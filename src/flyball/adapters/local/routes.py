"""Change the routing table in force on this node: file, database, shared map, acknowledgements, in this order.

The surprise: a worker that does not acknowledge in time is ended, not waited for. A change is in force when every live
worker serves it, and a worker that was ended serves nothing until its successor has read the new table. A worker that
says it cannot serve the change stops it: then all go back to what was in force, under a new version.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flyball.adapters.local.running import read_running
from flyball.adapters.local.tables import newest_table, read_table
from flyball.disk import write_atomically
from flyball.errors import FlyballError, Refused, RevisionConflict, Unavailable
from flyball.serving.shared.slots import SharedMap, Slot, VetoReason

if TYPE_CHECKING:
    from flyball.layout import Layout
    from flyball.rollout.routing import RoutingTable

__all__ = ["NodeRoutes", "TableStore"]

_STARTING = 20.0  # seconds a host may take where somebody waits for it
_SILENT = 10.0  # seconds without a heartbeat after which a worker counts as hung and is not waited for


class TableStore(Protocol):
    """Where the committed tables are (the control database)."""

    def current(self) -> RoutingTable:
        """Return the newest committed table; version 0, empty, when there is none."""
        ...

    def write(self, table: RoutingTable, *, expected: int, fence: int) -> None:
        """Compare and set on version and fence."""
        ...


class NodeRoutes:
    """Implement `rollout.ports.Routes` on one node.

    Args:
        layout: The project's paths.
        store: The control database's routing store.
        patience: Seconds a worker may take to load and acknowledge a new table before it is ended.
        told: Called with (event, fields) for the log.
    """

    def __init__(
        self,
        layout: Layout,
        store: TableStore,
        *,
        patience: float = 45.0,
        told: Callable[[str, dict[str, object]], None] = lambda *_: None,
    ) -> None:
        self._layout = layout
        self._store = store
        self._patience = patience
        self._told = told

    def current(self) -> RoutingTable:
        """Return the newest committed table.

        Raises:
            Unavailable: the database knows none, though one was in force here: it was lost, and whatever is built on it
                would end all traffic.
        """
        table = self._store.current()
        if not table.version and (served := newest_table(self._layout)):
            raise Unavailable(
                f"the control database knows no routing table, but table {served} was in force here, so its content "
                "was lost; the last table is served on; restore the database from a backup"
            )
        return table

    def commit(self, table: RoutingTable, *, expected: int, fence: int) -> None:
        """Make `table` the one in force and return when every live worker of this node serves it.

        Raises:
            RevisionConflict: the version in force is not `expected`.
            FenceLost: a newer fence wrote.
            Refused: a worker cannot serve it; what was in force before is in force again, as a table of its own.
        """
        if table.version != expected + 1:
            raise RevisionConflict(
                f"routing table {table.version} cannot follow {expected}; read the current one again"
            )
        former = self._precede(expected)
        self._store.write(table, expected=expected, fence=fence)
        self._put(table)
        refusals = self._announce(table.version)
        if refusals:
            self._go_back(former, table.version, fence)
            raise Refused(
                f"routing table {table.version} was taken back, and what served before goes on serving: "
                f"{'; '.join(refusals)}; see the workers' logs"
            )

    def _go_back(self, former: RoutingTable, refused: int, fence: int) -> None:
        back = replace(former, version=refused + 1, fence=fence, cause="rollback")
        self._store.write(back, expected=refused, fence=fence)
        self._put(back)
        self._announce(back.version)

    def ensure(self) -> int:
        """Make this node follow what the database says (after a crash or a change elsewhere); return its version.

        Raises:
            Unavailable: the database was lost.
        """
        table = self.current()
        shared = self._map()
        behind = shared is not None and shared.table_version != table.version
        if behind or not self._has(table):
            self._put(table)
            for refusal in self._announce(table.version):
                self._told("table refused", {"table": table.version, "cause": refusal})
        return table.version

    def _precede(self, expected: int) -> RoutingTable:
        """Find out that we are late before a file is touched; return what is in force."""
        current = self.current()
        if current.version != expected:
            raise RevisionConflict(
                f"routing table {current.version} is in force, not {expected}; "
                "read it again and repeat the change on top of it"
            )
        return current

    def _put(self, table: RoutingTable) -> None:
        if table.version:
            write_atomically(self._layout.table(table.version), table.to_json(), durable=True)

    def _has(self, table: RoutingTable) -> bool:
        with contextlib.suppress(FlyballError):
            return read_table(self._layout, table.version) == table
        return False

    def _map(self) -> SharedMap | None:
        with contextlib.suppress(FlyballError):
            return SharedMap.open(self._layout.map)
        return None

    def _announce(self, version: int) -> list[str]:
        """Have the workers serve a table; return why some refuse, nothing when all that live serve it."""
        shared = self._map()
        if shared is None:
            return []  # never ran here: the supervisor makes the map, control tells it the version
        shared.table_version = version
        supervisor = _supervisor(self._layout)
        if not supervisor:
            return []
        refusals = self._await(shared, version, supervisor)
        if shared.domain_time and not refusals:
            _await_hosts(shared, version, supervisor)
        return refusals

    def _await(self, shared: SharedMap, version: int, supervisor: int) -> list[str]:
        until = time.monotonic() + self._patience
        pause = 0.001
        while late := [slot for slot in _live(shared, supervisor) if slot.acknowledged != version]:
            if shared.table_version > version:
                return []  # a newer table took its place
            if refusals := _refusals(late, version):
                return refusals
            now = time.monotonic()
            if now > until:
                self._end(late, version)
                return []  # their successors begin with the new table
            self._end([s for s in late if now - s.heartbeat / 1e9 > _SILENT], version)
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
        return []

    def _end(self, late: list[Slot], version: int) -> None:
        for slot in late:
            pid = slot.pid
            self._told("worker ended", {"slot": slot.index, "pid": pid, "table": version, "after_s": self._patience})
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _await_hosts(shared: SharedMap, version: int, supervisor: int) -> None:
    """Wait for candidates' hosts where domain time is simulated: it must not pass while a process starts."""
    until = time.monotonic() + _STARTING
    while time.monotonic() < until and shared.table_version == version:
        vetoes = [slot.veto for slot in _live(shared, supervisor)]
        if not any(v is not None and v.reason is VetoReason.STARTING and v.table == version for v in vetoes):
            return
        time.sleep(0.02)


def _refusals(late: list[Slot], version: int) -> list[str]:
    """Return one sentence's part for each worker that goes on with the table before `version`."""
    refused = [(slot.index, slot.refused) for slot in late]
    return [f"worker {k} refused its champion: {r[1].words}" for k, r in refused if r is not None and r[0] == version]


def _supervisor(layout: Layout) -> int:
    running = read_running(layout)
    if running is not None:
        return running.pid
    with contextlib.suppress(OSError, ValueError):  # still starting: the lock names it
        pid = int((layout.state / "run.lock").read_text())
        return pid if _parent(pid) else 0
    return 0


def _live(shared: SharedMap, supervisor: int) -> list[Slot]:
    """Return the slots whose worker lives: a child of the supervisor, hung ones too, for they may wake up."""
    return [slot for slot in shared if slot.pid and _parent(slot.pid) == supervisor]


def _parent(pid: int) -> int:
    """Return the parent of a process, 0 when it is gone or a zombie."""
    try:
        _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError as error:
        if not Path("/proc/self").exists():  # pragma: no cover
            raise Unavailable("flyball's node needs /proc, which Linux has; run it there") from error
        return 0
    state, parent = rest.split()[:2]
    return 0 if state == "Z" else int(parent)
