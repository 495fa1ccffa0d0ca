"""The specification of point-in-time answers: a slow, obvious loop over rows, one request at a time.

It shares no code with the kernel (a feature's condition is read by the language's own evaluator). Everything fast is
tested against it, and users may test their own against it. In window views each row counts: a correction is a row too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pyarrow as pa

from flyball.errors import FlyballError
from flyball.features import expressions
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
    inside = [r for r in seen if begin < r.event <= at and _holds(feature.where, r)]
    inside.sort(key=lambda r: (r.event, r.created, r.sequence))
    values = [1.0 if feature.of is None else r.values[feature.of] for r in inside]
    value = _fold([v for v in values if _is_value(v)], feature)
    if not seen:
        return value, Status.MISSING
    return value, Status.NULL if value is None else Status.PRESENT


def _is_value(value: Any) -> bool:
    """Null and NaN are the same nothing in a window."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _holds(where: str | None, row: Row) -> bool:
    """Whether a condition is true of a row; what compares with null is not, `x is null` may be."""
    if where is None:
        return True
    condition = expressions.parse(where)
    names = sorted(expressions.columns(condition))
    given = {n: pa.array([row.values[n]]) for n in names if row.values[n] is not None}
    blank = [n for n in names if n not in given]
    for kinds in product((pa.float64(), pa.string(), pa.bool_(), pa.timestamp("us", "UTC")), repeat=len(blank)):
        nulls = {n: pa.nulls(1, kind) for n, kind in zip(blank, kinds, strict=True)}  # of a type that fits
        try:
            return expressions.evaluate(condition, pa.table({**given, **nulls})).to_pylist()[0] is True
        except FlyballError:
            continue
    return False


def _fold(values: list[Any], feature: FeatureSpec) -> Any:
    """Fold values in their rows' order; None where there is no answer.

    Distinct and quantile are exact here: what is approximate is held to its bound against them.
    """
    stat = feature.stat
    if stat is Stat.COUNT:
        return len(values)
    if stat is Stat.SUM:
        return _whole(sum(values)) if feature.type == "int64" else _sum([float(v) for v in values])
    if not values:
        return None
    match stat:
        case Stat.FIRST:
            return values[0]
        case Stat.LAST:
            return values[-1]
        case Stat.DISTINCT:
            return len({float(v) if isinstance(v, int) and v == float(v) else v for v in values})
        case Stat.QUANTILE:
            return float(sorted(values)[max(1, math.ceil((feature.q or 0.5) * len(values))) - 1])
        case Stat.MIN | Stat.MAX if feature.type == "int64":
            return min(values) if stat is Stat.MIN else max(values)
        case Stat.MEAN if feature.type.startswith("vector"):
            return [math.fsum(part) / len(values) for part in zip(*values, strict=True)]
    return _moments([float(v) for v in values], stat)


def _moments(numbers: list[float], stat: Stat | None) -> float | None:
    match stat:
        case Stat.MIN:
            return min(numbers)
        case Stat.MAX:
            return max(numbers)
    total = _sum(numbers)
    if total is None:
        return None
    mean = total / len(numbers)
    if stat is Stat.MEAN:
        return mean
    if len(numbers) < 2 or math.isinf(total):
        return None
    variance = math.fsum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1)
    return math.sqrt(variance) if stat is Stat.STD else variance


def _sum(numbers: list[float]) -> float | None:
    """Add up; infinities fold as such, and inf - inf is no number."""
    infinite = {x for x in numbers if math.isinf(x)}
    if infinite:
        return infinite.pop() if len(infinite) == 1 else None
    return math.fsum(numbers)


def _whole(total: int) -> int | None:
    """An exact sum that does not fit into 64 bits is null."""
    return total if -(2**63) <= total < 2**63 else None
