"""One version's rows, many requests at a time, without a timer.

While a batch runs, requests queue; the next batch takes what is there, but never so many rows that the earliest
deadline among them is predicted to be missed. A cheap model runs in the event loop, a request that is alone at once and
without a queue; an expensive one runs on the worker's shared lanes, a remote one is awaited. A failed batch is split
until only the offending rows fail, so a bad row never fails its neighbours.

There is one batcher per loaded version: its matrix has one width and one type, and a version takes no parameters and
always answers with all its outputs, so rows that meet here may always be answered together.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal

import numpy as np

from flyball.errors import DeadlineExceeded, Unavailable
from flyball.serving.models.cost import CostModel
from flyball.serving.models.lanes import shared_lanes
from flyball.serving.models.outputs import Matrix, Values, check_output, lone
from flyball.serving.models.splitting import attempt, cause_of, split_remote
from flyball.serving.shared.slots import Counter, Slot

__all__ = ["Batcher", "Item"]

log = logging.getLogger("flyball.serving")
_REMEMBERED = 512  # answers the p99 is taken over
_FIRST_P99, _NEXT_P99 = 64, 256  # answers before the first and between later looks at the p99
_TINY = 20e-6  # seconds: below it a row costs less than what waiting for neighbours saves
_CROWDED = 8  # batches of one request after a larger one before a request is taken at once again
_CARE = 1.25  # by how much longer than predicted a batch may take without missing a deadline
_SMALL, _WORTH = 8, 20.0  # rows of a batch: eight, and so many that its fixed cost is a twentieth of the whole
_LEARN_EVERY = 8  # rows taken at once are learned from now and then
_DRIFTING, _MOST_DRIFT = 0.1, 4.0  # weight of the newest wait; no wait counts as more than so many times its prediction
_NEVER = 1 << 60
_ns = time.perf_counter_ns


class Item:
    """Rows waiting for one version; `future` becomes the item itself once `values` and `errors` are set.

    `values[k]` is None where `errors` has k. `wait` and `run` are µs in the queue and in the model. `cached` are the
    positions for which the model was not asked, None when no cache was.
    """

    __slots__ = ("absent", "cached", "deadline", "errors", "expected", "future", "gone", "matrix", "queued", "run",
                 "timer", "values", "wait")  # fmt: skip

    def __init__(self, matrix: Matrix, deadline: float, future: asyncio.Future[Item]) -> None:
        """Wait with `matrix` until `deadline` (monotonic seconds)."""
        self.matrix = matrix
        self.deadline = deadline
        self.future = future
        self.queued = _ns()
        self.expected = 0.0  # seconds that the queue was predicted to take, 0 where there was none
        self.values: Values = []
        self.errors: dict[int, str] | None = None
        self.cached: frozenset[int] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.gone = False  # the outside system behind the model is not there
        self.absent = False  # and these rows say nothing about the model: not sent, or another item has the blame
        self.wait = 0
        self.run = 0

    @classmethod
    def answered(cls, matrix: Matrix, values: Values, *, run: int = 0) -> Item:
        """Return an item that nobody has to wait for."""
        item = cls.__new__(cls)
        item.matrix, item.values, item.run = matrix, values, run
        item.errors = item.timer = item.cached = None
        item.gone = item.absent = False
        item.deadline = item.queued = item.wait = 0
        item.expected = 0.0
        return item


class Batcher:
    """Queue rows for one version and run them in batches.

    Exactly one of `predict` and `remote` is given. `cost` is the learned time of one row in seconds; a batch that is
    predicted to take less than `in_loop` seconds runs in the event loop. `broken` says that the last turn failed by a
    fault of the batcher itself, `busy` that rows wait or run; `slot`, when set, counts batches, splits and restarts.
    """

    def __init__(
        self,
        *,
        predict: Callable[[Matrix], Matrix] | None = None,
        remote: Callable[[Matrix, float], Awaitable[Matrix]] | None = None,
        max_rows: int = 512,
        in_loop: float = 0.001,
        cost: float = 0.0,
        columns: int | None = None,
    ) -> None:
        """Make a batcher whose answers have `columns` columns (None: one number per row; or `ANY`, `SEVERAL`)."""
        self._predict = predict
        self._remote = remote
        self._max_rows = max_rows
        self._in_loop = in_loop
        self.costs = CostModel(cost)
        self.columns = columns
        self.slot: Slot | None = None
        self.broken = False
        self.used = 0  # perf_counter_ns of the newest batch: what is let go for memory was not asked for longest
        self._queue: deque[Item] = deque()
        self._rows = 0  # in the queue
        self.busy = False
        self._drift = 1.0  # by how much longer the queue took lately than the model's cost says, at least 1
        self._running = 0  # rows of the batch under way
        self._since = 0.0  # monotonic start of it
        self._tasks: set[asyncio.Task[None]] = set()
        self._crowd = 0
        self._ran = False  # a request was taken at once in this turn of the loop
        self._until_learn = 1
        self._least = _NEVER  # ns of the quickest of the lone rows since: others shared the processor with somebody
        self._durations: deque[int] = deque(maxlen=_REMEMBERED)
        self._p99 = max(int(cost * 3e6), 1000)  # µs; at first three times the cost, 1 ms at least
        self._until_p99 = _FIRST_P99

    @property
    def cost(self) -> float:
        """The learned seconds of one row."""
        return self.costs.at(1)

    @property
    def mode(self) -> Literal["loop", "thread", "remote"]:
        """Where the next row runs."""
        if self._remote is not None:
            return "remote"
        return "loop" if self.costs.at(1) < self._in_loop else "thread"

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._queue)

    @property
    def p99(self) -> float:
        """99th percentile of wait and run of the newest answers, in seconds."""
        return self._p99 / 1e6

    def predicted_wait(self, rows: int) -> float:
        """Return in how many seconds `rows` more rows are predicted to be answered.

        A batch under way that took longer than predicted is taken to need as long again as it has taken. On a busy
        machine there is more between two batches than the model's time: what waits really took corrects the rest.
        """
        ahead = self._rows + rows
        batches = -(-ahead // self._most_rows())
        wait = self.costs.a * batches + self.costs.b * ahead
        if self._running:
            elapsed = time.monotonic() - self._since
            predicted = self.costs.at(self._running)
            wait += predicted - elapsed if elapsed <= predicted else elapsed
        return wait * self._drift

    def now(self, matrix: Matrix) -> Item | None:
        """Answer at once if that is cheaper than to wait for neighbours; None when the rows have to be submitted.

        A model of microseconds always answers at once while its queue is empty, others when no neighbour was seen
        lately, neither in this turn of the loop nor in the batches before.
        """
        predict, rows = self._predict, len(matrix)
        if self.busy or predict is None or (cost := self.costs.a + self.costs.b * rows) >= self._in_loop:
            return None
        if cost > _TINY:
            if self._crowd or self._ran or rows > self._max_rows:
                return None
            self._ran = True
            asyncio.get_running_loop().call_soon(self._turned)
        self.used = start = _ns()
        try:
            answer = predict(matrix)
            values = lone(answer, self.columns) if rows == 1 else None
            if values is None:
                values = check_output(answer, rows, self.columns).tolist()
        except Exception as error:
            if rows > 1:
                return None  # the queue splits it
            item = Item.answered(matrix, [None], run=(_ns() - start) // 1000)
            item.errors = {0: cause_of(error)}
            return item
        spent = _ns() - start
        if rows == 1 and spent < self._least:
            self._least = spent
        self._until_learn -= 1
        if self._until_learn <= 0:
            self._until_learn = _LEARN_EVERY
            self.costs.learn(rows, (self._least if rows == 1 else spent) / 1e9)
            self._least = _NEVER
        item = Item.answered(matrix, values, run=spent // 1000)
        self._note(item.run, 1, rows)
        return item

    def submit(self, matrix: Matrix, deadline: float) -> asyncio.Future[Item]:
        """Queue rows; the future becomes an Item whose `values` and `errors` are set. It never raises.

        Cancelling the future, or the task that awaits it, takes the rows out of the queue.
        """
        loop = asyncio.get_running_loop()
        item = Item(matrix, deadline, loop.create_future())
        if self.busy:
            item.expected = self.predicted_wait(len(matrix)) / self._drift
        self._queue.append(item)
        self._rows += len(matrix)
        if self._remote is not None or self.busy or self.costs.at(self._rows) >= self._in_loop:
            self._watch(loop, item)
        if not self.busy:
            self.busy = True
            loop.call_soon(self._turn)
        return item.future

    def close(self) -> None:
        """Give up what runs; what still waits fails."""
        while self._queue:
            self._fail(self._queue.popleft(), "the version was unloaded")
        self._rows = 0
        for task in self._tasks:
            task.cancel()

    def _watch(self, loop: asyncio.AbstractEventLoop, item: Item) -> None:
        item.timer = loop.call_later(max(item.deadline - time.monotonic(), 0.0), self._expire, item)

    def _turned(self) -> None:
        self._ran = False

    # -- turns --------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Take the next batch and run it. A fault in here fails that batch and nothing else; the queue goes on."""
        batch: list[Item] = []
        try:
            batch = self._take()
            if not batch:
                self.busy = False
                return
            rows = sum(len(item.matrix) for item in batch)
            if self._remote is None and self.costs.at(rows) < self._in_loop and self._run_here(batch, rows):
                self._next()
            else:
                self._leave(batch, rows)
        except Exception as error:
            self._restart(batch, error)
        else:
            self.broken = False

    def _next(self) -> None:
        self.busy = bool(self._queue)
        if self.busy:
            asyncio.get_running_loop().call_soon(self._turn)

    def _restart(self, batch: list[Item], error: Exception) -> None:
        log.error("a turn of the batcher failed; it goes on", extra={"cause": cause_of(error)}, exc_info=error)
        self.broken = True
        if self.slot is not None:
            self.slot.add(Counter.LOOP_RESTARTS)
        self._running = 0
        for item in batch:
            self._fail(item, f"the batch was lost: {cause_of(error)}")
        self._next()

    def _most_rows(self) -> int:
        """Return the largest batch that is worth it: beyond, rows wait longer and hardly more are answered."""
        a, b = self.costs.a, self.costs.b
        worth = _SMALL + int(_WORTH * a / b) if b > a * _WORTH / self._max_rows else self._max_rows
        return min(worth, self._max_rows)

    def _take(self) -> list[Item]:
        """Return the items of the next batch: live ones, as many rows as all their deadlines allow."""
        queue, rows = self._queue, 0
        batch: list[Item] = []
        now, most = time.monotonic(), self._most_rows()
        first = float("inf")  # the earliest deadline of the batch
        while queue:
            item = queue[0]
            n = len(item.matrix)
            if not item.future.done() and item.deadline > now:
                first = min(first, item.deadline)
                if batch and (rows + n > most or now + _CARE * self.costs.at(rows + n) > first):
                    break
                batch.append(item)
                rows += n
            queue.popleft()
            self._rows -= n
            if item.deadline <= now:
                self._expire(item)
        if len(batch) > 1:
            self._crowd = _CROWDED
        elif self._crowd:
            self._crowd -= 1
        return batch

    def _run_here(self, batch: list[Item], rows: int) -> bool:
        """Run a batch in the loop; False when it failed and has to be split, which takes longer than a loop may."""
        assert self._predict is not None
        self.used = start = _ns()
        matrix = _joined(batch)
        try:
            values: Values = check_output(self._predict(matrix), rows, self.columns).tolist()
        except Exception as error:
            if rows > 1:
                return False
            self._deliver(batch, [None], {0: cause_of(error)}, start)
            return True
        end = self._deliver(batch, values, None, start)
        self.costs.learn(rows, (end - start) / 1e9)
        return True

    def _leave(self, batch: list[Item], rows: int) -> None:
        """Have a batch run outside of the loop."""
        loop = asyncio.get_running_loop()
        for item in batch:
            if item.timer is None:
                self._watch(loop, item)
        self._running, self._since = rows, time.monotonic()
        task = loop.create_task(self._run_away(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_away(self, batch: list[Item]) -> None:
        try:
            await self._answered_away(batch)
        except asyncio.CancelledError:
            for item in batch:
                self._fail(item, "the version was unloaded")
            raise
        except Exception as error:
            self._restart(batch, error)
        else:
            self._running = 0
            self._turn()

    async def _answered_away(self, batch: list[Item]) -> None:
        self.used = start = _ns()
        gone = absent = False
        matrix = _joined(batch)
        try:
            values, errors = await self._call(matrix, max(i.deadline for i in batch))
        except Exception as error:  # only whole-batch causes come here: gone, late
            text, gone = cause_of(error), isinstance(error, Unavailable)
            absent = gone and not getattr(error, "sent", True)
            values, errors = [None] * len(matrix), dict.fromkeys(range(len(matrix)), text)
        end = self._deliver(batch, values, errors, start, gone=gone, absent=absent)
        if errors is None:
            self.costs.learn(len(matrix), (end - start) / 1e9)
        elif len(matrix) > 1 and self.slot is not None and not gone:
            self.slot.add(Counter.BATCH_SPLITS)

    async def _call(self, matrix: Matrix, deadline: float) -> tuple[Values, dict[int, str] | None]:
        if self._remote is not None:
            return await split_remote(self._remote, matrix, self.columns, deadline)
        assert self._predict is not None
        return await shared_lanes().run(attempt, self._predict, matrix, self.columns, deadline)

    def _deliver(
        self,
        batch: list[Item],
        values: Values,
        errors: dict[int, str] | None,
        start: int,
        *,
        gone: bool = False,
        absent: bool = False,
    ) -> int:
        end, at = _ns(), 0
        for item in batch:
            n = len(item.matrix)
            future = item.future
            if not future.done():
                item.values = values[at : at + n]
                item.wait, item.run = (start - item.queued) // 1000, (end - start) // 1000
                if errors:
                    mine = {k - at: text for k, text in errors.items() if at <= k < at + n}
                    item.errors, item.gone = mine or None, gone
                    item.absent = absent or (gone and item is not batch[0])  # one death is one failure
                if item.timer is not None:
                    item.timer.cancel()
                self._durations.append(item.wait + item.run)
                future.set_result(item)
            at += n
        self._waited(batch[0], end)
        self._note(None, len(batch), at)
        return end

    def _note(self, duration: int | None, items: int, rows: int) -> None:
        """Count a batch, and look at the p99 now and then."""
        if duration is not None:
            self._durations.append(duration)
        if self.slot is not None:
            self.slot.add(Counter.BATCHES)
            self.slot.add(Counter.BATCH_ROWS, rows)
        self._until_p99 -= items
        if self._until_p99 <= 0:
            self._until_p99 = _NEXT_P99
            ranked = sorted(self._durations)
            self._p99 = ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))] if ranked else self._p99

    def _waited(self, item: Item, end: int) -> None:
        """Learn from what an item's wait came to."""
        if item.expected > 0.0:
            took = min((end - item.queued) / 1e9 / item.expected, _MOST_DRIFT)
            self._drift = max(self._drift + _DRIFTING * (took - self._drift), 1.0)

    def _expire(self, item: Item) -> None:
        if not item.future.done():
            self._waited(item, _ns())
        self._fail(item, "no answer before the deadline", late=True)

    def _fail(self, item: Item, text: str, *, late: bool = False) -> None:
        if item.future.done():
            return
        cause = f"{DeadlineExceeded.__name__}: {text}" if late else text
        item.values = [None] * len(item.matrix)
        item.errors = dict.fromkeys(range(len(item.matrix)), cause)
        item.wait = (_ns() - item.queued) // 1000
        if item.timer is not None:
            item.timer.cancel()
        item.future.set_result(item)


def _joined(batch: list[Item]) -> Matrix:
    return batch[0].matrix if len(batch) == 1 else np.concatenate([item.matrix for item in batch])
