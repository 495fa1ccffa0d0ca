import os
import subprocess
import sys
import threading
import time

import pytest

from flyball.adapters.local.routes import NodeRoutes
from flyball.adapters.local.running import lock
from flyball.adapters.local.tables import read_table, untrusted
from flyball.errors import FenceLost, IntegrityError, RevisionConflict, Unavailable
from flyball.layout import Layout
from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef
from flyball.serving.shared.slots import SharedMap


class Tables:
    """The control database's routing store, in memory."""

    def __init__(self):
        self.table = RoutingTable(0, 0, 0)

    def current(self):
        return self.table

    def write(self, table, *, expected, fence):
        if self.table.version != expected:
            raise RevisionConflict("late")
        if fence < self.table.fence:
            raise FenceLost("old")
        self.table = table


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path, tmp_path / ".flyball")


def ref(version: str, *, trusted: bool = False) -> VersionRef:
    return VersionRef(version, f"/artifacts/{version}", version * 32, trusted)


def table(version: int, fence: int = 1) -> RoutingTable:
    route = ModelRoute("eta", "salt", ref("v1", trusted=True), ref("v2"), warm=(ref("v3"), ref("v2")))
    return RoutingTable(version, fence, 0, {"eta": route})


def test_every_untrusted_version_needs_one_host():
    assert [r.version for r in untrusted(table(1))] == ["v2", "v3"]


def test_without_a_node_a_commit_writes_file_and_database(layout):
    routes = NodeRoutes(layout, Tables())
    routes.commit(table(1), expected=0, fence=1)
    assert read_table(layout, 1) == table(1) == routes.current()


def test_the_late_one_of_two_loses_and_leaves_no_file(layout):
    store = Tables()
    NodeRoutes(layout, store).commit(table(1), expected=0, fence=1)
    with pytest.raises(RevisionConflict, match="routing table 1 is in force, not 0"):
        NodeRoutes(layout, store).commit(table(1, fence=9), expected=0, fence=9)
    with pytest.raises(RevisionConflict, match="cannot follow"):
        NodeRoutes(layout, store).commit(table(3), expected=1, fence=1)
    assert read_table(layout, 1).fence == 1


def test_an_old_fence_may_not_write(layout):
    store = Tables()
    NodeRoutes(layout, store).commit(table(1, fence=5), expected=0, fence=5)
    with pytest.raises(FenceLost):
        NodeRoutes(layout, store).commit(table(2, fence=4), expected=1, fence=4)
    assert not layout.table(2).exists()


def test_a_node_that_missed_a_commit_follows_the_database(layout):
    store = Tables()
    shared = SharedMap.create(layout.map, slots=1)
    store.write(table(1), expected=0, fence=1)  # the writer was killed before file and map
    assert NodeRoutes(layout, store).ensure() == 1
    assert shared.table_version == 1
    assert read_table(layout, 1) == table(1)


def test_a_changed_table_file_is_written_again(layout):
    store = Tables()
    SharedMap.create(layout.map, slots=1)
    routes = NodeRoutes(layout, store)
    routes.commit(table(1), expected=0, fence=1)
    layout.table(1).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="no routing table"):
        read_table(layout, 1)
    routes.ensure()
    assert read_table(layout, 1) == table(1)


def test_a_missing_table_is_told(layout):
    with pytest.raises(Unavailable, match="routing table 7"):
        read_table(layout, 7)


@pytest.fixture
def worker():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_commit_waits_for_every_live_worker(layout, worker):
    held = lock(layout)
    shared = SharedMap.create(layout.map, slots=2)
    shared.slot(0).claim(worker.pid)
    shared.slot(1).claim(2**22 - 1)  # a pid that is nobody's: a dead worker's slot

    def acknowledge():
        while shared.table_version != 1:
            time.sleep(0.001)
        time.sleep(0.05)
        shared.slot(0).acknowledge(1)

    late = threading.Thread(target=acknowledge)
    late.start()
    started = time.monotonic()
    NodeRoutes(layout, Tables(), patience=10).commit(table(1), expected=0, fence=1)
    assert 0.04 < time.monotonic() - started < 5
    late.join()
    assert worker.poll() is None
    os.close(held)


def test_a_worker_that_does_not_acknowledge_is_ended(layout, worker):
    held = lock(layout)
    told = []
    shared = SharedMap.create(layout.map, slots=1)
    shared.slot(0).claim(worker.pid)
    routes = NodeRoutes(layout, Tables(), patience=0.1, told=lambda event, fields: told.append(fields["pid"]))
    routes.commit(table(1), expected=0, fence=1)
    assert worker.wait(5) == -9
    assert told == [worker.pid]
    os.close(held)


def test_a_hung_worker_is_ended_before_patience_is_over(layout, worker, monkeypatch):
    monkeypatch.setattr("flyball.adapters.local.routes._SILENT", 0.05)
    held = lock(layout)
    SharedMap.create(layout.map, slots=1).slot(0).claim(worker.pid)
    started = time.monotonic()
    NodeRoutes(layout, Tables(), patience=60).commit(table(1), expected=0, fence=1)
    assert time.monotonic() - started < 30
    assert worker.wait(5) == -9
    os.close(held)


def test_only_children_of_the_supervisor_are_ever_ended(layout):
    held = lock(layout)
    shared = SharedMap.create(layout.map, slots=1)
    shared.slot(0).claim(os.getppid())  # somebody else's process: not our child
    ended = []
    routes = NodeRoutes(layout, Tables(), patience=0.05, told=lambda event, fields: ended.append(fields["pid"]))
    routes.commit(table(1), expected=0, fence=1)
    os.kill(os.getppid(), 0)
    assert ended == []
    os.close(held)
