"""Ten times the load a worker can carry, and callers who leave, hurry or talk oddly: nobody else pays for it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults_kit import PATH, Callers, answer_of, ask, body_of, health, metrics, request_of
from node_under_load import Node, until

from flyball.adapters.local.running import Running

SECONDS = 0.008  # that one row takes: 125 rows a second and worker
DEADLINE = 0.5
MODELS = f'''
import pathlib


class Slow(Scale):
    """Takes its time for every row and, where it is told a file, writes down what it was asked."""

    def __init__(self, by, asked=""):
        super().__init__(by)
        self.asked = asked

    def predict(self, matrix):
        time.sleep({SECONDS} * len(matrix))
        if self.asked:
            with open(self.asked, "a") as file:
                file.write("".join(f"{{v}}\\n" for v in matrix[:, 0]))
        return super().predict(matrix)
'''


def slow_node(folder: Path) -> Node:
    node = Node(folder, workers=1, models=MODELS)
    node.champion = node.artifact("v1", node.module.Slow(2.0, str(folder / "asked")), trusted=True)
    node.up()
    node.route(deadline=DEADLINE)
    return node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = slow_node(tmp_path_factory.mktemp("shared"))
    yield node
    node.down()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Node]:
    node = slow_node(tmp_path)
    yield node
    node.down()


@dataclass
class Open:
    """An open-loop client: requests leave when they are due, whether or not others were answered."""

    running: Running
    rate: float
    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    without_retry: int = 0

    async def drive(self) -> float:
        """Send them all, wait for the answers; return how many a second left."""
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        started, count = time.monotonic(), int(self.rate * self.seconds)
        tasks = []
        for k in range(count):
            ahead = started + k / self.rate - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            elif k % 16 == 0:
                await asyncio.sleep(0)  # late: but answers are to be read
            tasks.append(asyncio.create_task(self._one(k)))
        offered = count / (time.monotonic() - started)
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        for _, writer in self._free:
            writer.close()
        return offered

    async def _one(self, k: int) -> None:
        try:
            line = (
                self._free.pop() if self._free else await asyncio.open_connection(self.running.host, self.running.port)
            )
            line[1].write(request_of(body_of(float(k), unit=f"o{k}")))
            status, headers, data = await answer_of(line[0])
        except (OSError, asyncio.IncompleteReadError) as error:
            self.wrong.append(repr(error))
            return
        self.statuses[status] += 1
        if status != 200:
            self.refusals[json.loads(data)["error"].partition("(")[0][:60]] += 1
            self.without_retry += status == 503 and not headers.get("retry-after", "").isdigit()
        if headers.get("connection") == "close":
            line[1].close()
        else:
            self._free.append(line)


def memory(node: Node) -> int:
    pages = Path(f"/proc/{node.pid('w0')}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_ten_times_too_much_is_refused_and_what_is_accepted_is_in_time(alone: Node) -> None:
    node = alone

    async def story() -> None:
        async with Callers(node.running, 8) as calm:
            await calm.more(100)  # the worker learns what a row costs
            begun, answered = time.monotonic(), calm.answered
            await calm.more(200)
            capacity = (calm.answered - answered) / (time.monotonic() - begun)
        assert set(calm.statuses) == {200}
        before, pid = memory(node), node.pid("w0")
        flood = Open(node.running, 10 * capacity, 6.0)
        driving = asyncio.create_task(flood.drive())
        most = before
        while not driving.done():
            most = max(most, memory(node))
            await asyncio.sleep(0.05)
        offered = driving.result()
        ended = time.monotonic()
        async with Callers(node.running, 1) as after:
            while not after.statuses[200] and time.monotonic() < ended + 2.0:
                await asyncio.sleep(0.005)
        assert after.statuses[200], (after.statuses, "recovered within 2 s")
        assert offered >= 5 * capacity, "the client itself was too slow"
        assert flood.wrong == []
        assert node.pid("w0") == pid
        assert most - before < 100_000_000
        assert set(flood.statuses) <= {200, 503, 504}, (flood.statuses, flood.refusals)
        # What waits was predicted to be in time. A machine that stalls may break that; then 504 comes at the deadline.
        assert flood.statuses[504] <= 0.05 * flood.statuses[200], (flood.statuses, flood.refusals)
        assert flood.without_retry == 0
        assert flood.statuses[503] > flood.statuses[200] > 0.5 * capacity * flood.seconds
        late = [r.total for r in node.logged().values() if r.error is None and r.total > DEADLINE * 1e6]
        assert late == []

    asyncio.run(story())
    until(lambda: health(node.running) == "ok", 5, "health")
    assert metrics(node.running)['flyball_refused_busy_total{worker="0"}'] > 0


def test_callers_who_left_are_not_answered_and_the_model_is_not_asked(node: Node) -> None:
    """They left while their rows were queued behind a batch that ran."""
    node.route(deadline=30.0)
    before = metrics(node.running)['flyball_disconnected_total{worker="0"}']
    busy = body_many([1000.0] * 100)  # 0.8 s of model time

    async def story() -> None:
        reader, writer = await asyncio.open_connection(node.running.host, node.running.port)
        writer.write(request_of(busy))
        leaving = []
        for k in range(20):
            _, out = await asyncio.open_connection(node.running.host, node.running.port)
            out.write(request_of(body_of(5000.0 + k)))
            leaving.append(out)
        staying = [await asyncio.open_connection(node.running.host, node.running.port) for _ in range(3)]
        for k, (_, out) in enumerate(staying):
            out.write(request_of(body_of(6000.0 + k)))
        for out in leaving:
            out.close()
        assert (await answer_of(reader))[0] == 200
        assert [(await answer_of(line))[0] for line, _ in staying] == [200] * 3
        for out in (writer, *(out for _, out in staying)):
            out.close()

    def gone() -> bool:
        return metrics(node.running)['flyball_disconnected_total{worker="0"}'] >= before + 20

    asyncio.run(story())
    until(gone, what="twenty callers counted as gone")
    asked = {float(line) for line in (node.root / "asked").read_text().split()}
    assert {6000.0, 6001.0, 6002.0} <= asked
    assert len([v for v in asked if 5000.0 <= v < 5020.0]) <= 1  # one may have been in the batch when it began


def body_many(rows: list[float]) -> bytes:
    inputs = [{"name": "miles", "shape": [len(rows)], "datatype": "FP64", "data": rows}]
    return json.dumps({"inputs": inputs}).encode()


def test_a_deadline_of_a_millisecond_is_an_error_in_time_and_takes_nothing_from_others(node: Node) -> None:
    node.route(deadline=0.001)
    for k in range(10):
        status, said = ask(node.running, PATH, body_of(7000.0 + k))
        assert status in {503, 504}, said
        assert "deadline" in said["error"]
    node.route(deadline=DEADLINE)
    assert ask(node.running, PATH, body_of(1.0))[1]["outputs"][0]["data"] == [2.0]
    assert health(node.running) == "ok"


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while some := sock.recv(65536):
        data += some
    return data


def test_pipelined_requests_are_answered_in_their_order(node: Node) -> None:
    async def story() -> list[float]:
        reader, writer = await asyncio.open_connection(node.running.host, node.running.port)
        writer.write(b"".join(request_of(body_of(float(k))) for k in range(1, 21)))
        answers = [await answer_of(reader) for _ in range(20)]
        writer.close()
        assert {status for status, _, _ in answers} == {200}
        return [json.loads(data)["outputs"][0]["data"][0] for _, _, data in answers]

    node.route(deadline=10.0)
    assert asyncio.run(story()) == [2.0 * k for k in range(1, 21)]


def test_a_caller_who_only_closed_his_half_ends_alone(node: Node) -> None:
    """What is then sent is up to the server; what matters is that the line ends and that nothing is kept."""
    node.route(deadline=DEADLINE)
    files = len(os.listdir(f"/proc/{node.pid('w0')}/fd"))
    for sent in (b"", b"POST /v2/mod", request_of(body_of(3.0))[:-5], request_of(body_of(3.0))):
        with socket.create_connection((node.running.host, node.running.port), timeout=10) as sock:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            said = read_all(sock)
            assert said == b"" or said.startswith(b"HTTP/1.1 ")
    assert ask(node.running, PATH, body_of(1.0))[0] == 200
    until(lambda: len(os.listdir(f"/proc/{node.pid('w0')}/fd")) <= files + 1, what="no descriptor kept")
