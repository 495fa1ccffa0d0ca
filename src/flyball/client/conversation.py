"""One call with its retries, without a network: it asks to send or to wait, and is told what came of it.

The surprise: it is a generator, so that the synchronous and the asynchronous client drive the very same decisions.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flyball.client.answers import error_of
from flyball.client.calls import Request
from flyball.client.retry import Trouble, pause, seconds
from flyball.errors import DeadlineExceeded, FlyballError, Unavailable

__all__ = ["Failure", "Reply", "Send", "Wait", "conversation"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request; give up after `timeout` seconds."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; names of `headers` are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer: nobody was reached, the connection broke after sending, or the time was up."""

    kind: str  # unreached, broken or late
    text: str


def conversation(
    request: Request[T],
    *,
    where: str,
    timeout: float,
    retries: int,
    rng: random.Random,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Send | Wait, Reply | Failure | None, T]:
    """Yield what to do next and take what came of it; return the answer.

    Raises:
        BadRequest: the gateway refused the call (400 to 499).
        Busy: it has too much to do, also after the last try.
        Unavailable: it cannot be reached or serves no such model now.
        DeadlineExceeded: no answer within `timeout` seconds, tries together.
        FlyballError: the model failed.
    """
    until, tried = clock() + timeout, 0
    while True:
        tried += 1
        told = yield Send(max(until - clock(), 0.001))
        assert told is not None
        if isinstance(told, Reply) and (told.status < 400 or (request.refused and told.status == 503)):
            return request.read(told.body, told.headers)
        trouble, error = _judged(told, where, timeout)
        left = until - clock()
        again = None if trouble is None else pause(
            trouble, tried=tried, retries=retries, repeatable=request.repeatable, left=left, rng=rng
        )  # fmt: skip
        if again is None:
            raise error
        yield Wait(again)


def _judged(told: Reply | Failure, where: str, timeout: float) -> tuple[Trouble | None, FlyballError]:
    """Return what may be tried again (None: nothing) and the error if it is not."""
    if isinstance(told, Reply):
        after = seconds(told.headers.get("retry-after"))
        return Trouble("status", told.status, after), error_of(told.status, told.body, told.headers)
    match told.kind:
        case "late":
            return None, DeadlineExceeded(f"{where} gave no answer within {timeout:g} s; raise the client's timeout")
        case "unreached":
            text = f"{where} cannot be reached ({told.text}); is the gateway up, and the address right?"
            return Trouble("unreached"), Unavailable(text)
        case _:
            text = f"the connection to {where} broke before the answer ({told.text}); the call may have been counted"
            return Trouble("broken"), Unavailable(text)
