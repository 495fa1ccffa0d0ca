"""Ten times more requests than a model can answer: who is accepted is answered in time, and it is over when it is."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pytest
from serving_kit import Kit, infer_body, table, until

from flyball.serving.gateway import Gateway
from flyball.serving.shared.slots import Counter

INFER = "/v2/models/eta/infer"
DEADLINE = 0.5
PER_ROW = 0.004  # seconds: 250 rows a second


def expensive(matrix: np.ndarray) -> np.ndarray:
    time.sleep(PER_ROW * len(matrix))
    return matrix[:, 0] * 2.0


class Caller:
    """Call the application itself: a client of some size would be the load on the loop it is to measure."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._body = json.dumps(infer_body()).encode()

    async def ask(self) -> tuple[int, int]:
        """Send one row; return the status and Retry-After."""
        seen: dict[str, int] = {}

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": self._body}

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                seen.update(status=message["status"], after=int(headers.get(b"retry-after", 0)))

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": INFER, "raw_path": INFER.encode(), "query_string": b"",
                 "headers": headers}  # fmt: skip
        await self._gateway(scope, receive, send)
        return seen["status"], seen["after"]


async def flood(caller: Caller, *, rate: float, seconds: float) -> tuple[list[tuple[int, int]], int]:
    """Send at a rate whatever becomes of the answers; return them, and how many were under way at most."""
    tasks: set[asyncio.Task[tuple[int, int]]] = set()
    answers: list[tuple[int, int]] = []
    most, begin, sent = 0, time.monotonic(), 0

    def done(task: asyncio.Task[tuple[int, int]]) -> None:
        tasks.discard(task)
        answers.append(task.result())

    while (elapsed := time.monotonic() - begin) < seconds:
        while sent < elapsed * rate:
            task = asyncio.create_task(caller.ask())
            task.add_done_callback(done)
            tasks.add(task)
            sent += 1
        most = max(most, len(tasks))
        await asyncio.sleep(0.002)
    while tasks:
        await asyncio.wait(tasks)
    return answers, most


@pytest.mark.slow
def test_overload_refuses_early_answers_whom_it_accepts_and_ends_with_the_load(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=expensive)

    async def story():
        gateway = kit.gateway()
        await gateway.swap(table(1, kit.ref("v1"), deadline=DEADLINE))
        batcher = gateway.plans["eta"].champion.loaded.batcher
        for rows in (1, 2, 4, 1, 2, 4):  # what it costs is known before the flood, as after a minute of service
            await batcher.submit(np.ones((rows, 2)), time.monotonic() + 5.0)
        caller = Caller(gateway)
        answers, most = await flood(caller, rate=10 / PER_ROW, seconds=2.0)
        ended = time.monotonic()
        await until(lambda: not batcher.busy)
        after = await caller.ask()
        recovered = time.monotonic() - ended
        refused = gateway.slot.total(Counter.REFUSED_BUSY)
        await gateway.close()
        return answers, most, after, recovered, refused

    answers, most, after, recovered, refused = asyncio.run(story())
    codes = [status for status, _ in answers]
    assert set(codes) <= {200, 503, 504}
    assert codes.count(200) >= 50  # it goes on working meanwhile
    assert codes.count(503) > codes.count(200)
    assert codes.count(504) <= 0.2 * (codes.count(200) + codes.count(504))  # hardly any was accepted in vain
    assert refused == codes.count(503)
    assert all(again >= 1 for status, again in answers if status == 503)
    took = sorted(r.total / 1e6 for r in kit.records() if r.error is None)
    assert took[int(len(took) * 0.99)] <= DEADLINE + 0.1
    assert most <= 2 * DEADLINE / PER_ROW + 100  # what waits is bounded by the deadline, not by the load
    assert after[0] == 200
    assert recovered < 2.0
