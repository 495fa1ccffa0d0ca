"""The small language of `derive` and `where`: parsed once, compiled to DuckDB SQL and to numpy over Arrow.

    minutes between 1 and 60 and (dropoff_at - pickup_at) / 1h < 2

Names, numbers, strings 'x', true, false, durations (1m, 24h), + - * / %, comparisons, [not] between, [not] in (...),
is [not] null, and, or, not, parentheses. Nulls follow SQL's three values. int / int is a float; x / 0, x % 0 and an
integer beyond 64 bits are null. A time less a time is a duration; a duration over a duration is a float.

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
