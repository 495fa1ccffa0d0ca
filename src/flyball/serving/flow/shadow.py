"""Rows sent to the other arm after the answer: bounded, last in line, dropped and counted under pressure.

Rows wait a moment, so that many share one question to the other arm; the time they cost this worker's loop is a small
fixed share of it; and while requests queue or the loop runs late, nearly all rows are let go instead of sent. The
surprise: while the other arm's host is away, rows are dropped too. What was never sent says nothing about the model;
and of the rows that were with the host when it died only one is logged, because one death is one failure.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from flyball.records.types import Record, Shadow
from flyball.serving.flow.comparing import Scale, agree, score
from flyball.serving.log.writer import LogWriter
from flyball.serving.routing.plan import Arm, ModelPlan, features_of
from flyball.serving.shared.slots import Counter, Slot

__all__ = ["ShadowJob", "Shadows"]

_GATHER = 0.01  # seconds that rows wait for company, unless a batch is full
_PRESSED = 0.02  # seconds between two batches under pressure
_KEPT = 8  # rows that are sent all the same
_SHARE = 0.05  # of the loop's time that shadow rows may take
_LATE = 0.02  # seconds that the loop may be late before rows are dropped
_QUEUED = 64  # requests waiting for the champion from which on rows are dropped
_ns = time.perf_counter_ns


@dataclass(slots=True)
class ShadowJob:
    """One answered row for the other arm; `matrix` is None when that arm reads its own features."""

    plan: ModelPlan
    arm: Arm
    id: str
    unit: str
    at: int
    inputs: dict[str, list[Any]]
    matrix: np.ndarray | None
    served: float | list[float] | None = None  # what the caller got


class Shadows:
    """A queue of at most `limit` rows, worked off in batches of one version."""

    def __init__(
        self, slot: Slot, log: LogWriter | None, *, limit: int = 512, batch: int = 64, remote: bool = False
    ) -> None:
        """Count in `slot`, write to `log`; with `remote`, features are awaited."""
        self._slot = slot
        self._log = log
        self._remote = remote
        self._limit = limit
        self._batch = batch
        self._queue: deque[ShadowJob] = deque()
        self._task: asyncio.Task[None] | None = None
        self._scales: dict[str, Scale] = {}
        self._spent = 0  # ns of the loop's time that the batch at hand took
        self._hurry = False

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return len(self._queue)

    def offer(self, jobs: list[ShadowJob]) -> None:
        """Queue rows; those that do not fit are dropped and counted."""
        room = max(self._limit - len(self._queue), 0)
        taken = jobs[:room]
        if len(taken) < len(jobs):
            self._slot.count_shadow(dropped=len(jobs) - len(taken))
        for job in taken:
            job.plan.inflight += 1
        self._queue += taken
        if self._queue and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def idle(self) -> None:
        """Wait until everything queued is done; nothing is held back any more."""
        self._hurry = True
        try:
            while self._task is not None and not self._task.done():
                await asyncio.wait([self._task])
        finally:
            self._hurry = False

    async def _work(self) -> None:
        pause = _GATHER
        while self._queue:
            begin = time.monotonic()
            await asyncio.sleep(0.0 if self._hurry else pause)  # requests that came meanwhile went first
            late = time.monotonic() - begin - pause
            pressed = not self._hurry and self._pressed(late)
            if pressed:
                self._let_go()
            self._spent = 0
            jobs = self._take()
            try:
                records = await self._ask(jobs)
                begun = _ns()
                self._slot.count_shadow(sent=len(records), dropped=len(jobs) - len(records))
                if records and self._log is not None:
                    self._log.note(records)
                self._spent += _ns() - begun
            finally:
                for job in jobs:
                    job.plan.inflight -= 1
            least = _PRESSED if pressed else _GATHER if len(self._queue) < self._batch else 0.0
            pause = max(least, self._spent / 1e9 / _SHARE)

    def _pressed(self, late: float) -> bool:
        return late > _LATE or self._queue[0].plan.champion.loaded.batcher.waiting > _QUEUED

    def _let_go(self) -> None:
        """Drop all but a few of what waits: callers come first, yet a rollout under load must learn something."""
        dropped = max(len(self._queue) - _KEPT, 0)
        for _ in range(dropped):
            self._queue.popleft().plan.inflight -= 1
        self._slot.count_shadow(dropped=dropped)

    def _take(self) -> list[ShadowJob]:
        queue = self._queue
        jobs = [queue.popleft()]
        while queue and len(jobs) < self._batch and queue[0].arm is jobs[0].arm:
            jobs.append(queue.popleft())
        return jobs

    async def _ask(self, jobs: list[ShadowJob]) -> list[Record]:
        plan, arm = jobs[0].plan, jobs[0].arm
        begin = _ns()
        try:
            matrix = np.concatenate([await _matrix(job, remote=self._remote) for job in jobs])
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:500]
            return [_record(job, None, text, 0) for job in jobs]
        batcher = arm.loaded.batcher
        asked = batcher.submit(matrix, time.monotonic() + plan.route.deadline)
        if not self._remote:
            self._spent += _ns() - begin
        item = await asked
        if item.absent:
            return []
        if item.gone:
            jobs = jobs[:1]
        begin = _ns()
        if batcher.mode == "loop":
            self._spent += item.run * 1000
        errors = item.errors or {}
        total = item.wait + item.run
        records: list[Record] = [
            self._compared(job, item.values[k], errors.get(k), total) for k, job in enumerate(jobs)
        ]
        self._spent += _ns() - begin
        return records

    def _compared(self, job: ShadowJob, value: float | list[float] | None, error: str | None, total: int) -> Shadow:
        """Return the row's record, with agreement and shift (candidate less champion) where both arms answered."""
        slot, served = self._slot, job.served
        slot.add(Counter.SHADOW_MICROS, total)
        if error is not None or value is None or served is None:
            slot.add(Counter.SHADOW_ERRORS, int(error is not None))
            return _record(job, value, error, total)
        mine, theirs = score(value, served), score(served, served)
        if mine is None or theirs is None:
            slot.add(Counter.SHADOW_DIFFERED)
            return _record(job, value, error, total, agreed=False)
        pair = job.arm.index == 0  # the candidate answered the caller, the champion is asked here
        scale = 1.0 if isinstance(served, list) else self._scale(job.plan.route.model, mine if pair else theirs)
        agreed = agree(value, served, scale)
        slot.add(Counter.SHADOW_AGREED if agreed else Counter.SHADOW_DIFFERED)
        return _record(job, value, error, total, agreed=agreed, shift=theirs - mine if pair else mine - theirs)

    def _scale(self, model: str, champion: float) -> float:
        scale = self._scales.get(model)
        if scale is None:
            scale = self._scales[model] = Scale()
        scale.add(champion)
        return scale.size


async def _matrix(job: ShadowJob, *, remote: bool) -> np.ndarray:
    if job.matrix is not None:
        return job.matrix
    return await features_of(job.arm, job.inputs, 1, job.at, remote=remote)


def _record(
    job: ShadowJob, value: float | list[float] | None, error: str | None, total: int, *,
    agreed: bool | None = None, shift: float | None = None,
) -> Shadow:  # fmt: skip
    plan = job.plan
    return Shadow(
        job.id, plan.route.model, job.arm.version, plan.table, job.unit, job.at, value, error, total, agreed, shift
    )
