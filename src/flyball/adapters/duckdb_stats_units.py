"""Is every row a unit of its own, and which units saw several arms? What is counted by unit, not by value.

The surprise: of a large table only some units are looked at, and all rows of those: chosen by the hash of the unit, so
that two rows of one unit are seen together or not at all. The first rows, or a sketch of the number of distinct units
with its 2 % of error, would miss a file that was appended twice by one day's rows.
"""

from __future__ import annotations

import duckdb

from flyball.adapters.duckdb_sql import quoted
from flyball.errors import InputError
from flyball.experiments.design.wanted import label

__all__ = ["crossed_units", "refuse_doubles"]

_LOOKED_AT = 1 << 16  # rows whose units are held to be counted; of d doubled units all are missed with (1 - share)^d


def refuse_doubles(connection: duckdb.DuckDBPyConnection, source: str, unit: str, *, rows: int) -> None:
    """Raise InputError where units have several rows.

    Up to 65,536 rows every unit is counted. Above, every unit in 2, 4, 8, ... is, with all its rows: of 10M rows one
    unit in 256, which finds 1,200 doubled units with a chance of 99 %, and 5,000 with all but certainty.

    Args:
        connection: Where the rows are.
        source: What may stand after FROM.
        unit: Column of the unit; rows without one are not looked at.
        rows: About how many rows there are.
    """
    fold = 1 << max(-(-rows // _LOOKED_AT) - 1, 0).bit_length()
    some = f"WHERE hash({quoted(unit)}) < {(1 << 64) // fold}::UBIGINT" if fold > 1 else ""
    sql = f"SELECT count({quoted(unit)}), count(DISTINCT {quoted(unit)}) FROM {source} {some}"
    n, distinct = connection.sql(sql).fetchall()[0]
    if distinct < n:
        looked = "" if fold == 1 else f" (of one unit in {fold})"
        raise InputError(
            f"column {unit!r} has {distinct:,} units in {n:,} rows{looked}; "
            'say rows="events" to total the rows of each unit first'
        )


def crossed_units(connection: duckdb.DuckDBPyConnection, source: str, unit: str, arm: str) -> dict[str, int]:
    """Return how many units of each arm were seen in another one too."""
    who, where = quoted(unit), quoted(arm)
    sql = (f"SELECT {where}, count(DISTINCT {who}) FROM {source} WHERE {who} IN "
           f"(SELECT {who} FROM {source} GROUP BY {who} HAVING min({where}) <> max({where})) "
           f"GROUP BY {where}")  # fmt: skip
    return {label(name): count for name, count in connection.sql(sql).fetchall()}
