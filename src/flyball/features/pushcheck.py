"""Check a batch of pushed rows by column, where all rows are alike; `reading.check_rows` does the rest by row.

The surprise: this never refuses anything. It says whether the rows are surely right; when they are not, the slow check
finds the row, the column and the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from flyball.features.reading import check_rows, needed
from flyball.features.spec import ColumnType, SourceSpec

__all__ = ["check_pushed"]

_NULL = type(None)
_PLAIN: dict[str, frozenset[type]] = {
    "int64": frozenset({int, _NULL}), "float64": frozenset({int, float, _NULL}), "bool": frozenset({bool, _NULL}),
    "string": frozenset({str, _NULL}),
}  # fmt: skip
_LARGEST = 2**63


def check_pushed(spec: SourceSpec, rows: Sequence[Any], kinds: Mapping[str, ColumnType] | None) -> None:
    """Do as `check_rows`, faster when all rows have the same columns.

    Raises:
        InputError: as `check_rows`.
    """
    if not _surely_right(spec, rows, kinds):
        check_rows(spec, rows, kinds)


def _surely_right(spec: SourceSpec, rows: Sequence[Any], kinds: Mapping[str, ColumnType] | None) -> bool:
    if not rows or type(rows[0]) is not dict:
        return False
    names = rows[0].keys()
    if not all(type(row) is dict and row.keys() == names for row in rows):
        return False
    times = {spec.event_time, *([spec.created_time] if spec.created_time else [])}
    if not needed(spec) - {spec.created_time} <= names:
        return False
    kinds = kinds or {}
    for name in names:
        kind = "timestamp" if name in times else kinds.get(name)
        if kind is not None and not _fit([row[name] for row in rows], kind, spec, null=name != spec.event_time):
            return False
    return True


def _fit(values: list[Any], kind: ColumnType, spec: SourceSpec, *, null: bool) -> bool:
    found = set(map(type, values))
    if _NULL in found and not null:
        return False
    if found == {_NULL}:
        return True
    if kind == "timestamp":
        rest = found - {_NULL}
        return _ints(values) if rest == {int} else rest == {str} and _texts(values, strict=spec.strict)
    if kind not in _PLAIN or not found <= _PLAIN[kind]:
        return False
    return int not in found or _ints(values)


def _ints(values: list[Any]) -> bool:
    whole = [v for v in values if type(v) is int]
    return min(whole) >= -_LARGEST and max(whole) < _LARGEST


def _texts(values: list[Any], *, strict: bool) -> bool:
    """Whether Arrow reads them all as times; it takes no text that the slow check would refuse."""
    column = pa.array(values, pa.string())
    for target in (*(() if strict else (pa.timestamp("us"),)), pa.timestamp("us", "UTC")):
        try:
            column.cast(target)
        except pa.ArrowInvalid:
            continue
        return True
    return False
