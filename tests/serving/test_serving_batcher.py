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
from flyball.serving.models.batcher import Batcher
from flyball.serving.models.cost import CostModel
from flyball.serving.shared.slots import Counter, SharedMap


def rows(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64).reshape(-1, 1)


class Known(CostModel):
    """A cost that is known and not learned."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = a, b

    def learn(self, rows: int, seconds: float) -> None:
        pass


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
    gate, returned = threading.Event(), []

    def predict(m: np.ndarray) -> np.ndarray:
        gate.wait(30)
        returned.append(len(m))
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict, cost=1.0)
        until = time.monotonic() + 0.05
        items = await asyncio.gather(*(batcher.submit(rows(1), until) for _ in range(3)))
        meanwhile = list(returned)
        gate.set()
        batcher.close()
        return meanwhile, [i.errors[0] for i in items]

    meanwhile, errors = asyncio.run(story())
    assert meanwhile == []  # the callers had their errors while the thread still hung
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


def test_with_many_offenders_no_innocent_fails() -> None:
    calls: list[int] = []

    def predict(m: np.ndarray) -> np.ndarray:
        calls.append(len(m))
        if (m[:, 0] < 0).any():
            raise ValueError("negative")
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict)
        futures = [batcher.submit(rows(-1.0 if k % 3 == 0 else 1.0), soon()) for k in range(300)]
        return await asyncio.gather(*futures)

    items = asyncio.run(story())
    assert [k for k, item in enumerate(items) if item.errors] == list(range(0, 300, 3))
    assert len(calls) <= 2 * 300


def test_one_offender_among_512_costs_twice_the_logarithm_in_calls() -> None:
    calls: list[int] = []

    def predict(m: np.ndarray) -> np.ndarray:
        calls.append(len(m))
        if (m[:, 0] < 0).any():
            raise ValueError("negative")
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict)
        futures = [batcher.submit(rows(-1.0 if k == 300 else 1.0), soon()) for k in range(512)]
        return await asyncio.gather(*futures)

    assert [k for k, item in enumerate(asyncio.run(story())) if item.errors] == [300]
    assert len(calls) <= 2 + 2 * 9  # in the loop, once more on a lane, then halves


def test_a_batch_is_never_so_large_that_its_earliest_deadline_is_missed() -> None:
    sizes: list[int] = []
    gate = threading.Event()

    def predict(m: np.ndarray) -> np.ndarray:
        sizes.append(len(m))
        gate.wait(5)
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict)
        batcher.costs = Known(0.2, 0.1)  # more than a second for ten rows
        first = batcher.submit(rows(0), soon())
        await until(lambda: sizes == [1])
        near = batcher.submit(rows(0), time.monotonic() + 2.0)
        rest = [batcher.submit(rows(0), time.monotonic() + 60.0) for _ in range(60)]
        gate.set()
        await asyncio.gather(first, near, *rest)
        batcher.close()
        return near.result()

    near = asyncio.run(story())
    assert near.errors is None
    assert sizes[0] == 1
    assert 8 <= sizes[1] <= 18  # of the 61 that waited, what two seconds are enough for


def test_the_predicted_wait_counts_what_runs_and_what_queues() -> None:
    gate, started = threading.Event(), threading.Event()

    def predict(m: np.ndarray) -> np.ndarray:
        started.set()
        gate.wait(5)
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict, max_rows=4)
        batcher.costs = Known(0.1, 0.05)
        idle = batcher.predicted_wait(1)
        futures = [batcher.submit(rows(0), soon())]
        await until(started.is_set)
        futures += [batcher.submit(rows(0), soon()) for _ in range(7)]
        full = batcher.predicted_wait(1)
        gate.set()
        await asyncio.gather(*futures)
        batcher.close()
        return idle, full

    idle, full = asyncio.run(story())
    assert abs(idle - 0.15) < 1e-9
    assert 2 * 0.1 + 8 * 0.05 <= full <= 2 * 0.1 + 8 * 0.05 + 0.15 + 5.0


def test_a_cancelled_request_leaves_the_queue() -> None:
    sizes: list[int] = []
    gate = threading.Event()

    def predict(m: np.ndarray) -> np.ndarray:
        sizes.append(len(m))
        gate.wait(5)
        return m[:, 0]

    async def ask(batcher: Batcher):
        return await batcher.submit(rows(1), soon())

    async def story():
        batcher = Batcher(predict=predict, cost=1.0)
        first = asyncio.create_task(ask(batcher))
        await until(lambda: sizes == [1])
        gone = [asyncio.create_task(ask(batcher)) for _ in range(5)]
        stays = asyncio.create_task(ask(batcher))
        await until(lambda: batcher.waiting == 6)
        for task in gone:
            task.cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, stays)
        await until(lambda: not batcher.busy)
        batcher.close()
        return batcher.waiting, batcher._rows, batcher._running

    assert asyncio.run(story()) == (0, 0, 0)
    assert sizes == [1, 1]


def test_a_fault_of_a_turn_fails_its_batch_only_and_is_visible_until_a_turn_succeeds() -> None:
    async def story():
        slot = SharedMap.in_memory().slot(0)
        batcher = Batcher(predict=lambda m: m[:, 0])
        batcher.slot = slot
        deliver, batcher._deliver = batcher._deliver, None  # type: ignore[method-assign]  # a bug of ours
        lost = await batcher.submit(rows(1), soon())
        broken = batcher.broken
        batcher._deliver = deliver  # type: ignore[method-assign]
        found = await batcher.submit(rows(2), soon())
        return lost.errors, broken, found.values, batcher.broken, slot.total(Counter.LOOP_RESTARTS)

    errors, broken, values, still, restarts = asyncio.run(story())
    assert "the batch was lost" in errors[0]
    assert (broken, values, still, restarts) == (True, [2.0], False, 1)


def test_a_fault_beside_the_loop_fails_its_batch_only_and_the_queue_goes_on() -> None:
    gate = threading.Event()

    def predict(m: np.ndarray) -> np.ndarray:
        gate.wait(5)
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict, cost=1.0)
        deliver, batcher._deliver = batcher._deliver, None  # type: ignore[method-assign]  # a bug of ours
        first = batcher.submit(rows(1), soon())
        await until(lambda: batcher._running == 1)
        second = batcher.submit(rows(2), soon())
        gate.set()
        lost = await first
        batcher._deliver = deliver  # type: ignore[method-assign]
        return lost.errors, (await second).values

    errors, values = asyncio.run(story())
    assert "the batch was lost" in errors[0]
    assert values == [2.0]


def test_a_lone_request_is_answered_at_once_and_neighbours_still_share_a_batch() -> None:
    sizes: list[int] = []

    def predict(m: np.ndarray) -> np.ndarray:
        sizes.append(len(m))
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict, cost=0.0001)  # not so cheap that nothing is worth waiting for
        lone = batcher.now(rows(1))
        assert lone is not None and lone.values == [1.0]
        assert batcher.now(rows(2)) is None  # a second one in this turn: there is a crowd
        await asyncio.gather(*(batcher.submit(rows(k), soon()) for k in range(3)))
        crowded = batcher.now(rows(4))
        for k in range(8):
            await batcher.submit(rows(k), soon())
        again = batcher.now(rows(5))
        assert again is not None
        return crowded, again.values

    assert asyncio.run(story()) == (None, [5.0])
    assert sizes[:2] == [1, 3]


def test_what_fails_at_once_fails_alone_and_many_rows_are_left_to_the_queue() -> None:
    def predict(m: np.ndarray) -> np.ndarray:
        if (m[:, 0] < 0).any():
            raise ValueError("negative")
        return m[:, 0]

    async def story():
        batcher = Batcher(predict=predict)
        lone = batcher.now(rows(-1))
        return lone.errors, batcher.now(rows(-1, 1)), (await batcher.submit(rows(-1, 1), soon())).values

    assert asyncio.run(story()) == ({0: "ValueError: negative"}, None, [None, 1.0])


@settings(max_examples=200)
@given(
    st.sampled_from([None, -1, -2, 2, 3]),
    st.sampled_from(
        [np.array([1.5]), np.array([[1.0, 2.0]]), np.array([np.nan]), np.array([[1.0, np.inf]]), np.array([3]),
         np.array([[4.0]]), np.array([True]), np.array([1.5, 2.0]), np.array(2.0), [1.0], np.array(["a"]),
         np.array([2.5], dtype=np.float32), np.ma.masked_array([1.0], [True]), np.array([[1.0, 2.0, 3.0]]),
         np.array([1.0], dtype=">f8"), np.zeros((1, 0)), np.array([1j])]
    ),
)  # fmt: skip
def test_the_short_look_at_one_rows_answer_agrees_with_the_long_one(columns, answer) -> None:
    from flyball.serving.models.outputs import check_output, lone

    try:
        long = check_output(answer, 1, columns).tolist()
    except Exception:
        long = None
    short = lone(answer, columns)
    assert short is None or short == long


def test_a_batch_is_no_larger_than_pays() -> None:
    sizes: list[int] = []

    def predict(m: np.ndarray) -> np.ndarray:
        sizes.append(len(m))
        return m[:, 0]

    async def story(a: float, b: float):
        batcher = Batcher(predict=predict)
        batcher.costs = Known(a, b)
        sizes.clear()
        await asyncio.gather(*(batcher.submit(rows(0), soon()) for _ in range(100)))
        batcher.close()
        return max(sizes)

    assert asyncio.run(story(0.0, 0.004)) == 8  # nothing is saved by waiting for more
    assert asyncio.run(story(0.008, 0.004)) == 48  # a twentieth of what 48 rows take is their fixed cost
    assert asyncio.run(story(0.01, 0.0)) == 100


def test_parts_of_a_failed_batch_are_asked_of_a_host_side_by_side() -> None:
    under, most, calls = 0, 0, 0

    async def remote(m: np.ndarray, deadline: float) -> np.ndarray:
        nonlocal under, most, calls
        under, calls = under + 1, calls + 1
        most = max(most, under)
        await asyncio.sleep(0)
        under -= 1
        if (m < 0).any():
            raise ValueError("negative")
        return m[:, 0]

    async def story(values: np.ndarray):
        return await Batcher(remote=remote).submit(rows(*values), soon())

    values = np.arange(64.0)
    values[[3, 40, 41]] *= -1
    item = asyncio.run(story(values))
    assert set(item.errors) == {3, 40, 41}
    assert [v for v in item.values if v is not None] == [v for v in values if v >= 0]
    assert 1 < most <= 8
    assert calls <= 1 + 3 * 2 * 6
    assert set(asyncio.run(story(np.full(64, -1.0))).errors) == set(range(64))


def test_of_parts_under_way_as_a_host_dies_the_one_it_had_begun_with_is_the_evidence() -> None:
    async def remote(m: np.ndarray, deadline: float) -> np.ndarray:
        await asyncio.sleep(0)
        if len(m) > 2:
            raise ValueError("one by one")
        raise PeerGone("the host went away", sent=bool((m == 3.0).any()))

    async def story(*values: float):
        return await Batcher(remote=remote).submit(rows(*values), soon())

    assert not asyncio.run(story(0, 1, 2, 3)).absent
    assert asyncio.run(story(0, 1, 2, 4)).absent
