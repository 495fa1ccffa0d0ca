"""Measure what asking a host costs a worker: shared memory against the message socket that carried matrices before.

Both sides are real processes that run the same trivial model; the asking loop is the worker's (uvloop). "socket" packs
shape and bytes into msgpack and goes through an event loop and the model's thread in the host, as hosts did at first.
A B A B; what is printed is the time of one whole question, the model's own microseconds included.

    python bench/host_hop.py --quick      # a few seconds
    python bench/host_hop.py              # about half a minute
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from flyball.adapters.local.ipc import Call, Client, Server, pack_matrix, unpack_matrix
from flyball.adapters.local.ring import Kind
from flyball.adapters.local.ring_client import RingClient
from flyball.adapters.local.ring_server import RingServer
from flyball.node.host import Host

SHAPES = ((1, 20), (128, 100), (512, 200))
Ask = Callable[[np.ndarray], Awaitable[Any]]


def predict(matrix: np.ndarray) -> np.ndarray:
    return matrix[:, 0] * 2.0


def serve_ring(path: Path) -> None:
    server = RingServer(path)
    host = Host(server, lambda: predict)
    host.start()
    server.start()
    host.run()


def serve_socket(path: Path) -> None:
    async def main() -> None:
        thread = ThreadPoolExecutor(1)

        async def answer(body: list[Any], _: Call) -> list[Any]:
            loop = asyncio.get_running_loop()
            return pack_matrix(await loop.run_in_executor(thread, predict, unpack_matrix(body[:2])))

        server = Server(path, {"predict": answer})
        await server.start()
        await asyncio.Event().wait()

    asyncio.run(main())


async def times(ask: Ask, shape: tuple[int, int], count: int) -> list[float]:
    """Return the microseconds of each of `count` questions, after a warm-up."""
    matrix = np.random.default_rng(1).normal(size=shape)
    taken = []
    for k in range(count + 50):
        begin = time.perf_counter_ns()
        await ask(matrix)
        if k >= 50:
            taken.append((time.perf_counter_ns() - begin) / 1e3)
    return taken


async def measure(folder: Path, count: int, rounds: int) -> dict[str, dict[str, float]]:
    ring = RingClient(folder / "ring", name="ring")
    client = Client(folder / "socket", name="socket")

    async def by_ring(matrix: np.ndarray) -> Any:
        return await ring.ask(Kind.PREDICT, matrix, time.monotonic() + 5.0)

    async def by_socket(matrix: np.ndarray) -> Any:
        return unpack_matrix(await client.call("predict", [*pack_matrix(matrix), 0.0], timeout=5.0, wait=5.0))

    cells: dict[str, dict[str, float]] = {}
    for shape in SHAPES:
        found: dict[str, list[float]] = {"ring": [], "socket": []}
        for _ in range(rounds):
            found["ring"] += await times(by_ring, shape, count)
            found["socket"] += await times(by_socket, shape, count)
        for way, taken in found.items():
            cuts = statistics.quantiles(taken, n=100)
            cells[f"{way} {shape[0]}x{shape[1]}"] = {"p50_us": round(cuts[49], 1), "p99_us": round(cuts[98], 1)}
    return cells


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    count, rounds = (1_000, 2) if given.quick else (5_000, 4)
    start = multiprocessing.get_context("spawn").Process
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hosts = [start(target=serve_ring, args=(folder / "ring",), daemon=True),
                 start(target=serve_socket, args=(folder / "socket",), daemon=True)]  # fmt: skip
        for host in hosts:
            host.start()
        while not all((folder / way).exists() for way in ("ring", "socket")):
            time.sleep(0.01)
        time.sleep(0.2)
        cells = uvloop.run(measure(folder, count, rounds))
        for host in hosts:
            host.kill()
    for cell, values in cells.items():
        print(f"{cell:18} p50 {values['p50_us']:8.1f} µs   p99 {values['p99_us']:8.1f} µs")
    print(json.dumps({"bench": "host_hop", "cells": cells}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
