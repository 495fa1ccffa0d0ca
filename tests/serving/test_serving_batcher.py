from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_kit import until

from flyball.adapters.local.ipc import PeerGone
from flyball.errors import Unavailable
from flyball.serving.batcher import Batcher


def rows(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64).reshape(-1, 1)


def soon() -> float:
    return time.monotonic() + 5.0


def test_requests_of_one_turn_are_one_batch() -> None:
    sizes: list[int] = []

    def predict(m: np.ndarray) -> np.ndarray:
        sizes.append(len(m))
        return m[:, 0] + 1

    async def story():
        batcher = Batcher(predict=predict)
        items = await asyncio.gather(*(batcher.submit(rows(i), soon()) for i in range(20)))
        return [i.values for i in items]

    assert asyncio.run(story()) == [[i + 1.0] for i in range(20)]
    assert sizes == [20]


def test_while_a_batch_runs_the_next_one_gathers() -> None:
    sizes: list[int] = []
    gate = threading.Event()

    def predict(m: np.ndarray) -> np.ndarray:
        sizes.append(len(m))
        gate.wait(5)
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict, cost=1.0)
        first = batcher.submit(rows(0), soon())
        await until(lambda: sizes == [1])
        rest = [batcher.submit(rows(i), soon()) for i in range(1, 8)]
        assert batcher.waiting == 7
        gate.set()
        await asyncio.gather(first, *rest)
        batcher.close()
        return batcher.mode

    assert asyncio.run(story()) == "thread"
    assert sizes == [1, 7]


def test_a_batch_is_at_most_max_rows() -> None:
    sizes: list[int] = []

    def predict(m: np.ndarray) -> np.ndarray:
        sizes.append(len(m))
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict, max_rows=8)
        await asyncio.gather(*(batcher.submit(rows(*range(3)), soon()) for _ in range(5)))

    asyncio.run(story())
    assert sizes == [6, 6, 3]


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=8),
    st.sampled_from(["loop", "thread"]),
)
def test_exactly_the_offending_rows_fail(requests: list[list[bool]], mode: str) -> None:
    def predict(m: np.ndarray) -> np.ndarray:
        if (m[:, 0] < 0).any():
            raise ValueError("negative")
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict, cost=0.0 if mode == "loop" else 1.0)
        futures = [batcher.submit(rows(*(-1.0 if bad else 1.0 for bad in r)), soon()) for r in requests]
        items = await asyncio.gather(*futures)
        batcher.close()
        return items

    for request, item in zip(requests, asyncio.run(story()), strict=True):
        assert item.values == [None if bad else 1.0 for bad in request]
        assert set(item.errors or {}) == {k for k, bad in enumerate(request) if bad}


def test_a_hung_thread_costs_each_caller_only_its_deadline() -> None:
    gate = threading.Event()

    def predict(m: np.ndarray) -> np.ndarray:
        gate.wait(5)
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict, cost=1.0)
        start = time.monotonic()
        items = await asyncio.gather(*(batcher.submit(rows(1), start + 0.05) for _ in range(3)))
        took = time.monotonic() - start
        gate.set()
        batcher.close()
        return took, [i.errors[0] for i in items]

    took, errors = asyncio.run(story())
    assert took < 0.5
    assert all(e.startswith("DeadlineExceeded") for e in errors)


def test_a_remote_that_is_gone_is_told_apart_from_one_that_fails() -> None:
    async def gone(m: np.ndarray, deadline: float) -> np.ndarray:
        raise Unavailable("no host")

    async def picky(m: np.ndarray, deadline: float) -> np.ndarray:
        if (m[:, 0] == 2).any():
            raise ValueError("two")
        return m[:, 0]

    async def story():
        one = await Batcher(remote=gone).submit(rows(1, 2), soon())
        two = await Batcher(remote=picky).submit(rows(1, 2, 3), soon())
        return one, two

    one, two = asyncio.run(story())
    assert (one.gone, set(one.errors)) == (True, {0, 1})
    assert (two.gone, two.values, two.errors) == (False, [1.0, None, 3.0], {1: "ValueError: two"})


def test_cost_is_learned_and_moves_a_slow_model_to_its_thread() -> None:
    def predict(m: np.ndarray) -> np.ndarray:
        end = time.perf_counter() + 0.004
        while time.perf_counter() < end:
            pass
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict)
        for _ in range(20):
            await batcher.submit(rows(1), soon())
        batcher.close()
        return batcher.mode

    assert asyncio.run(story()) == "thread"


def test_the_death_of_a_host_is_one_failure_whatever_it_was_doing() -> None:
    async def die(m: np.ndarray, deadline: float) -> np.ndarray:
        raise PeerGone("the host went away", sent=True)

    async def story():
        batcher = Batcher(remote=die)
        items = await asyncio.gather(*(batcher.submit(rows(i), soon()) for i in range(5)))
        batcher.close()
        return [(item.gone, item.absent) for item in items]

    assert asyncio.run(story()) == [(True, False)] + [(True, True)] * 4
