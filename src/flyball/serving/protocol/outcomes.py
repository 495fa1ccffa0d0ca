"""Outcomes and rows of sources as callers send them: a list, one object, or JSON lines."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec

from flyball.errors import BadRequest
from flyball.serving.protocol.types import MALFORMED
from flyball.serving.protocol.values import time_of

__all__ = ["parse_outcomes", "parse_source_rows"]

_any = msgspec.json.Decoder()


class _OutcomeRow(msgspec.Struct):
    prediction_id: str
    value: float
    event_time: str | int
    revision: Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)] = 0


def parse_outcomes(body: bytes) -> list[tuple[str, float, int, int]]:
    """Return (prediction id, value, event time in µs, revision) per outcome: a list, one object, or JSON lines.

    `id#0` becomes `id`: the first row of a prediction is logged under the plain id.
    """
    rows = parse_source_rows(body, key="outcomes")
    try:
        outcomes = msgspec.convert(rows, list[_OutcomeRow])
    except msgspec.ValidationError as error:
        raise BadRequest(f"an outcome needs prediction_id, value and event_time: {error}") from error
    for row in outcomes:
        if not math.isfinite(row.value):
            raise BadRequest(f"the outcome of {row.prediction_id!r} is {row.value}; send a finite number")
    return [
        (r.prediction_id.removesuffix("#0"), r.value, time_of("event_time", r.event_time), r.revision) for r in outcomes
    ]


def parse_source_rows(body: bytes, *, key: str = "rows") -> list[dict[str, Any]]:
    """Return the rows of a JSON list, of {key: [...]}, of one object, or of JSON lines."""
    text = body.strip()
    if not text:
        raise BadRequest("the body is empty; send a JSON list or one JSON object per line")
    try:
        found: Any = _any.decode(text)
    except MALFORMED:
        found = _lines(text)
    if isinstance(found, dict):
        found = found[key] if isinstance(found.get(key), list) else [found]
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise BadRequest("the body is no list of objects; send a JSON list or one JSON object per line")
    return found


def _lines(text: bytes) -> list[Any]:
    try:
        return [_any.decode(line) for line in text.splitlines() if line.strip()]
    except MALFORMED as error:
        raise BadRequest(f"the body is neither JSON nor JSON lines: {error}") from error
