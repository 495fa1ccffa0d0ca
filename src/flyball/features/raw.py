"""Rows as they were pushed, as Arrow: JSON values in, one typed column per name out.

The surprise: nothing is refused here, and nothing is lost. A column whose values have types that do not go together
(times as text and as int, say) becomes text: texts stay, bytes become base64, times ISO, and anything else `MARK` and
its JSON, which `reading` takes back. So a row means the same whatever was pushed before and after it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MARK", "concat_raw", "raw_table"]

MARK = "\0json:"
"""What precedes the JSON of a value that is no text in a column of texts."""

_NULL = type(None)
_EXACT = 2**53  # whole numbers up to this are floats exactly


def raw_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table with every column that any row has; what a row lacks is null."""
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def concat_raw(tables: Sequence[pa.Table]) -> pa.Table:
    """Return one table; a missing column is null, and types that do not go together become text."""
    import pyarrow as pa

    if len(tables) == 1:
        return tables[0]
    names = dict.fromkeys(name for table in tables for name in table.column_names)
    mixed = {n for n in names if _is_mixed([t.column(n) for t in tables if n in t.column_names])}
    try:
        return _concat(tables, mixed)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # nested values of other shapes
        return _concat(
            tables, {n for n in names if len({t.schema.field(n).type for t in tables if n in t.column_names}) > 1}
        )


def _concat(tables: Sequence[pa.Table], mixed: set[str]) -> pa.Table:
    import pyarrow as pa

    texts = [_as_text(t, mixed) for t in tables] if mixed else tables
    return pa.concat_tables(texts, promote_options="permissive").combine_chunks()


def _is_mixed(columns: Sequence[pa.ChunkedArray]) -> bool:
    """Whether columns have types of which no value of one may become a value of another."""
    import pyarrow as pa

    plain = {c.type for c in columns if not pa.types.is_null(c.type)}
    if len(plain) <= 1 or all(map(pa.types.is_nested, plain)):
        return False
    if plain != {pa.int64(), pa.float64()}:
        return True
    return not all(_are_floats(c) for c in columns if c.type == pa.int64())


def _are_floats(column: pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    ends = pc.min_max(column).as_py()
    return ends["min"] is None or (ends["min"] >= -_EXACT and ends["max"] <= _EXACT)


def _column(values: list[Any]) -> pa.Array:
    import pyarrow as pa

    if _goes_together(values):
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            pass
    return pa.array([_text(v) for v in values], pa.string())


def _goes_together(values: Iterable[Any]) -> bool:
    """Whether Arrow may choose one type for these values; of several it would take bytes, or drop an offset."""
    found = set(map(type, values)) - {_NULL}
    if found == {list}:
        return _goes_together(v for some in values if some is not None for v in some)
    if found == {datetime}:
        return len({v.tzinfo is None for v in values if v is not None}) == 1
    return len(found) <= 1 or found == {int, float}


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    import pyarrow as pa

    for i, name in enumerate(table.column_names):
        kind = table.schema.field(i).type
        if name in names and not name.startswith("__") and not pa.types.is_string(kind):
            text = [_text(v) for v in table.column(name).to_pylist()]
            table = table.set_column(i, name, pa.array(text, pa.string()))
    return table


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes | datetime):
        return _plain(value)
    return MARK + json.dumps(value, default=_plain)


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, datetime) else str(value)
