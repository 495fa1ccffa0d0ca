"""Feature flags over HTTP: all of them for a unit, or one with the reason.

The surprise: a flag is decided here as `fb.flag` decides it in the caller's own process, so either may be asked. Only
of a flag that an experiment owns something is written down, before the answer: that the unit was exposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from flyball.errors import BadRequest, Unavailable, UnknownName
from flyball.rollout.routing import RoutingTable
from flyball.serving.http.asgi import Response, json, read_body
from flyball.serving.http.handlers.ask import Ask
from flyball.serving.protocol.types import MALFORMED
from flyball.serving.routing.exposures import Exposures
from flyball.serving.routing.flags import Decided, described
from flyball.serving.routing.flags import Flags as Known
from flyball.serving.shared.slots import Counter

if TYPE_CHECKING:
    from flyball.serving.gateway import Gateway
    from flyball.serving.log.personal import Protector

__all__ = ["Flags"]


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    unit: str | int
    attributes: dict[str, Any] = {}


class Flags:
    """Decide flags of the table in force."""

    def __init__(self, gateway: Gateway) -> None:
        """Answer for `gateway`."""
        self._gateway = gateway
        self._table: RoutingTable | None = None
        self._known: Known | None = None
        self._protector: Protector | None = None
        self._exposures = Exposures(self._hashed)

    async def flags(self, ask: Ask) -> Response:
        """Return every flag; with `?unit=` also its value for that unit, without attributes."""
        query = parse_qs(ask.scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True, errors="replace")
        given = query.get("unit")
        known, table = self._flags(), self._gateway.table
        listed = [described(flag) for _, flag in sorted(table.flags.items())] if table is not None else []
        if given == [""]:
            raise BadRequest("unit is empty; name whose flags to decide: ?unit=user-7")
        if not given:
            return json({"flags": listed, "table_version": known.version})
        self._gateway.slot.add(Counter.FLAGS)
        decided = known.all(given[0])
        await self._expose(table, given[0], decided)
        values = [{**flag, "value": decided[flag["name"]].value, "why": decided[flag["name"]].why} for flag in listed]
        return json({"flags": values, "unit": given[0], "table_version": known.version})

    async def flag(self, ask: Ask) -> Response:
        """Return one flag's value for a unit with attributes, and why."""
        body = await read_body(ask.scope, ask.receive, self._gateway.max_body)
        try:
            asked = msgspec.json.decode(body, type=_Asked)
        except MALFORMED as error:
            raise BadRequest(f"the body is no question about a flag: {error}; send unit and attributes?") from error
        if asked.unit == "":
            raise BadRequest("unit is empty; name whose flag to decide")
        known, name = self._flags(), ask.names["flag"]
        try:
            decided = known.decide(name, str(asked.unit), asked.attributes)
        except UnknownName as error:
            raise BadRequest(str(error), 404) from error
        self._gateway.slot.add(Counter.FLAGS)
        if decided.experiment:
            await self._expose(self._gateway.table, str(asked.unit), {name: decided})
        return json(
            {"name": name, "value": decided.value, "variant": decided.variant, "why": decided.why,
             "table_version": known.version}
        )  # fmt: skip

    async def _expose(self, table: RoutingTable | None, unit: str, decided: Mapping[str, Decided]) -> None:
        """Log exposures to running experiments; as predictions, they are there when the caller reads the answer."""
        gateway = self._gateway
        if table is None or gateway.log is None or not any(found.experiment for found in decided.values()):
            return
        records = self._exposures.of(table, unit, decided.items(), gateway.clock.micros())
        if not records:
            return
        try:
            written = gateway.log.put([*records])
            if written is not None and not await written:
                self._exposures.forget(unit)
        except Unavailable:
            self._exposures.forget(unit)
            raise

    def _hashed(self, unit: str) -> str:
        if self._protector is None:
            self._protector = self._gateway.protector({"unit": "hash"})
        return self._protector.unit(unit)

    def _flags(self) -> Known:
        """Return the compiled flags, once per table."""
        table = self._gateway.table
        if self._known is None or self._table is not table:
            self._known, self._table = Known(table or RoutingTable(0, 0, 0)), table
        return self._known
