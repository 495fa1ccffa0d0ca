"""One version's rows, many requests at a time, without a timer.

While a batch runs, requests queue; the next batch takes what is there. A cheap model runs in the event loop at the end
of the turn in which its requests came; an expensive one runs on the version's own thread, a remote one is awaited.
A failed batch is split until only the offending rows fail, so a bad row never fails its neighbours.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np

from flyball.errors import DeadlineExceeded, FlyballError, Unavailable

__all__ = ["ANY", "SEVERAL", "Batcher", "Item", "check_output", "numbers"]

Matrix = np.ndarray
ANY, SEVERAL = -1, -2  # columns of an answer: whatever the model says; as many as it likes, but not one number
_SPLITS = 64  # a failing batch is cut at most this often; what is left fails with the last cause
_LEARNING = 0.05  # weight of the newest batch in the learned cost
_REMEMBERED = 512  # answers the p99 is taken over
_FIRST_P99, _NEXT_P99 = 64, 256  # answers before the first and between later looks at the p99


class Item:
    """Rows waiting for one version; `future` becomes the item itself once `values` and `errors` are set.

    `values[k]` is None where `errors` has k. `wait` and `run` are µs in the queue and in the model.
    """

    __slots__ = ("absent", "deadline", "errors", "future", "gone", "matrix", "queued", "run", "timer", "values", "wait")

    def __init__(self, matrix: Matrix, deadline: float, future: asyncio.Future[Item]) -> None:
        """Wait with `matrix` until `deadline` (monotonic seconds)."""
        self.matrix = matrix
        self.deadline = deadline
        self.future = future
        self.queued = time.perf_counter_ns()
        self.values: list[float | list[float] | None] = []
        self.errors: dict[int, str] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.gone = False  # the outside system behind the model is not there
        self.absent = False  # and these rows say nothing about the model: not sent, or another item has the blame
        self.wait = 0
        self.run = 0


class Batcher:
    """Queue rows for one version and run them in batches.

    Exactly one of `predict` and `remote` is given. `cost` is the learned time of a batch in seconds; below
    `in_loop` seconds a batch runs in the event loop.
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
        self.cost = cost
        self.columns = columns
        self._queue: deque[Item] = deque()
        self._busy = False
        self._thread: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._durations: deque[int] = deque(maxlen=_REMEMBERED)
        self._p99 = max(int(cost * 3e6), 1000)  # µs; at first three times the cost, 1 ms at least
        self._until_p99 = _FIRST_P99

    @property
    def mode(self) -> Literal["loop", "thread", "remote"]:
        """Where the next batch runs."""
        if self._remote is not None:
            return "remote"
        return "loop" if self.cost < self._in_loop else "thread"

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._queue)

    @property
    def p99(self) -> float:
        """99th percentile of wait and run of the newest answers, in seconds."""
        return self._p99 / 1e6

    def submit(self, matrix: Matrix, deadline: float) -> asyncio.Future[Item]:
        """Queue rows; the future becomes an Item whose `values` and `errors` are set. It never raises."""
        loop = asyncio.get_running_loop()
        item = Item(matrix, deadline, loop.create_future())
        self._queue.append(item)
        if self._remote is not None or self.cost >= self._in_loop:
            late = max(deadline - time.monotonic(), 0.0)
            item.timer = loop.call_later(late, self._expire, item)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._turn)
        return item.future

    def close(self) -> None:
        """Stop the thread; what still waits fails."""
        while self._queue:
            self._fail(self._queue.popleft(), "the version was unloaded")
        for task in self._tasks:
            task.cancel()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _turn(self) -> None:
        batch = self._take()
        if not batch:
            self._busy = False
            return
        if self.mode == "loop":
            self._run_here(batch)
            self._busy = bool(self._queue)
            if self._busy:
                asyncio.get_running_loop().call_soon(self._turn)
            return
        task = asyncio.get_running_loop().create_task(self._run_away(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[Item]:
        queue, rows = self._queue, 0
        batch: list[Item] = []
        now = time.monotonic()
        while queue and (not batch or rows + len(queue[0].matrix) <= self._max_rows):
            item = queue.popleft()
            if item.future.done():
                continue
            if item.deadline <= now:
                self._expire(item)
                continue
            batch.append(item)
            rows += len(item.matrix)
        return batch

    def _run_here(self, batch: list[Item]) -> None:
        assert self._predict is not None
        start = time.perf_counter_ns()
        matrix = batch[0].matrix if len(batch) == 1 else np.concatenate([i.matrix for i in batch])
        try:
            values = check_output(self._predict(matrix), len(matrix), self.columns).tolist()
        except Exception as error:
            values, errors = _split(self._predict, matrix, self.columns, error)
            self._deliver(batch, values, errors, start)
            return
        end = self._deliver(batch, values, None, start)
        self._learn((end - start) / 1e9)

    async def _run_away(self, batch: list[Item]) -> None:
        start = time.perf_counter_ns()
        gone = absent = False
        matrix = batch[0].matrix if len(batch) == 1 else np.concatenate([i.matrix for i in batch])
        try:
            values, errors = await self._call(matrix, max(i.deadline for i in batch))
        except asyncio.CancelledError:
            for item in batch:
                self._fail(item, "the version was unloaded")
            raise
        except Exception as error:  # only whole-batch causes come here: gone, late
            text, gone = _cause(error), isinstance(error, Unavailable)
            absent = gone and not getattr(error, "sent", True)
            values, errors = [None] * len(matrix), dict.fromkeys(range(len(matrix)), text)
        end = self._deliver(batch, values, errors, start, gone=gone, absent=absent)
        if errors is None:
            self._learn((end - start) / 1e9)
        self._turn()

    async def _call(
        self, matrix: Matrix, deadline: float
    ) -> tuple[list[float | list[float] | None], dict[int, str] | None]:
        if self._remote is not None:
            return await _split_remote(self._remote, matrix, self.columns, deadline)
        predict, columns = self._predict, self.columns
        assert predict is not None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="flyball-model")
        return await asyncio.get_running_loop().run_in_executor(self._thread, _attempt, predict, matrix, columns)

    def _deliver(
        self,
        batch: list[Item],
        values: list[float | list[float] | None],
        errors: dict[int, str] | None,
        start: int,
        *,
        gone: bool = False,
        absent: bool = False,
    ) -> int:
        end, at = time.perf_counter_ns(), 0
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
        self._until_p99 -= len(batch)
        if self._until_p99 <= 0:
            self._until_p99 = _NEXT_P99
            ranked = sorted(self._durations)
            self._p99 = ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))] if ranked else self._p99
        return end

    def _learn(self, seconds: float) -> None:
        self.cost += _LEARNING * (seconds - self.cost)

    def _expire(self, item: Item) -> None:
        self._fail(item, "no answer before the deadline", late=True)

    def _fail(self, item: Item, text: str, *, late: bool = False) -> None:
        if item.future.done():
            return
        cause = f"{DeadlineExceeded.__name__}: {text}" if late else text
        item.values = [None] * len(item.matrix)
        item.errors = dict.fromkeys(range(len(item.matrix)), cause)
        item.wait = (time.perf_counter_ns() - item.queued) // 1000
        if item.timer is not None:
            item.timer.cancel()
        item.future.set_result(item)


def check_output(values: Matrix, rows: int, columns: int | None) -> Matrix:
    """Return a model's answer as float64 of shape (rows,) or (rows, columns).

    Raises:
        FlyballError: another shape, no numbers, or a value that is not finite.
    """
    out = numbers(values)
    if out.ndim == 2 and out.shape[1] == 1:
        out = out[:, 0]
    if out.ndim not in (1, 2) or out.shape[0] != rows or not _fits(out, columns):
        raise FlyballError(f"the model answered shape {out.shape} to {rows} rows{_wanted(columns)}")
    if not np.isfinite(out).all():
        raise FlyballError("the model answered a value that is not finite")
    return out


def numbers(values: object) -> Matrix:
    """Return a model's answer as float64.

    Raises:
        FlyballError: it holds texts, complex numbers or masked places, which numpy would turn into floats of some kind.
        TypeError: it holds something else that is no number.
        ValueError: it is ragged.
    """
    out = np.asarray(values)
    if out.dtype.kind not in "biufO" or np.ma.is_masked(values):
        kind = "with masked places" if np.ma.is_masked(values) else f"of type {out.dtype}"
        raise FlyballError(f"the model answered values {kind}; it must answer real numbers")
    return out if out.dtype == np.float64 else out.astype(np.float64)


def _fits(out: Matrix, columns: int | None) -> bool:
    match columns:
        case None:
            return out.ndim == 1
        case -1:  # ANY
            return True
        case -2:  # SEVERAL
            return out.ndim == 2
        case _:
            return out.shape[1:] == (columns,)


def _wanted(columns: int | None) -> str:
    return "; one number a row is wanted" if columns is None else ""


def _attempt(
    predict: Callable[[Matrix], Matrix], matrix: Matrix, columns: int | None
) -> tuple[list[float | list[float] | None], dict[int, str] | None]:
    try:
        return check_output(predict(matrix), len(matrix), columns).tolist(), None
    except Exception as error:
        return _split(predict, matrix, columns, error)


def _split(
    predict: Callable[[Matrix], Matrix], matrix: Matrix, columns: int | None, error: Exception
) -> tuple[list[float | list[float] | None], dict[int, str]]:
    values: list[float | list[float] | None] = [None] * len(matrix)
    errors: dict[int, str] = {}
    parts, tries = [(0, len(matrix), error)], 0
    while parts:
        start, end, cause = parts.pop()
        if end - start == 1 or tries >= _SPLITS:
            errors.update(dict.fromkeys(range(start, end), _cause(cause)))
            continue
        middle = (start + end) // 2
        for low, high in ((start, middle), (middle, end)):
            tries += 1
            try:
                values[low:high] = check_output(predict(matrix[low:high]), high - low, columns).tolist()
            except Exception as again:
                parts.append((low, high, again))
    return values, errors


async def _split_remote(
    remote: Callable[[Matrix, float], Awaitable[Matrix]], matrix: Matrix, columns: int | None, deadline: float
) -> tuple[list[float | list[float] | None], dict[int, str] | None]:
    values: list[float | list[float] | None] = [None] * len(matrix)
    errors: dict[int, str] = {}
    parts, tries = [(0, len(matrix))], 0
    while parts:
        start, end = parts.pop()
        tries += 1
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                answer = await remote(matrix[start:end], deadline)
            values[start:end] = check_output(answer, end - start, columns).tolist()
        except Exception as error:
            if isinstance(error, TimeoutError | Unavailable):
                raise  # late or gone: asking again with half the rows cannot help
            if end - start == 1 or tries >= _SPLITS:
                errors.update(dict.fromkeys(range(start, end), _cause(error)))
                continue
            middle = (start + end) // 2
            parts += [(middle, end), (start, middle)]
    return values, errors or None


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"{DeadlineExceeded.__name__}: {error or 'no answer before the deadline'}"
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:500]
