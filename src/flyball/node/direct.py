"""The short way of a request that came whole: no task, no ASGI messages, one write.

A model of microseconds has answered before a task for it would have begun. The surprise: the gateway's coroutine is
stepped once by hand. Nearly always that step returns the answer; if it waits for something instead (a batch, a host,
the log's turn), the coroutine goes on, from where it stands, in the task that it would have had from the beginning.
What is checked and what is answered is the same function either way, and a test holds the bytes of both ways equal.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from flyball.serving.http.asgi import Response, Scope, Send, send_response

__all__ = ["Arriving", "Direct", "Eager", "written"]


class Direct(Protocol):
    """An application that can answer a whole request without ASGI's messages."""

    def takes(self, url: bytes) -> bool:
        """Whether POST requests to this very URL are for `respond`."""
        ...

    def respond(self, scope: Scope, body: bytes) -> Coroutine[Any, Any, Response]:
        """Return the answer to a request; it raises nothing but CancelledError."""
        ...


class Arriving:
    """The head of a request, and what of its body came."""

    __slots__ = ("body", "expects", "headers", "keep", "method", "url", "version")

    def __init__(
        self, method: bytes, url: bytes, version: str, headers: list[tuple[bytes, bytes]], expects: bool, keep: bool
    ) -> None:
        """Begin without a body; `keep` says that the caller keeps the connection, `expects` that it awaits a 100."""
        self.method = method
        self.url = url
        self.version = version
        self.headers = headers
        self.expects = expects
        self.keep = keep
        self.body = b""

    @property
    def plain(self) -> bool:
        """Whether this is a POST of HTTP/1.1 on a connection that stays, whose caller awaits nothing but the answer."""
        return self.method == b"POST" and self.version == "1.1" and self.keep and not self.expects


class Eager:
    """A coroutine that was stepped once: `response` is its answer, None if it waits for something, or failed.

    Then it is an application for the task that goes on with it.
    """

    __slots__ = ("_coroutine", "_failed", "_waits_for", "response")

    def __init__(self, coroutine: Coroutine[Any, Any, Response]) -> None:
        """Take the first step."""
        self._coroutine = coroutine
        self.response: Response | None = None
        self._waits_for: Any = None
        self._failed: Exception | None = None
        try:
            self._waits_for = future = coroutine.send(None)
            if future is not None:  # others may wait for the same one: who yields it to a task says so just then
                future._asyncio_future_blocking = False
        except StopIteration as end:
            self.response = end.value
        except Exception as error:
            self._failed = error

    def __await__(self) -> Generator[Any, Any, Response]:
        """Go on: the task waits for what the first step waited for, then steps the coroutine itself."""
        if self._failed is not None:
            raise self._failed
        coroutine, waits_for = self._coroutine, self._waits_for
        if waits_for is not None:
            waits_for._asyncio_future_blocking = True
        try:
            while True:
                try:
                    sent = yield waits_for
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:
                    waits_for = coroutine.throw(error)
                else:
                    waits_for = coroutine.send(sent)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Send the answer as the application does."""
        response = await self
        await send_response(send, response)
        if response.after is not None:
            response.after()


def written(response: Response) -> bytes:
    """Return an answer's bytes on a connection that stays."""
    body = response.body
    head = b"%scontent-type: %s\r\ncontent-length: %d\r\n" % (STATUS_LINE[response.status], response.type, len(body))
    if response.headers:
        head += b"".join([b"%s: %s\r\n" % header for header in response.headers])
    return head + b"\r\n" + body
