"""The token bucket over all workers: exactly one bucket, however many take from it."""

from __future__ import annotations

import multiprocessing
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.serving.http.limits import RateExceeded, Rates


class Clock:
    def __init__(self) -> None:
        self.now = 50_000_000_000

    def __call__(self) -> int:
        return self.now


def takes(rates, *, seat=2, name="k", rate=10.0, burst=5.0) -> bool:
    try:
        rates.take(seat, name, rate, burst)
    except RateExceeded:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 4), st.sampled_from([1.0, 7.0, 100.0, 0.5]), st.sampled_from([1.0, 3.0, 20.0]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3_000_000_000)), min_size=1, max_size=120),
)  # fmt: skip
def test_all_workers_together_are_one_textbook_bucket(workers, rate, burst, steps):
    clock = Clock()
    first = Rates.in_memory(slots=4, clock=clock)
    views = [first.seen_by(k) for k in range(workers)]
    cost = -(-1_000_000_000 // rate)
    level, last = burst * cost, clock.now
    for worker, wait in steps:
        clock.now += wait
        level, last = min(burst * cost, level + clock.now - last), clock.now
        expected = level >= cost
        level -= cost if expected else 0
        assert takes(views[worker % workers], rate=rate, burst=burst) == expected


def test_what_one_worker_does_not_use_is_there_for_the_other():
    clock = Clock()
    first = Rates.in_memory(slots=2, clock=clock)
    assert [takes(first) for _ in range(6)] == [True] * 5 + [False]
    clock.now += 1_000_000_000
    assert sum(takes(first.seen_by(1)) for _ in range(20)) == 5
    clock.now += 500_000_000
    assert sum(takes(first.seen_by(k % 2)) for k in range(20)) == 5


def test_another_worker_in_the_slot_goes_on_where_the_last_stopped():
    clock = Clock()
    first = Rates.in_memory(slots=2, clock=clock)
    assert sum(takes(first) for _ in range(9)) == 5
    assert not takes(first.seen_by(0))


def test_another_key_at_the_seat_and_another_rate_begin_with_a_full_bucket():
    clock = Clock()
    rates = Rates.in_memory(clock=clock)
    assert sum(takes(rates) for _ in range(9)) == 5
    assert sum(takes(rates, name="other") for _ in range(9)) == 5
    assert sum(takes(rates, name="other", rate=20.0) for _ in range(9)) == 5


def test_keys_do_not_take_from_each_other():
    rates = Rates.in_memory(clock=Clock())
    assert sum(takes(rates, seat=2) for _ in range(9)) == 5
    assert sum(takes(rates, seat=3) for _ in range(9)) == 5


def test_the_refusal_says_when_to_come_again():
    clock = Clock()
    rates = Rates.in_memory(clock=clock)
    for _ in range(5):
        rates.take(2, "key ann", 10.0, 5.0)
    with pytest.raises(
        RateExceeded, match=r"key ann may make 10 requests a second and made more; send again in 1 s"
    ) as e:
        rates.take(2, "key ann", 10.0, 5.0)
    assert (e.value.status, e.value.retry_after) == (429, pytest.approx(0.1))
    clock.now += 100_000_000
    assert takes(rates, name="key ann")


def _hammer(path, slot, until, queue):
    rates = Rates.open(path, slots=3, slot=slot)
    taken = 0
    while time.monotonic() < until:
        taken += takes(rates, rate=2000.0, burst=50.0)
    queue.put(taken)


def test_processes_that_race_never_take_more_than_rate_and_burst(tmp_path):
    spawn = multiprocessing.get_context("fork")
    queue = spawn.Queue()
    start = time.monotonic()
    workers = [spawn.Process(target=_hammer, args=(tmp_path / "rates", k, start + 0.6, queue)) for k in range(3)]
    for worker in workers:
        worker.start()
    total = sum(queue.get(timeout=20) for _ in workers)
    for worker in workers:
        worker.join(20)
    elapsed = time.monotonic() - start
    assert total <= 50 + 2000 * elapsed
    assert total >= 600  # and it is no refusal of everything


def test_a_rate_so_small_that_a_token_would_never_come_back_refuses_instead_of_failing():
    rates = Rates.in_memory()
    rates.take(7, "key k", 5e-324, 1.0)
    with pytest.raises(RateExceeded):
        rates.take(7, "key k", 5e-324, 1.0)
