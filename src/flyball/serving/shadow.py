"""Rows sent to the other arm after the answer: bounded, last in line, dropped and counted under pressure.

The surprise: while the other arm's host is away, rows are dropped too. What was never sent says nothing about the
model; and of the rows that were with the host when it died only one is logged, because one death is one failure.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from flyball.records.types import Record, Shadow
from flyball.serving.log import LogWriter
from flyball.serving.plan import Arm, ModelPlan
from flyball.serving.slots import Slot

__all__ = ["ShadowJob", "Shadows"]


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
        """Wait until everything queued is done."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        while self._queue:
            await asyncio.sleep(0)  # requests that came meanwhile go first
            jobs = self._take()
            try:
                records = await self._ask(jobs)
                self._slot.count_shadow(sent=len(records), dropped=len(jobs) - len(records))
                if records and self._log is not None:
                    self._log.note(records)
            finally:
                for job in jobs:
                    job.plan.inflight -= 1

    def _take(self) -> list[ShadowJob]:
        queue = self._queue
        jobs = [queue.popleft()]
        while queue and len(jobs) < self._batch and queue[0].arm is jobs[0].arm:
            jobs.append(queue.popleft())
        return jobs

    async def _ask(self, jobs: list[ShadowJob]) -> list[Record]:
        plan, arm = jobs[0].plan, jobs[0].arm
        try:
            matrix = np.concatenate([await _matrix(job, remote=self._remote) for job in jobs])
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:500]
            return [_record(job, None, text, 0) for job in jobs]
        item = await arm.loaded.batcher.submit(matrix, time.monotonic() + plan.route.deadline)
        if item.absent:
            return []
        if item.gone:
            jobs = jobs[:1]
        errors = item.errors or {}
        total = item.wait + item.run
        return [_record(job, item.values[k], errors.get(k), total) for k, job in enumerate(jobs)]


async def _matrix(job: ShadowJob, *, remote: bool) -> np.ndarray:
    if job.matrix is not None:
        return job.matrix
    reader: Any = job.arm.reader
    matrix: np.ndarray
    if remote:
        matrix, _ = await reader.aread(job.inputs, 1, job.at)
    else:
        matrix, _ = reader.read(job.inputs, 1, job.at)
    return matrix if job.arm.pick is None else matrix[:, job.arm.pick]


def _record(job: ShadowJob, value: float | list[float] | None, error: str | None, total: int) -> Shadow:
    plan = job.plan
    return Shadow(job.id, plan.route.model, job.arm.version, plan.table, job.unit, job.at, value, error, total)
