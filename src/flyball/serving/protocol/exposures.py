"""Exposures as callers send them: a list, one object, or JSON lines.

The surprise: an exposure without an id is as good as one with it. Of a unit the first exposure counts, so that sending
a batch again changes nothing.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from flyball.errors import BadRequest
from flyball.serving.protocol.lines import parse_lines
from flyball.serving.protocol.values import time_of

__all__ = ["parse_exposures"]

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class _ExposureRow(msgspec.Struct, forbid_unknown_fields=True):
    experiment: _Name
    unit: str | int
    arm: _Name
    event_time: str | int | None = None
    id: Annotated[str, msgspec.Meta(max_length=200)] = ""


def parse_exposures(body: bytes, now: int) -> list[tuple[str, str, str, str, int]]:
    """Return (id, experiment, unit, arm, time in µs) per exposure; those without a time happened `now`."""
    rows = [row for _, row in parse_lines(body, key="exposures")]
    try:
        found = msgspec.convert(rows, list[_ExposureRow])
    except msgspec.ValidationError as error:
        raise BadRequest(f"an exposure needs experiment, unit and arm, event_time? and id?: {error}") from error
    made = []
    for row in found:
        unit = str(row.unit)
        if not unit:
            raise BadRequest(f"an exposure to {row.experiment!r} has an empty unit; name who was exposed")
        at = now if row.event_time is None else time_of("event_time", row.event_time)
        made.append((row.id, row.experiment, unit, row.arm, at))
    return made
