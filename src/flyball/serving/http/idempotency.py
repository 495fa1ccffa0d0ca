"""The same request sent twice is answered once: what `Idempotency-Key` promises, within one worker and a bounded time.

The surprise: the request runs in a task of its own. A caller whose connection breaks takes nothing with it, so the
retry finds the one answer, with the one prediction id of the one record in the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from flyball.errors import BadRequest
from flyball.serving.http.asgi import Response

__all__ = ["HEADER", "Replays"]

HEADER = b"idempotency-key"
_LONGEST = 255  # bytes of a key, as other services have it
_ENTRY = 1_000  # bytes of an answer's bookkeeping: response, headers, digests, place


@dataclass(slots=True)
class _Known:
    digest: bytes  # of the body
    until: float
    response: Response


class Replays:
    """Remember good answers by key.

    Args:
        limit: Bytes of answers that are remembered; the oldest go first.
        keep: Seconds for which one is.
        now: Monotonic seconds.
    """

    def __init__(
        self, *, limit: int = 8_000_000, keep: float = 600.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._keep = keep
        self._now = now
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._flying: dict[bytes, tuple[bytes, asyncio.Task[Response]]] = {}
        self.bytes = 0

    async def once(
        self, key: bytes, body: bytes, make: Callable[[], Awaitable[Response]], *, scope: bytes = b""
    ) -> Response:
        """Return the answer to the first request with this key, made now if this is the first.

        Only answers below 300 are remembered: what failed may be tried again. A second request that comes while the
        first is under way waits for it.

        Args:
            key: What the caller sent, 1 to 255 bytes.
            body: The request's body; another one under the same key is a mistake.
            make: Answers the request.
            scope: What else tells keys apart: path and caller.

        Raises:
            BadRequest: the key is empty or too long (400), or came with another body (422).
        """
        if not 0 < len(key) <= _LONGEST:
            raise BadRequest(f"the Idempotency-Key has {len(key)} bytes; send 1 to {_LONGEST}")
        place = hashlib.blake2b(scope + b"\0" + key, digest_size=16).digest()
        digest = hashlib.blake2b(body, digest_size=16).digest()
        known = self._recall(place)
        if known is not None:
            _same(known.digest, digest)
            return _again(known.response)
        flying = self._flying.get(place)
        if flying is not None:
            _same(flying[0], digest)
            return _again(await asyncio.shield(flying[1]))
        task = asyncio.get_running_loop().create_task(self._make(place, digest, make))
        self._flying[place] = digest, task
        task.add_done_callback(_seen)
        return replace(await asyncio.shield(task))  # its own copy: what is put on it is not for those who follow

    async def _make(self, place: bytes, digest: bytes, make: Callable[[], Awaitable[Response]]) -> Response:
        try:
            response = await make()
        finally:
            self._flying.pop(place, None)
        if response.status < 300:
            self._remember(place, _Known(digest, self._now() + self._keep, replace(response, after=None)))
        return response

    def _recall(self, place: bytes) -> _Known | None:
        now = self._now()
        while self._known and next(iter(self._known.values())).until <= now:  # all are kept equally long
            self._forget()
        return self._known.get(place)

    def _remember(self, place: bytes, known: _Known) -> None:
        self._known[place] = known
        self.bytes += _ENTRY + len(known.response.body)
        while self.bytes > self._limit:
            self._forget()

    def _forget(self) -> None:
        _, known = self._known.popitem(last=False)
        self.bytes -= _ENTRY + len(known.response.body)


def _same(known: bytes, given: bytes) -> None:
    if known != given:
        raise BadRequest("this Idempotency-Key came with another body before; send a new key for a new request", 422)


def _again(response: Response) -> Response:
    return replace(response, after=None, headers=[*(response.headers or ()), (b"idempotent-replayed", b"true")])


def _seen(done: asyncio.Task[Response]) -> None:
    if not done.cancelled():
        done.exception()  # whoever waits has it; nobody has to
