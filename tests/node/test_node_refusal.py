"""A champion that a worker cannot serve: the change is taken back, and who asked for it gets the reason."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from flyball.adapters.local import routes
from flyball.adapters.local.routes import NodeRoutes
from flyball.errors import Refused
from flyball.layout import Layout
from flyball.rollout.routing import Flag, ModelRoute, RoutingTable, VersionRef
from flyball.serving.shared.slots import SharedMap, VetoReason


class Store:
    """A routing store in memory."""

    def __init__(self) -> None:
        self.tables = [RoutingTable(0, 0, 0)]

    def current(self) -> RoutingTable:
        return self.tables[-1]

    def write(self, table: RoutingTable, *, expected: int, fence: int) -> None:
        assert expected == self.tables[-1].version
        self.tables.append(table)


def test_a_refused_table_is_taken_back_under_a_new_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path, tmp_path / ".flyball")
    shared = SharedMap.create(layout.map, slots=2)
    for slot in shared:
        slot.claim(os.getpid())
    monkeypatch.setattr(routes, "_supervisor", lambda layout: os.getppid())  # the workers' parent is ours
    store = Store()
    first = RoutingTable(0, 0, 0).following(
        ModelRoute("eta", "s", VersionRef("v1", "p", "d", True)), fence=1, now=5, cause="promote",
        flags={"f": Flag("f", "salt")},
    )  # fmt: skip
    done = threading.Event()

    def workers() -> None:
        while not done.wait(0.001):
            wanted = shared.table_version
            shared.slot(0).acknowledge(wanted)
            if wanted == 2 and shared.slot(1).acknowledged != 2:
                shared.slot(1).refuse(2, VetoReason.MEMORY)
            else:
                shared.slot(1).acknowledge(wanted)

    thread = threading.Thread(target=workers)
    thread.start()
    try:
        node = NodeRoutes(layout, store)
        node.commit(first, expected=0, fence=1)
        second = first.following(
            ModelRoute("eta", "s", VersionRef("v2", "p", "e", True)), fence=1, now=6, cause="promote"
        )
        with pytest.raises(Refused, match=r"table 2 was taken back.*worker 1 refused its champion: .*server.model_mem"):
            node.commit(second, expected=1, fence=1)
    finally:
        done.set()
        thread.join()
    back = store.current()
    assert (back.version, back.cause, back.models, back.flags) == (3, "rollback", first.models, first.flags)
    assert [slot.acknowledged for slot in shared] == [3, 3]
    assert shared.table_version == 3
