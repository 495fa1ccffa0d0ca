"""Outcomes as callers send them: a list, one object, or JSON lines.

The surprise: the first row of a prediction is logged under the plain id, so `id#0` is taken for `id`.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from flyball.errors import BadRequest
from flyball.serving.protocol.lines import parse_lines
from flyball.serving.protocol.values import time_of

__all__ = ["parse_outcomes"]


class _OutcomeRow(msgspec.Struct):
    prediction_id: str
    value: float
    event_time: str | int
    revision: Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)] = 0


def parse_outcomes(body: bytes) -> list[tuple[str, float, int, int]]:
    """Return (prediction id, value, event time in µs, revision) per outcome."""
    rows = [row for _, row in parse_lines(body, key="outcomes")]
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
