from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_kit import until

from flyball.rollout.routing import ModelRoute, Variant, VersionRef
from flyball.serving.flow.cache import AnswerCache, Worth, randomised
from flyball.serving.models.batcher import Batcher
from flyball.serving.shared.slots import Counter, SharedMap

CHAMPION = ("digest", "champion")


def rows(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64).reshape(-1, 1)


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


class Model:
    """Answers twice the row and remembers which rows it was asked for; negative rows fail."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.gate: threading.Event | None = None

    def predict(self, m: np.ndarray) -> np.ndarray:
        self.seen += m[:, 0].tolist()
        if self.gate is not None:
            self.gate.wait(5)
        if (m[:, 0] < 0).any():
            raise ValueError("negative")
        return m[:, 0] * 2


def ask(cache: AnswerCache, batcher: Batcher, matrix: np.ndarray, version=CHAMPION, ttl: float = 30.0):
    return cache.answer(version, batcher, matrix, ttl=ttl, deadline=time.monotonic() + 5.0)


def test_equal_rows_are_computed_once_until_their_time_is_over() -> None:
    clock, model = Clock(), Model()

    async def story():
        cache, batcher = AnswerCache(10_000, now=clock), Batcher(predict=model.predict)
        first = await ask(cache, batcher, rows(1))
        second = await ask(cache, batcher, rows(1))
        clock.at += 30.0
        third = await ask(cache, batcher, rows(1))
        return [(i.values, i.cached) for i in (first, second, third)]

    assert asyncio.run(story()) == [([2.0], frozenset()), ([2.0], frozenset({0})), ([2.0], frozenset())]
    assert model.seen == [1.0, 1.0]


def test_another_version_arm_or_feature_value_is_another_row() -> None:
    model = Model()

    async def story():
        cache, batcher = AnswerCache(10_000), Batcher(predict=model.predict)
        for version in (CHAMPION, ("digest", "candidate"), ("other", "champion")):
            assert not (await ask(cache, batcher, rows(1), version)).cached
        assert not (await ask(cache, batcher, rows(1.0000000000000002))).cached

    asyncio.run(story())
    assert len(model.seen) == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=5), max_size=12),
       st.integers(0, 1500), st.booleans())  # fmt: skip
def test_whatever_is_asked_at_once_or_in_turn_answers_are_the_models(requests, limit: int, at_once: bool) -> None:
    model = Model()

    async def story():
        cache = AnswerCache(limit)
        batcher = Batcher(predict=model.predict, cost=0.00005)
        calls = [ask(cache, batcher, rows(*r)) for r in requests]
        items = await asyncio.gather(*calls) if at_once else [await call for call in calls]
        assert cache.bytes <= limit
        assert not cache._flying
        return items

    for request, item in zip(requests, asyncio.run(story()), strict=True):
        assert item.values == [None if v < 0 else v * 2 for v in request]
        assert set(item.errors or ()) == {k for k, v in enumerate(request) if v < 0}
        assert not {k for k in item.cached or () if request[k] < 0}


def test_equal_rows_under_way_are_computed_once() -> None:
    model = Model()
    model.gate = threading.Event()

    async def story():
        cache, batcher = AnswerCache(10_000), Batcher(predict=model.predict, cost=1.0)
        calls = [asyncio.create_task(ask(cache, batcher, rows(7, 7))) for _ in range(10)]
        await until(lambda: bool(model.seen))
        model.gate.set()
        items = await asyncio.gather(*calls)
        batcher.close()
        return [i.values for i in items]

    assert asyncio.run(story()) == [[14.0, 14.0]] * 10
    assert model.seen == [7.0]


def test_when_the_first_of_equal_requests_leaves_the_others_are_answered() -> None:
    model = Model()
    model.gate = threading.Event()

    async def story():
        cache, batcher = AnswerCache(10_000), Batcher(predict=model.predict, cost=1.0)
        first = asyncio.create_task(ask(cache, batcher, rows(7)))
        await until(lambda: bool(model.seen))
        second = asyncio.create_task(ask(cache, batcher, rows(7)))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        model.gate.set()
        found = await second
        batcher.close()
        return found.values

    assert asyncio.run(story()) == [14.0]


def test_a_follower_keeps_its_own_deadline() -> None:
    model = Model()
    model.gate = threading.Event()

    async def story():
        cache, batcher = AnswerCache(10_000), Batcher(predict=model.predict, cost=1.0)
        first = asyncio.create_task(ask(cache, batcher, rows(7)))
        await until(lambda: bool(model.seen))
        late = await cache.answer(CHAMPION, batcher, rows(7), ttl=30.0, deadline=time.monotonic() + 0.05)
        model.gate.set()
        found = await first
        batcher.close()
        return late.errors, found.values

    errors, values = asyncio.run(story())
    assert errors[0].startswith("DeadlineExceeded")
    assert values == [14.0]


def test_failures_are_not_kept() -> None:
    model = Model()

    async def story():
        cache, batcher = AnswerCache(10_000), Batcher(predict=model.predict)
        for _ in range(3):
            assert (await ask(cache, batcher, rows(-1))).errors == {0: "ValueError: negative"}
        return len(cache), cache.bytes

    assert asyncio.run(story()) == (0, 0)
    assert model.seen == [-1.0] * 3


def test_the_least_recently_used_goes_first_and_is_counted() -> None:
    model, slot = Model(), SharedMap.in_memory().slot(0)

    async def story():
        cache, batcher = AnswerCache(10_000, slot=slot), Batcher(predict=model.predict)
        await ask(cache, batcher, rows(0))
        one = cache.bytes
        cache._limit = 3 * one
        await ask(cache, batcher, rows(1))
        await ask(cache, batcher, rows(2))
        await ask(cache, batcher, rows(0))
        await ask(cache, batcher, rows(3))  # there is room for three: 1 has to go
        return [bool((await ask(cache, batcher, rows(k))).cached) for k in (0, 2, 3)], 1 in model.seen

    assert asyncio.run(story())[0] == [True, True, True]
    assert (slot.total(Counter.CACHE_EVICTIONS), slot.total(Counter.CACHE_HITS)) == (1, 4)
    assert slot.total(Counter.CACHE_MISSES) == 4


@pytest.mark.parametrize("columns", [None, 3])
def test_bytes_are_counted_honestly(columns: int | None) -> None:
    def predict(m: np.ndarray) -> np.ndarray:
        return m[:, 0] if columns is None else np.repeat(m[:, :1], columns, axis=1)

    async def story():
        cache = AnswerCache(100_000_000)
        batcher = Batcher(predict=predict, columns=columns)
        wide = np.random.default_rng(1).normal(size=(8_000, 30))
        cache._versions[CHAMPION] = cache._meet(CHAMPION)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for k in range(len(wide)):
            cache._versions[CHAMPION].worth = Worth()  # never rests
            await ask(cache, batcher, wide[k : k + 1])
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return taken, cache.bytes

    taken, counted = asyncio.run(story())
    assert taken <= counted <= 1.5 * taken


def test_a_fault_of_the_cache_is_a_miss() -> None:
    model = Model()

    async def story():
        cache, batcher = AnswerCache(10_000), Batcher(predict=model.predict)
        cache._versions = None  # type: ignore[assignment]  # a bug of ours
        return (await ask(cache, batcher, rows(1))).values

    assert asyncio.run(story()) == [2.0]


def test_it_rests_when_hits_save_less_than_lookups_cost_and_tries_again() -> None:
    worth = Worth()
    for _ in range(512):
        assert worth.admits(1)
        worth.note(1, 0, saved=0.001)
    assert worth.asleep
    for _ in range(4_096):
        assert not worth.admits(1)
    assert worth.admits(1)


def test_it_stays_awake_as_long_as_it_pays() -> None:
    worth = Worth()
    for k in range(5_000):
        assert worth.admits(1)
        worth.note(1, k % 10 == 0, saved=0.001)  # one hit in ten saves 100 µs a lookup


def test_a_model_of_a_microsecond_is_not_worth_a_lookup_even_if_all_hit() -> None:
    worth = Worth()
    for _ in range(512):
        worth.note(1, 1, saved=1e-6)
    assert worth.asleep


def test_rows_pass_by_a_resting_cache_and_are_counted() -> None:
    model, slot = Model(), SharedMap.in_memory().slot(0)

    async def story():
        cache, batcher = AnswerCache(10_000, slot=slot), Batcher(predict=model.predict)
        await ask(cache, batcher, rows(1))
        worth = cache._versions[CHAMPION].worth
        worth.note(512, 0, saved=0.0)
        found = await ask(cache, batcher, rows(1))
        return found.values, found.cached

    assert asyncio.run(story()) == ([2.0], None)
    assert slot.total(Counter.CACHE_BYPASSES) == 1


def test_an_experiment_is_what_splits_units_at_random() -> None:
    ref = VersionRef("v1", "p", "d", True)
    plain = ModelRoute("eta", "s", ref)
    assert not randomised(plain)
    assert not randomised(ModelRoute("eta", "s", ref, ref, shadow=1.0))  # callers only see the champion
    assert randomised(ModelRoute("eta", "s", ref, ref, candidate_cut=1))
    assert randomised(ModelRoute("eta", "s", ref, variants=(Variant("v2", ref, 0, 10),)))
