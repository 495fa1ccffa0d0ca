"""Shadow rows: what is compared, what is dropped, and that callers come first."""

import asyncio
import statistics
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.serving.flow.comparing import Scale, agree, score
from flyball.serving.flow.shadow import ShadowJob, Shadows
from flyball.serving.models.batcher import Batcher
from flyball.serving.models.outputs import ANY
from flyball.serving.shared.slots import Counter, SharedMap

FLOATS = st.floats(-1e6, 1e6)


class Log:
    def __init__(self):
        self.records = []

    def note(self, records):
        self.records += records


def plan_of(champion=None):
    batcher = champion or SimpleNamespace(waiting=0)
    return SimpleNamespace(
        route=SimpleNamespace(model="eta", deadline=1.0), table=3, inflight=0,
        champion=SimpleNamespace(loaded=SimpleNamespace(batcher=batcher)),
    )  # fmt: skip


def arm_of(predict, *, index=1, **settings):
    batcher = Batcher(predict=predict, columns=ANY, **settings)
    return SimpleNamespace(index=index, version="v2", loaded=SimpleNamespace(batcher=batcher), reader=None, pick=None)


def job(plan, arm, value, served, k=0):
    return ShadowJob(plan, arm, f"p{k}", "u", 1, {}, np.full((1, 1), value), served)


def play(jobs, *, wait=True, **settings):
    """Offer jobs to a queue and return (records, slot) once it is idle."""
    slot, log = SharedMap.in_memory().slot(0), Log()

    async def main():
        shadows = Shadows(slot, log, **settings)
        shadows.offer(jobs)
        if wait:
            while shadows.waiting:
                await asyncio.sleep(0.001)
        await shadows.idle()

    asyncio.run(main())
    return log.records, slot


def test_agreement_shift_and_latency_are_recorded():
    plan, arm = plan_of(), arm_of(lambda m: m[:, 0])
    jobs = [job(plan, arm, 10.0 + k + (5.0 if k == 49 else 0.0), 10.0 + k, k) for k in range(50)]
    records, slot = play(jobs)
    assert [r.agreed for r in records] == [True] * 49 + [False]
    assert [r.shift for r in records] == [0.0] * 49 + [5.0]
    assert (slot.total(Counter.SHADOW_AGREED), slot.total(Counter.SHADOW_DIFFERED)) == (49, 1)
    assert slot.total(Counter.SHADOW_MICROS) == sum(r.total for r in records)
    assert plan.inflight == 0


def test_a_pair_shifts_from_champion_to_candidate_too():
    plan, champion = plan_of(), arm_of(lambda m: m[:, 0], index=0)
    (record,), _ = play([job(plan, champion, 2.0, 5.0)])
    assert record.shift == 3.0


def test_classes_agree_when_the_same_is_most_probable():
    plan, arm = plan_of(), arm_of(lambda m: np.column_stack([1 - m[:, 0], m[:, 0]]))
    records, _ = play([job(plan, arm, 0.9, [0.4, 0.6], 0), job(plan, arm, 0.4, [0.4, 0.6], 1)])
    assert [(r.agreed, round(r.shift, 6)) for r in records] == [(True, 0.3), (False, -0.2)]


def test_an_answer_of_another_kind_differs_and_a_failure_is_compared_with_nothing():
    plan = plan_of()

    def predict(matrix):
        if (matrix < 0).any():
            raise ValueError("negative")
        return matrix[:, 0]

    arm = arm_of(predict)
    records, slot = play([job(plan, arm, 1.0, [0.5, 0.5], 0), job(plan, arm, -1.0, 1.0, 1)])
    assert [(r.agreed, r.shift) for r in records] == [(False, None), (None, None)]
    assert "negative" in records[1].error
    assert slot.total(Counter.SHADOW_ERRORS) == 1


def test_rows_are_dropped_and_counted_while_requests_queue_for_the_champion():
    plan, arm = plan_of(SimpleNamespace(waiting=1000)), arm_of(lambda m: m[:, 0])
    records, slot = play([job(plan, arm, 1.0, 1.0, k) for k in range(200)])
    assert len(records) == slot.shadow_sent == 8
    assert slot.shadow_dropped == 192
    assert plan.inflight == 0


def test_rows_are_dropped_and_counted_while_the_loop_runs_late():
    plan, arm = plan_of(), arm_of(lambda m: m[:, 0])
    slot = SharedMap.in_memory().slot(0)

    async def main():
        shadows = Shadows(slot, None)
        shadows.offer([job(plan, arm, 1.0, 1.0, k) for k in range(200)])
        await asyncio.sleep(0)
        begin = time.monotonic()
        while time.monotonic() - begin < 0.1:  # a loop that is held up
            pass
        while shadows.waiting:
            await asyncio.sleep(0.001)
        await shadows.idle()

    asyncio.run(main())
    assert slot.shadow_dropped == 192


def test_what_shadow_rows_cost_the_loop_is_paid_back_in_pauses(monkeypatch):
    pauses, real = [], asyncio.sleep

    async def sleep(seconds):
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr("flyball.serving.flow.shadow._LATE", 10.0)
    monkeypatch.setattr("flyball.serving.flow.shadow.asyncio.sleep", sleep)

    def slow(matrix):
        time.sleep(0.004)
        return matrix[:, 0]

    plan, arm = plan_of(), arm_of(slow, in_loop=10.0)
    play([job(plan, arm, 1.0, 1.0, k) for k in range(128)], batch=64)
    assert max(pauses) >= 0.004 / 0.05


def test_nothing_is_held_back_at_the_end():
    plan, arm = plan_of(), arm_of(lambda m: m[:, 0])
    records, slot = play([job(plan, arm, 1.0, 1.0, k) for k in range(300)], wait=False)
    assert (len(records), slot.shadow_dropped) == (300, 0)


@given(st.lists(FLOATS, min_size=30, max_size=200))
def test_a_scale_is_the_standard_deviation(values):
    scale = Scale()
    for value in values:
        scale.add(value)
    wanted = statistics.stdev(values)
    if wanted > 1e-3:
        assert scale.size == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@given(FLOATS, FLOATS, st.floats(0.0, 1e6))
def test_agreement_of_numbers_is_symmetric(a, b, scale):
    assert agree(a, b, scale) == agree(b, a, scale)
    assert agree(a, a, scale)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_an_answer_agrees_with_itself_whatever_its_form(values):
    assert agree(values, values, 1.0)
    assert score(values, values) is not None
