"""Find the rows at fault in a batch that failed, so that a bad row never fails its neighbours.

The surprise: nothing is known of why a batch failed. It is halved, and halved again, until single rows fail by
themselves; one offender among n rows costs about 2 log2(n) calls.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from flyball.errors import DeadlineExceeded, Unavailable, said
from flyball.serving.models.outputs import Matrix, Values, check_output

__all__ = ["attempt", "cause_of", "split_remote"]

_ABREAST = 8  # parts of a failed batch that a host is asked about at a time


def attempt(
    predict: Callable[[Matrix], Matrix], matrix: Matrix, columns: int | None, deadline: float
) -> tuple[Values, dict[int, str] | None]:
    """Return (values, errors by row or None) of a batch: of one that fails, only rows that fail by themselves.

    Args:
        predict: The model's call.
        matrix: float64, shape (n, k).
        columns: Columns of an answer, as `Batcher` has them.
        deadline: Monotonic seconds after which nothing is tried any more.
    """
    try:
        return check_output(predict(matrix), len(matrix), columns).tolist(), None
    except Exception as error:
        return _split(predict, matrix, columns, error, deadline)


def _split(
    predict: Callable[[Matrix], Matrix], matrix: Matrix, columns: int | None, error: Exception, deadline: float
) -> tuple[Values, dict[int, str]]:
    """Halve what failed until single rows fail: about 2 log2(n) calls for one offender among n rows.

    What no call has judged at the deadline fails with the cause of the part it is in; nobody waits for it any more.
    """
    values: Values = [None] * len(matrix)
    errors: dict[int, str] = {}
    parts = deque([(0, len(matrix), error)])
    while parts:
        start, end, cause = parts.popleft()
        if end - start == 1 or time.monotonic() >= deadline:
            errors.update(dict.fromkeys(range(start, end), cause_of(cause)))
            continue
        middle = (start + end) // 2
        for low, high in ((start, middle), (middle, end)):
            try:
                values[low:high] = check_output(predict(matrix[low:high]), high - low, columns).tolist()
            except Exception as again:
                parts.append((low, high, again))
    return values, errors


async def split_remote(
    remote: Callable[[Matrix, float], Awaitable[Matrix]], matrix: Matrix, columns: int | None, deadline: float
) -> tuple[Values, dict[int, str] | None]:
    """Do the same with a model in another process, a few parts on their way at a time: each costs a round trip.

    Raises:
        Unavailable: the process is gone; the error of the part that it had begun with.
        TimeoutError: it is late; asking again with half the rows cannot help.
    """
    values: Values = [None] * len(matrix)
    errors: dict[int, str] = {}

    async def ask(start: int, end: int) -> list[tuple[int, int]]:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                answer = await remote(matrix[start:end], deadline)
            values[start:end] = check_output(answer, end - start, columns).tolist()
        except Exception as error:
            if isinstance(error, TimeoutError | Unavailable):
                raise  # late or gone: asking again with half the rows cannot help
            if end - start > 1:
                middle = (start + end) // 2
                return [(start, middle), (middle, end)]
            errors[start] = cause_of(error)
        return []

    parts = deque(await ask(0, len(matrix)))
    while parts:
        now = [parts.popleft() for _ in range(min(len(parts), _ABREAST))]
        found = await asyncio.gather(*(ask(*part) for part in now), return_exceptions=True)
        ends = [one for one in found if isinstance(one, BaseException)]
        if ends:  # of a host that died, the part that it had begun with tells more than those that only queued
            raise max(ends, key=lambda error: bool(getattr(error, "sent", True)))
        parts.extend(more for one in found if not isinstance(one, BaseException) for more in one)
    return values, errors or None


def cause_of(error: BaseException) -> str:
    """Return an error as one line of at most 500 characters, class first."""
    if isinstance(error, TimeoutError):
        return f"{DeadlineExceeded.__name__}: {said(error) or 'no answer before the deadline'}"
    text = said(error).splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:500]
