"""The control database away, unreadable, lost: what serves goes on, says so, refuses orders, and heals by itself."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults_kit import PostgresServer, Up, ask, body_of, health
from node_under_load import Load, Node, until

from flyball.adapters.local.running import read_running, stop
from flyball.control import connect
from flyball.errors import Unavailable
from flyball.project import Project
from flyball.project.status import status

JUNK = b"this is no database " * 400
SLOW = pytest.mark.slow
AWAY = [
    pytest.param(None, id="gone", marks=SLOW),
    pytest.param(b"", id="emptied", marks=SLOW),
    pytest.param(JUNK, id="unreadable"),
]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.down()


def aside(node: Node, instead: bytes | None) -> Path:
    """Move the database's files away, and put something else in their place."""
    away = node.root / "away"
    away.mkdir()
    for file in node.layout.state.glob("control.db*"):
        shutil.move(file, away / file.name)
    if instead is not None:
        (node.layout.state / "control.db").write_bytes(instead)
    return away


def back(node: Node, away: Path) -> None:
    for file in node.layout.state.glob("control.db*"):
        file.unlink()
    for file in away.iterdir():
        os.replace(file, node.layout.state / file.name)
    away.rmdir()


def order(node: Node) -> tuple[int, str]:
    """Ask control for a change."""
    code, said = ask(node.now(), "/v1/models/eta/switch", {"version": "v2"}, control=True)
    return code, said["error"] if isinstance(said, dict) else said


def degraded(node: Node) -> str | None:
    """What `flyball status` says."""
    with Project.open(node.root) as project:
        document = status(project)
    assert [m["champion"] for m in document["models"]] == (["v1"] if document["degraded"] else [])
    return document["degraded"]


@pytest.mark.parametrize("instead", AWAY)
def test_a_database_that_goes_away_while_serving_stops_changes_only(node: Node, instead: bytes | None) -> None:
    node.up()
    node.route()
    until(lambda: health(node.running) == "ok", what="health before")
    assert degraded(node) is None
    with Load(node, pushers=0) as load:
        load.more()
        away = aside(node, instead)
        until(lambda: health(node.running) == "degraded", what="health that says so")
        assert ask(node.running, "/v2/health/ready")[0] == 200
        control = ask(node.running, "/health", control=True)[1]
        assert control["status"] == "degraded"
        assert "control database" in control["trouble"], control["trouble"]
        code, said = order(node)
        assert code >= 500
        assert "control database" in said
        assert "control" in (degraded(node) or "")
        with pytest.raises(Unavailable, match="control"):
            node.route()
        load.more()
        broken = load.broken
        assert broken == 0
        node.kill("w1")  # its successor has no database either
        node.kill("control")
        load.more()
        assert health(node.running) == "degraded"
        back(node, away)
        until(lambda: health(node.running) == "ok", what="health afterwards")
        node.route()  # and orders are taken again
        load.more()
    assert load.refused == []
    assert load.broken <= load.predictors  # connections of the killed worker
    assert set(load.answered.values()) == {2.0}
    assert load.answered.keys() - node.logged().keys() == set()


@pytest.mark.parametrize("instead", [pytest.param(None, id="gone"), pytest.param(JUNK, id="unreadable", marks=SLOW)])
def test_up_without_its_database_serves_the_last_table_and_heals(node: Node, instead: bytes | None) -> None:
    node.up()
    node.route()
    stop(node.layout)
    away = aside(node, instead)
    up = Up(node.root)
    try:
        node.running = until(lambda: read_running(node.layout), 60, what="a node without its database")
        assert "serving routing table 1, the last one" in up.said
        assert ask(node.running, "/v2/models/eta/infer", body_of(4.0))[1]["outputs"][0]["data"] == [8.0]
        assert health(node.running) == "degraded"
        assert not (node.layout.state / "control.db").exists() or instead is not None
        assert order(node)[0] >= 500
        back(node, away)
        until(lambda: health(node.running) == "ok", what="health afterwards")
        v2 = node.artifact("v2", node.module.Scale(3.0), trusted=True)
        node.champion = v2
        node.route()
        assert ask(node.running, "/v2/models/eta/infer", body_of(4.0))[1]["outputs"][0]["data"] == [12.0]
    finally:
        assert up.end() == 0


def test_up_without_a_database_and_without_a_table_is_refused(node: Node) -> None:
    node.database.close()
    for file in node.layout.state.glob("control.db*"):
        file.unlink()
    (node.layout.state / "control.db").write_bytes(JUNK)
    up = Up(node.root)
    assert up.process.wait(40) == 3
    assert "control database" in up.said
    assert "Traceback" not in up.said


def test_an_empty_database_is_never_taken_for_the_one_that_was_lost(tmp_path: Path) -> None:
    file = tmp_path / "control.db"
    with pytest.raises(Unavailable, match="cannot be opened"):
        connect(f"sqlite:///{file}", served=3)
    assert not file.exists()
    connect(f"sqlite:///{file}").close()
    with pytest.raises(Unavailable, match="routing table 3 was in force here; restore it from a backup"):
        connect(f"sqlite:///{file}", served=3)


@pytest.mark.slow
def test_postgresql_that_ends_and_comes_back_stops_changes_only(tmp_path: Path) -> None:
    server = PostgresServer()
    node = Node(tmp_path)
    node.database.close()
    node.database = connect(server.url)
    toml = (tmp_path / "flyball.toml").read_text()
    (tmp_path / "flyball.toml").write_text(toml.replace("[control]\n", f'[control]\ndatabase = "{server.url}"\n'))
    try:
        node.up()
        node.route()
        until(lambda: health(node.running) == "ok", what="health before")
        with Load(node, pushers=0) as load:
            load.more()
            server.stop()
            until(lambda: health(node.running) == "degraded", what="health that says so")
            assert order(node)[0] >= 500
            os.kill(node.pid("w0"), signal.SIGKILL)
            load.more(300)
            server.start()
            until(lambda: health(node.running) == "ok", 40, what="health afterwards")
            node.route()
            load.more()
        assert load.refused == []
        stop(node.layout)
        server.stop()
        up = Up(node.root)
        try:
            node.running = until(lambda: read_running(node.layout), 60, what="a node without its database")
            assert ask(node.running, "/v2/models/eta/infer", body_of(4.0))[0] == 200
            assert health(node.running) == "degraded"
            server.start()
            until(lambda: health(node.running) == "ok", 40, what="health at last")
        finally:
            assert up.end() == 0
    finally:
        node.down()
        server.close()


def test_a_log_that_is_ahead_of_its_database_does_not_stop_the_loop(node: Node) -> None:
    """As after a restore from a backup: the version that answers is in the log and the table, not in the database."""
    node.up()
    node.route()
    with Load(node, pushers=0) as load:
        for _ in range(3):
            load.more(50)
            passes = ask(node.running, "/health", control=True)[1]["passes"]
            until(lambda passes=passes: ask(node.running, "/health", control=True)[1]["passes"] > passes + 2)
            assert health(node.running) == "ok"
    assert '"pass failed"' not in (node.layout.state / "logs" / "control.log").read_text()
