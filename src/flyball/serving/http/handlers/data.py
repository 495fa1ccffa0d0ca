"""What callers bring: outcomes of predictions, exposures to experiments assigned elsewhere, and rows of sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyball.errors import Unavailable
from flyball.records.types import Exposure, Outcome, Record
from flyball.serving.http.asgi import Response, json, read_body
from flyball.serving.http.events import LINE_TYPES, take_events
from flyball.serving.http.handlers.ask import Ask
from flyball.serving.http.rendering import LARGE, apart
from flyball.serving.protocol import parse_outcomes
from flyball.serving.protocol.exposures import parse_exposures
from flyball.serving.routing.exposures import is_personal

if TYPE_CHECKING:
    from flyball.serving.gateway import Gateway

__all__ = ["Data"]


class Data:
    """Take what callers bring."""

    def __init__(self, gateway: Gateway) -> None:
        """Answer for `gateway`."""
        self._gateway = gateway

    async def outcomes(self, ask: Ask) -> Response:
        """Take outcomes; they are in the log when this answers."""
        gateway = self._gateway
        body = await read_body(ask.scope, ask.receive, gateway.max_body, LINE_TYPES)
        rows = await apart(parse_outcomes, body) if len(body) > LARGE else parse_outcomes(body)
        if gateway.log is None:
            raise Unavailable("this gateway keeps no prediction log, so it cannot take outcomes")
        received = gateway.clock.micros()
        records: list[Record] = [Outcome(pid, value, event, received, "api", rev) for pid, value, event, rev in rows]
        written = gateway.log.put(records, durable=True)
        if written is not None and not await written:
            raise Unavailable("the prediction log took no outcome: its disk is full; send them again later")
        return json({"accepted": len(records)})

    async def exposures(self, ask: Ask) -> Response:
        """Take exposures to experiments whose units somebody else assigns; they are in the log when this answers."""
        gateway = self._gateway
        body = await read_body(ask.scope, ask.receive, gateway.max_body, LINE_TYPES)
        now = gateway.clock.micros()
        rows = await apart(parse_exposures, body, now) if len(body) > LARGE else parse_exposures(body, now)
        if gateway.log is None:
            raise Unavailable("this gateway keeps no prediction log, so it cannot take exposures")
        personal = gateway.table is not None and is_personal(gateway.table, "")
        hashed = gateway.protector({"unit": "hash"}).unit if personal else str
        protected = "unit" if personal else ""
        records: list[Record] = [
            Exposure(name or f"{experiment}:{kept}:{arm}", experiment, kept, arm, at, 0, "api", protected)
            for name, experiment, kept, arm, at in ((n, e, hashed(unit), a, t) for n, e, unit, a, t in rows)
        ]
        written = gateway.log.put(records, durable=True)
        if written is not None and not await written:
            raise Unavailable("the prediction log took no exposure: its disk is full; send them again later")
        return json({"accepted": len(records)})

    async def events(self, ask: Ask) -> Response:
        """Hand rows of a source to ingest."""
        source = ask.names["source"]
        self._gateway.check_write(ask.scope, source)
        return await take_events(source, ask.scope, ask.receive, self._gateway.push, self._gateway.max_body)
