"""One HTTP connection: uvicorn's, with limits that uvicorn has not.

A caller has so much time to send a request and to take its answer, and headers have a size. The surprise: nothing here
sets a timer. A connection notes when its state changed, and the server looks at all of them a few times a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from flyball.node.direct import Arriving, Direct, Eager, written

__all__ = ["Connection", "Limits"]

log = logging.getLogger("flyball.node")
_LINGER = 1.0  # seconds that what a refused caller still sends is read and thrown away
_LAST = 0.3  # seconds an idle connection may still send a request once the server drains
_IDLE, _RECEIVING, _ANSWERING, _LEAVING = range(4)


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may take.

    `slow` are seconds to send a whole request, or to take a part of an answer; `idle` seconds between two requests;
    `head` bytes of request line and headers. `counted` is called for each slow caller, `left` for each who went away
    before its answer. With `cancel`, the work for a caller who went away ends.
    """

    slow: float = 10.0
    idle: float = 75.0
    head: int = 65_536
    headers: int = 128
    cancel: bool = False
    counted: Callable[[], None] = _nothing
    left: Callable[[], None] = _nothing


class Connection(HttpToolsProtocol):
    """A connection that cannot be held for ever, whatever its caller does.

    `direct`, when there is one, answers the requests it takes without a task; see `flyball.node.direct`.
    """

    limits = Limits()
    direct: Direct | None = None

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._state = _RECEIVING  # a fresh connection owes us a request
        self._since = self.loop.time()
        self._head = 0  # bytes of a request whose headers are not complete; -1 once they are
        self._bodiless = 0  # bytes since a request, its headers or a part of its body was complete: trailers, too
        self._upgrading: bytes | None = None  # the head of a request that asked for another protocol, without that
        self._unsent = 0
        self._unsent_since = 0.0
        self._draining = False
        self._task: asyncio.Task[None] | None = None
        self._fresh = False  # nothing of what was read last was answered directly
        self._arriving: Arriving | None = None  # a request that may be answered directly, once it is whole

    # -- receiving ----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Feed the parser; refuse what is no HTTP or has a head too large."""
        if self._state == _LEAVING:
            return
        if self._state == _IDLE:
            self._enter(_RECEIVING)
        if self._head >= 0:
            self._head += len(data)
        self._bodiless += len(data)
        self._fresh = True
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            if self._state != _LEAVING:
                self._refuse(400, f"this is no HTTP request that can be read ({_cause(error)})")
            return
        if self._arriving is not None:  # its body comes in parts
            self._start(self._arriving)
        most = self.limits.head
        if (self._head > most or self._bodiless > most) and self._state != _LEAVING:
            self._refuse(
                431, f"request line and headers have more than {self.limits.head} bytes; send fewer or shorter"
            )

    def _feed(self, data: bytes) -> None:
        """Parse; a request that asks for another protocol is read again as if it had not asked.

        The parser takes what follows its head for that protocol's, so its body, and requests after it, would be lost.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as asked:
                if self._upgrading is None or self._state == _LEAVING:
                    return
                data = self._upgrading + data[asked.args[0] :]
                self._upgrading = None
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as the one before it

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._head = max(self._head, 0)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, up to a number of them; what follows a body are trailers, which must not pass for headers."""
        if self._head < 0:
            return
        if len(self.headers) >= self.limits.headers:
            self._refuse(431, f"there are more than {self.limits.headers} headers; send fewer")
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the application on a request whose body may still come."""
        if self._state == _LEAVING:
            return
        parser = self.parser
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":
            self._upgrading = _without_upgrade(parser, self.url, self.headers)
            return
        self._head, self._bodiless = -1, 0
        arriving = Arriving(
            parser.get_method(), self.url, parser.get_http_version(), self.headers, self.expect_100_continue,
            parser.should_keep_alive(),
        )  # fmt: skip
        if self._is_direct(arriving):
            self._arriving = arriving
        else:
            self._start(arriving)

    def _is_direct(self, request: Arriving) -> bool:
        """Whether a request may be answered directly: alone on this connection, and nothing unusual about it."""
        return (
            self._fresh
            and self.direct is not None
            and (self.cycle is None or self.cycle.response_complete)
            and request.plain
            and not (self._draining or self.flow.write_paused)
            and self.direct.takes(request.url)
        )

    def _start(self, request: Arriving) -> None:
        """Start the application on a request, or have it wait for the one before it."""
        self._arriving = None
        before, scope = self.cycle, self._scope_of(request)
        keep = request.version != "1.0" and request.keep and not self._draining
        self.cycle = cycle = _Cycle(
            scope, self.transport, self.flow, self.logger, self.access_logger, False, self.server_state.default_headers,
            asyncio.Event(), request.expects, keep, self.on_response_complete,
        )  # fmt: skip
        cycle.close = self._leave
        cycle.body += request.body
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:  # sent before the answer to the one before it
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _scope_of(self, request: Arriving) -> Any:
        url = httptools.parse_url(request.url)
        path = (url.path or b"/").decode("latin-1")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": request.version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "headers": request.headers,
            "state": self.app_state.copy(),
            "method": request.method.decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path or b"/",
            "query_string": url.query or b"",
        }

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        task = self._task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body for the application."""
        self._bodiless = 0
        if self._arriving is not None:
            self._arriving.body += body
        elif self.cycle is not None and self._state != _LEAVING:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the application now, not for the caller."""
        if self._arriving is not None:
            self._head = self._bodiless = 0
            self._answer(self._arriving)
            return
        if self.cycle is None or self._state == _LEAVING or self._upgrading is not None:
            return
        super().on_message_complete()
        self._head = self._bodiless = 0
        if not self.cycle.response_complete:
            self._enter(_ANSWERING)

    # -- answering ----------------------------------------------------------------------------------------------------

    def _answer(self, request: Arriving) -> None:
        """Answer a whole request here and now; what has to wait for something becomes a task after all."""
        assert self.direct is not None
        self._arriving, self._fresh = None, False
        scope = {"type": "http", "method": "POST", "path": request.url.decode("latin-1"), "headers": request.headers}
        under_way = Eager(self.direct.respond(scope, bytes(request.body)))
        if (response := under_way.response) is None:
            self._hand_over(request, under_way)
            return
        self.transport.write(written(response))
        self.server_state.total_requests += 1
        self._enter(_IDLE)
        if response.after is not None:
            response.after()

    def _hand_over(self, request: Arriving, under_way: Eager) -> None:
        """Go on with what could not be answered at once, as the application that this request would have had."""
        app, self.app = self.app, under_way
        try:
            self._start(request)
        finally:
            self.app = app
        self.cycle.more_body = False
        self._enter(_ANSWERING)

    def on_response_complete(self) -> None:
        """Begin the next request that came already, or wait for one."""
        self.server_state.total_requests += 1
        if self._state == _LEAVING or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if self._draining:
                cycle.keep_alive = False
            self._start_asgi_task(cycle, app)
            self._enter(_RECEIVING if cycle.more_body else _ANSWERING)
        else:
            self._enter(_IDLE)

    def _leave(self) -> None:
        """End the connection after an answer.

        Closing while the caller still sends would reset the connection, and with it goes the answer. So the end is
        announced and what still comes is thrown away for a while.
        """
        cycle = self.cycle
        if cycle is None or not cycle.more_body or not self.transport.can_write_eof():
            self._state = _LEAVING
            self.transport.close()
            return
        self._enter(_LEAVING)
        self.flow.resume_reading()
        self.transport.write_eof()

    def _refuse(self, status: int, text: str) -> None:
        """Answer by ourselves, for a request that never reaches the application, and leave."""
        body = msgspec.json.encode({"error": text})
        head = b"%scontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (STATUS_LINE[status], len(body)) + body)
        self._end_cycle()
        self._enter(_LEAVING)
        if self.transport.can_write_eof():
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()

    def _end_cycle(self) -> None:
        """Tell an application that waits for the body that there is none to come."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.pipeline.clear()

    # -- time ---------------------------------------------------------------------------------------------------------

    def _enter(self, state: int) -> None:
        self._state = state
        self._since = self.loop.time()

    def check(self, now: float) -> None:
        """End what takes too long; called a few times a second."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._unsent_since = now
        self._unsent = unsent
        if unsent and now - self._unsent_since > self.limits.slow:
            self.limits.counted()
            self.transport.abort()  # it never reads: there is nobody to be polite to
            return
        waited = now - self._since
        if self._state == _IDLE and waited > self.limits.idle:
            self.transport.close()
        elif self._state == _RECEIVING and waited > self.limits.slow:
            self._too_slow()
        elif self._state == _LEAVING and waited > _LINGER and not unsent:
            self.transport.abort()

    def _too_slow(self) -> None:
        cycle = self.cycle
        asked = self.headers is not None and (cycle is None or not cycle.response_started)
        self.limits.counted()
        if asked and not (cycle is not None and cycle.response_complete):
            self._refuse(408, f"the request did not come within {self.limits.slow:g} s; send it faster or in parts")
        else:
            self._end_cycle()
            self.transport.close()

    # -- the end ------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Answer what is at hand, and one request that may be on its way; then close."""
        self._draining = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(_LAST, self._close_idle)

    def _close_idle(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the caller, and what was done for it."""
        under_way = self.cycle is not None and not self.cycle.response_complete and self._state != _LEAVING
        super().connection_lost(exc)
        self.pipeline.clear()
        if under_way:
            self.limits.left()
            if self.limits.cancel and self._task is not None:
                self._task.cancel()


class _Cycle(RequestResponseCycle):
    """One request and its answer, which is written at once where it has one part."""

    close: Callable[[], None]
    held: bytes = b""

    async def run_asgi(self, app: Any) -> None:
        """Run the application; whatever it raises is one log line and a 500."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.disconnected:
                self.transport.close()
        except Exception:
            log.exception("the application failed")
            if not self.response_started:
                await self.send_500_response()
            else:
                self.transport.close()
        else:
            if not self.response_complete and not self.disconnected:
                log.error("the application ended without an answer")
                if self.response_started:
                    self.transport.close()
                else:
                    await self.send_500_response()
        finally:
            self.on_response = _nothing

    async def send(self, message: Any) -> None:
        """Take a part of the answer."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started:
            self._begin(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and self.response_started and not self.response_complete:
            self._go_on(message.get("body", b""), last=not message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind!r} may not be sent now")

    def _begin(self, status: int, headers: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        parts = [STATUS_LINE[status]]
        closes = False
        for name, value in (*self.default_headers, *headers):
            if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name or b":" in name:
                raise RuntimeError(f"header {name!r} holds a line break")
            lower = name.lower()
            if lower == b"content-length":
                self.chunked_encoding, self.expected_content_length = False, int(value)
            elif lower == b"connection":
                closes = b"close" in value.lower()
                self.keep_alive = self.keep_alive and not closes
            parts += (name, b": ", value, b"\r\n")
        if self.more_body:  # answered before the whole body came: the rest is not waited for
            self.keep_alive = False
        if not self.keep_alive and not closes:
            parts.append(b"connection: close\r\n")
        if self.chunked_encoding is None:
            self.chunked_encoding = self.scope["method"] != "HEAD" and status not in {204, 304}
            if self.chunked_encoding:
                parts.append(b"transfer-encoding: chunked\r\n")
        parts.append(b"\r\n")
        self.held = b"".join(parts)

    def _go_on(self, body: bytes, *, last: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length, body = 0, b""
        elif self.chunked_encoding:
            body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if last else b"")
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (last and self.expected_content_length):
                raise RuntimeError("the answer's body is not as long as its content-length says")
        self.transport.write(self.held + body)
        self.held = b""
        if last:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.close()
            self.on_response()


def _without_upgrade(parser: httptools.HttpRequestParser, url: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the head of a request as if it had not asked for another protocol."""
    closes = any(name == b"connection" and b"close" in value.lower() for name, value in headers)
    kept = [h for h in headers if h[0] not in {b"connection", b"upgrade", b"http2-settings"}]
    lines = [b"%s: %s\r\n" % header for header in [*kept, *([(b"connection", b"close")] if closes else [])]]
    version = parser.get_http_version().encode()
    return b"%s %s HTTP/%s\r\n%s\r\n" % (parser.get_method(), url, version, b"".join(lines))


def _cause(error: Exception) -> str:
    inner = error.__context__
    return str(inner if isinstance(error, httptools.HttpParserCallbackError) and inner is not None else error)
