"""The small language of `derive` and `where`: parsed once, compiled to SQL (DuckDB, Spark) and to numpy over Arrow.

    minutes between 1 and 60 and (dropoff_at - pickup_at) / 1h < 2

Names, numbers, strings 'x', true, false, durations (1m, 24h), time('2020-01-31T12:00:00Z'), + - * / // %, comparisons,
[not] between, [not] in (...), is [not] null, and, or, not, parentheses, and functions: lower upper length trim
substr(s, start, n) concat starts_with ends_with contains replace coalesce if(c, a, b) abs floor ceil round.

Nulls follow SQL's three values. int / int is a float; // and % round towards zero, so % has the sign of its left side;
x / 0, x // 0, x % 0 and an integer beyond 64 bits are null. A time less a time is a duration; a duration over a
duration is a float. float32 and decimals compute as float64, a date is its UTC midnight. `functions` says what is
narrower than in SQL.

The surprise: as in SQL's databases, NaN equals itself and is greater than any number. Write `x <= 50` and a NaN
does not pass, `x > 0` and it does.
"""

from __future__ import annotations

from flyball.features.expressions.arrays import arrow_type, evaluate
from flyball.features.expressions.parser import parse
from flyball.features.expressions.sql import to_sql
from flyball.features.expressions.tree import Expr, ExprType, Types, columns
from flyball.features.expressions.types import type_of

__all__ = ["Expr", "ExprType", "Types", "arrow_type", "columns", "evaluate", "parse", "to_sql", "type_of"]
