"""The specification of point-in-time answers: a slow, obvious loop over rows, one request at a time.

It shares no code with the kernel. Everything fast is tested against it, and users may test their own against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flyball.features.spec import FeatureSpec, Join, Stat, Status, ViewSpec

__all__ = ["Row", "answer"]


@dataclass(frozen=True, slots=True)
class Row:
    """One accepted row of a source; times in µs."""

    key: tuple[Any, ...]
    event: int
    created: int
    known: int
    sequence: int
    values: dict[str, Any]


def answer(
    rows: Sequence[Row],
    view: ViewSpec,
    feature: FeatureSpec,
    key: tuple[Any, ...],
    at: int,
    *,
    join: Join = "as_known",
) -> tuple[Any, Status]:
    """Return the value (None for null) and status of one feature for one request at T = `at`."""
    seen = [r for r in rows if _visible(r, key, at, join)]
    value, status = _window(seen, feature, at) if feature.stat is not None else _newest(seen, view, feature, at)
    if status is not Status.PRESENT and feature.default is not None:
        return feature.default, status
    return value, status


def _visible(row: Row, key: tuple[Any, ...], at: int, join: Join) -> bool:
    if None in key or None in row.key or row.key != key:
        return False
    return (row.known if join == "as_known" else row.event) <= at


def _newest(seen: list[Row], view: ViewSpec, feature: FeatureSpec, at: int) -> tuple[Any, Status]:
    if not seen:
        return None, Status.MISSING
    newest = seen[0]
    for row in seen:
        if (row.event, row.created, row.sequence) > (newest.event, newest.created, newest.sequence):
            newest = row
    if view.ttl is not None and at - newest.event > view.ttl:
        return None, Status.EXPIRED
    value = newest.values[feature.of or feature.name]
    return value, Status.NULL if value is None else Status.PRESENT


def _window(seen: list[Row], feature: FeatureSpec, at: int) -> tuple[Any, Status]:
    assert feature.window is not None and feature.hop is not None
    begin = (at - feature.window) // feature.hop * feature.hop
    inside = [r for r in seen if begin < r.event <= at]
    values = [1.0 if feature.of is None else r.values[feature.of] for r in inside]
    numbers = [float(v) for v in values if v is not None and not math.isnan(v)]
    value = _fold(numbers, feature.stat)
    if not seen:
        return value, Status.MISSING
    return value, Status.NULL if value is None else Status.PRESENT


def _fold(numbers: list[float], stat: Stat | None) -> float | int | None:
    if stat is Stat.COUNT:
        return len(numbers)
    if stat is Stat.SUM:
        return math.fsum(numbers)
    if not numbers or (stat is Stat.STD and len(numbers) < 2):
        return None
    mean = math.fsum(numbers) / len(numbers)
    match stat:
        case Stat.MEAN:
            return mean
        case Stat.STD:
            return math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))
        case Stat.MIN:
            return min(numbers)
        case _:
            return max(numbers)
