"""Ten times more requests than a model can answer: who is accepted is answered in time, and it is over when it is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving_kit import Kit, infer_body, table, until

from flyball.serving.slots import Counter
from flyball.testing.in_process import async_client

INFER = "/v2/models/eta/infer"
DEADLINE = 0.5
PER_ROW = 0.004  # seconds: 250 rows a second


def expensive(matrix: np.ndarray) -> np.ndarray:
    time.sleep(PER_ROW * len(matrix))
    return matrix[:, 0] * 2.0


async def flood(http: httpx.AsyncClient, *, rate: float, seconds: float) -> tuple[list[httpx.Response], int]:
    """Send at a rate whatever becomes of the answers; return them, and how many were under way at most."""
    tasks: set[asyncio.Task[httpx.Response]] = set()
    answers: list[httpx.Response] = []
    most, begin, sent = 0, time.monotonic(), 0

    def done(task: asyncio.Task[httpx.Response]) -> None:
        tasks.discard(task)
        answers.append(task.result())

    while (elapsed := time.monotonic() - begin) < seconds:
        while sent < elapsed * rate:
            task = asyncio.create_task(http.post(INFER, json=infer_body()))
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
        async with async_client(gateway) as http:
            for rows in (1, 2, 4, 1, 2, 4):  # what it costs is known before the flood, as after a minute of service
                await http.post(INFER, json=infer_body(rows=rows))
            answers, most = await flood(http, rate=10 / PER_ROW / 4, seconds=2.0)
            ended = time.monotonic()
            await until(lambda: not batcher.busy)
            after = await http.post(INFER, json=infer_body())
            recovered = time.monotonic() - ended
        refused = gateway.slot.total(Counter.REFUSED_BUSY)
        await gateway.close()
        return answers, most, after, recovered, refused

    answers, most, after, recovered, refused = asyncio.run(story())
    codes = [a.status_code for a in answers]
    assert set(codes) <= {200, 503, 504}
    assert codes.count(200) >= 50  # it goes on working meanwhile
    assert codes.count(503) > codes.count(200)
    assert codes.count(504) <= 0.05 * (codes.count(200) + codes.count(504))  # hardly any was accepted in vain
    assert refused == codes.count(503)
    assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 503)
    took = sorted(r.total / 1e6 for r in kit.records() if r.error is None)
    assert took[int(len(took) * 0.99)] <= DEADLINE + 0.1
    assert most <= 2 * DEADLINE / PER_ROW + 100  # what waits is bounded by the deadline, not by the load
    assert after.status_code == 200
    assert recovered < 2.0
