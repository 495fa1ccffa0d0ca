"""A model is taken out of service by any worker, for all of them, and comes back."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from node_under_load import Node

from flyball.adapters.local.ipc import Server
from flyball.errors import Unavailable, UnknownName
from flyball.node.worker import Repository


class Folder:
    """The one path of a layout that is needed here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def socket(self, name: str) -> Path:
        return self._folder / f"{name}.sock"


def test_what_control_answers_reaches_the_worker_as_it_is() -> None:
    async def control(body: Any, _: Any) -> dict[str, Any]:
        if body[1] != "eta":
            raise UnknownName.of("served model", body[1], ["eta"])
        return {"name": body[1], "state": body[0], "actor": body[2]}

    async def story(layout: Any) -> None:
        server = Server(layout.socket("control"), {"repository": control})
        await server.start()
        repository = Repository(layout)
        assert await repository("load", "eta", "admin") == {"name": "eta", "state": "load", "actor": "admin"}
        with pytest.raises(UnknownName, match="there is no served model named 'eat'; did you mean eta"):
            await repository("load", "eat", "admin")
        await server.close()

    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        asyncio.run(story(Folder(Path(folder))))


def test_a_control_process_that_is_away_is_told_as_such() -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.raises(Unavailable):
        asyncio.run(Repository(Folder(Path(folder)))("unload", "eta", "admin"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    found = Node(tmp_path_factory.mktemp("node"))
    found.up()
    yield found
    found.down()


def ask(node: Node, path: str, body: object) -> tuple[int, Any]:
    connection = HTTPConnection(node.running.host, node.running.port, timeout=60)  # a new one may meet another worker
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


@pytest.mark.slow
def test_all_workers_leave_a_model_out_when_one_was_asked_to(node: Node) -> None:
    row = {"inputs": [{"name": "miles", "shape": [1], "datatype": "FP64", "data": [2.0]}]}
    infer = "/v2/models/eta/infer"
    node.route()
    node.database.leases.release(node.database.leases.acquire("routes", "test", timedelta(seconds=60)))
    assert ask(node, infer, row)[0] == 200
    status, out = ask(node, "/v2/repository/models/eta/unload", {})
    assert (status, out.get("state")) == (200, "UNAVAILABLE"), out
    assert [ask(node, infer, row)[0] for _ in range(20)] == [503] * 20
    assert ask(node, "/v2/repository/index", {"ready": True}) == (200, [])
    assert ask(node, "/v2/repository/models/eat/load", {})[0] == 404
    status, back = ask(node, "/v2/repository/models/eta/load", {})
    assert (status, back["state"]) == (200, "READY")
    assert [ask(node, infer, row)[0] for _ in range(20)] == [200] * 20
