from __future__ import annotations

import asyncio
import threading

import pytest
from serving_kit import until

from flyball.serving.models.lanes import Lanes


def test_one_thread_is_used_as_long_as_one_is_enough() -> None:
    async def story():
        lanes = Lanes()
        for k in range(20):
            assert await lanes.run(lambda x: x + 1, k) == k + 1
            await until(lambda: lanes._idle == 1)
        return lanes.threads

    assert asyncio.run(story()) == 1


def test_a_slow_version_holds_one_thread_and_others_go_on() -> None:
    gate = threading.Event()

    async def story():
        lanes = Lanes(limit=2)
        slow = lanes.run(gate.wait, 10)
        for k in range(20):
            assert await asyncio.wait_for(lanes.run(abs, -k), 5) == k
        gate.set()
        assert await slow
        return lanes.threads

    assert asyncio.run(story()) == 2


def test_jobs_are_taken_up_in_the_order_they_came() -> None:
    seen: list[int] = []

    async def story():
        lanes = Lanes(limit=1)
        await asyncio.gather(*(lanes.run(seen.append, k) for k in range(50)))

    asyncio.run(story())
    assert seen == list(range(50))


def test_threads_that_hang_do_not_use_the_lanes_up_and_come_back_one_by_one() -> None:
    gate = threading.Event()

    async def story():
        lanes = Lanes(limit=1, stuck=0.05)
        hung = [lanes.run(gate.wait, 10) for _ in range(3)]
        assert await asyncio.wait_for(lanes.run(abs, -1), 5) == 1
        gate.set()
        await asyncio.gather(*hung)
        await until(lambda: lanes.threads == 1)
        assert await asyncio.wait_for(lanes.run(abs, -2), 5) == 2

    asyncio.run(story())


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(), SystemExit(3)])
def test_what_a_call_raises_comes_back_and_the_thread_lives_on(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def story():
        lanes = Lanes(limit=1)
        with pytest.raises((ValueError, RuntimeError)):
            await lanes.run(fail)
        return await lanes.run(abs, -1)

    assert asyncio.run(story()) == 1


def test_a_withdrawn_job_is_not_run() -> None:
    gate, ran = threading.Event(), []

    async def story():
        lanes = Lanes(limit=1)
        first = lanes.run(gate.wait, 10)
        second = lanes.run(ran.append, 1)
        second.cancel()
        gate.set()
        await first
        await lanes.run(abs, 1)

    asyncio.run(story())
    assert ran == []
