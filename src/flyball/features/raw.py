"""Rows as they were pushed, as Arrow: JSON values in, one typed column per name out.

The surprise: nothing is refused here. Values of types that do not go together become JSON text in one string column;
`reading` then says which value of which column is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["concat_raw", "raw_table"]


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
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        names = dict.fromkeys(name for table in tables for name in table.column_names)
        mixed = {n for n in names if len({t.schema.field(n).type for t in tables if n in t.column_names}) > 1}
        return pa.concat_tables([_as_text(t, mixed) for t in tables], promote_options="permissive").combine_chunks()


def _column(values: list[Any]) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([_text(v) for v in values], pa.string())


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    import pyarrow as pa

    for i, name in enumerate(table.column_names):
        if name in names and not name.startswith("__"):
            text = [_text(v) for v in table.column(name).to_pylist()]
            table = table.set_column(i, name, pa.array(text, pa.string()))
    return table


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)
