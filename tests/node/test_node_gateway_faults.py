"""A node under 64 callers while tables change, workers leave and die, and everything beside the workers is killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from faults_kit import Callers, ask, totals
from node_under_load import Node, until

from flyball.adapters.local.tables import explain_name

MODELS = '''
import numpy as np


class Heavy(Scale):
    """Four megabytes, so that a leak of one is seen."""

    def __init__(self, by):
        super().__init__(by)
        self.weights = np.full(500_000, float(by))
'''


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, models=MODELS)
    node.up()
    node.route()
    yield node
    node.down()


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 280))  # type: ignore[arg-type]


async def swap(node: Node, ref: object) -> float:
    """Make a version champion; return the seconds until all workers served it."""
    node.champion = ref  # type: ignore[assignment]
    return await asyncio.to_thread(node.route)


async def replaced(node: Node, name: str, number: int) -> None:
    """Send a process a signal, and wait until another one is ready in its place."""
    pid, log = node.pid(name), node.layout.state / "logs" / f"{name}.log"
    before = log.read_text().count('"event": "ready"')
    os.kill(pid, number)

    def ready() -> bool:
        return node.now().children.get(name, 0) not in {0, pid} and log.read_text().count('"event": "ready"') > before

    await asyncio.to_thread(until, ready, 40, f"another {name}")


def nothing_wrong(callers: Callers) -> None:
    assert callers.wrong == []
    assert set(callers.statuses) == {200}


@pytest.mark.slow
def test_twenty_swaps_under_ten_thousand_requests_fail_none_and_each_value_is_of_the_version_named(node: Node) -> None:
    refs = [node.champion, node.artifact("v2", node.module.Scale(3.0), trusted=True)]

    async def story() -> None:
        async with Callers(node.running, 64) as callers:
            for k in range(1, 21):
                await callers.more(500)
                await swap(node, refs[k % 2])  # there and back again
            await callers.more(500)
        nothing_wrong(callers)
        assert callers.answered >= 10_000
        assert set(callers.versions) == {("v1", 2.0), ("v2", 3.0)}
        logged = node.logged()
        assert len(logged) == callers.answered
        assert {(r.version, round(float(r.value) / r.inputs["miles"], 9)) for r in logged.values()} == set(
            callers.versions
        )

    run(story)


def footprint(node: Node) -> dict[str, tuple[int, int, int, int]]:
    """Return memory (bytes), descriptors, threads and mapped files of every process of the node."""
    found = {}
    for name, pid in {**node.now().children, "supervisor": node.running.pid}.items():
        proc = Path(f"/proc/{pid}")
        memory = int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        maps = len({line.split()[5] for line in (proc / "maps").read_text().splitlines() if len(line.split()) > 5})
        found[name] = memory, len(os.listdir(proc / "fd")), len(os.listdir(proc / "task")), maps
    return found


@pytest.mark.slow
def test_fifty_swaps_leave_no_memory_file_thread_or_mapping_behind(node: Node) -> None:
    refs = [node.artifact(f"h{k}", node.module.Heavy(k + 2.0), trusted=True) for k in range(2)]

    async def story() -> None:
        async with Callers(node.running, 4) as callers:
            for k in range(10):
                await swap(node, refs[k % 2])
            before, shared = footprint(node), sorted(os.listdir("/dev/shm"))
            for k in range(50):
                await swap(node, refs[k % 2])
                await callers.more(5)
            after = await asyncio.to_thread(until, lambda: settled(before, footprint(node)), 20, "what was before")
            assert sorted(os.listdir("/dev/shm")) == shared
            assert after.keys() == before.keys()
        nothing_wrong(callers)
        assert set(callers.versions) <= {("v1", 2.0), ("h0", 2.0), ("h1", 3.0)}

    def settled(before: dict[str, tuple[int, ...]], now: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        grown = {
            name: (now[name], was)
            for name, was in before.items()
            if now[name][0] - was[0] > 10 * 4_000_000 or any(now[name][i] > was[i] + 4 for i in (1, 2, 3))
        }
        return {} if grown else now  # of 200 MB that came and went, in each worker

    run(story)


def test_workers_that_are_told_to_end_one_after_another_reset_nobody(node: Node) -> None:
    async def story() -> None:
        async with Callers(node.running, 32) as callers:
            for name in ("w0", "w1"):
                await callers.more(200)
                await replaced(node, name, signal.SIGTERM)
            await callers.more(200)
        nothing_wrong(callers)
        assert callers.closed > 0  # told so, and connected again
        assert len(node.logged()) == callers.answered

    run(story)


def test_totals_never_run_backwards_and_changes_arrive_within_a_second_when_workers_die(node: Node) -> None:
    async def story() -> None:
        async with Callers(node.running, 8) as callers:
            seen: dict[str, float] = {}
            for _ in range(2):
                for name in ("w0", "w1"):
                    await callers.more(50)
                    seen = grown(seen, await asyncio.to_thread(totals, node.running))
                    await replaced(node, name, signal.SIGKILL)
                    assert await asyncio.to_thread(node.route) < 1.0
                    seen = grown(seen, await asyncio.to_thread(totals, node.running))
        assert set(callers.statuses) == {200}
        assert len(callers.wrong) <= 4 * 8  # connections of the killed
        requests = sum(v for k, v in seen.items() if k.startswith("flyball_requests_total"))
        assert requests >= callers.answered - 8 * 5

    def grown(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
        assert {k: (v, now.get(k)) for k, v in before.items() if now.get(k, -1.0) < v} == {}
        return now

    run(story)


@pytest.mark.slow
def test_whatever_is_killed_beside_the_workers_costs_no_caller_anything(node: Node) -> None:
    rng = random.Random(5)
    explain = {"rows": [{"miles": 3.0}]}
    helper = explain_name(node.champion.digest)

    def explained() -> bool:
        return ask(node.running, "/v2/models/eta/explain", explain)[0] == 200

    async def story() -> None:
        async with Callers(node.running, 16) as callers:
            await asyncio.to_thread(until, explained, 40, "an explanation")
            for _ in range(4):
                for name in rng.sample(["control", "ingest", "shipper", helper], 4):
                    await callers.more(rng.randrange(20, 200))  # the random moment
                    os.kill(node.pid(name), signal.SIGKILL)
            await callers.more(200)
            for name in ("control", "ingest", "shipper"):
                await asyncio.to_thread(until, lambda name=name: node.now().children.get(name, 0), 30, f"{name} again")
            await asyncio.to_thread(until, explained, 40, "an explanation again")
            nothing_wrong(callers)
        assert set(callers.versions) == {("v1", 2.0)}
        assert len(node.logged()) == callers.answered

    run(story)


@pytest.mark.slow
def test_the_death_of_a_worker_neither_fills_nor_empties_a_bucket(tmp_path: Path) -> None:
    rate = 40.0
    node = Node(tmp_path)
    toml = (tmp_path / "flyball.toml").read_text()
    (tmp_path / "flyball.toml").write_text(toml.replace("[server]\n", f"[server]\nrate = {rate}\n"))
    node.up()
    node.route()

    async def story() -> None:
        started = time.monotonic()
        async with Callers(node.running, 4) as callers:
            await accepted(callers, 60)
            for name in ("w0", "w1"):
                await replaced(node, name, signal.SIGKILL)
                await accepted(callers, 60)  # its tokens come back
            elapsed, taken = time.monotonic() - started, callers.statuses[200]
        assert set(callers.statuses) == {200, 429}
        assert callers.retry_after == callers.statuses[429]
        assert taken <= rate * elapsed + max(rate, 1.0) + 1

    async def accepted(callers: Callers, more: int) -> None:
        goal, end = callers.statuses[200] + more, time.monotonic() + 30
        while callers.statuses[200] < goal:
            assert time.monotonic() < end, callers.statuses
            await asyncio.sleep(0.005)

    try:
        run(story)
    finally:
        node.down()
