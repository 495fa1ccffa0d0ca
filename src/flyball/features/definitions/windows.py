"""Window features: rows of a source folded over a span of time, several windows at once, trends.

The surprise: `count`, `sum`, `min` and `max` here build features; inside this module the builtins are not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from flyball import units
from flyball.errors import DefinitionError, UnitError
from flyball.features.definitions.names import check_default, check_expression, checked_name, checked_type
from flyball.features.definitions.transforms import Transform, computed, ratio
from flyball.features.kernel.windows import hop_for
from flyball.features.spec import ColumnType, FeatureAbout, FeatureSpec, Stat
from flyball.features.types import is_vector

__all__ = [
    "WindowFeature", "count", "distinct", "first", "last", "max", "mean", "min", "quantile", "std", "sum", "trend",
    "var", "windows",
]  # fmt: skip

Span = str | timedelta
_NUMBERS = ("float64", "int64")
_ENDS = (*_NUMBERS, "timestamp", "bool")


class WindowFeature:
    """A window view's feature; made by `count`, `sum`, `mean` and their like."""

    def __init__(
        self, name: str, stat: Stat, of: str | None, window: Span, *, kind: ColumnType = "float64",
        where: str | None = None, q: float | None = None, default: Any = None, description: str = "", unit: str = "",
    ) -> None:  # fmt: skip
        self.name = checked_name("feature", name)
        try:
            span = units.micros(units.duration(window))
            hop = hop_for(span)
        except (DefinitionError, UnitError) as error:
            raise DefinitionError(f"feature {name!r}: {error}") from error
        if where is not None:
            check_expression(f"feature {name!r}, where", where)
        plain = check_default(name, kind, default)
        self.spec = FeatureSpec(
            name=name, type=kind, of=of, stat=stat, window=span, hop=hop, default=plain, where=where, q=q,
            about=FeatureAbout(description, unit),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"{self.spec.stat}({self.name!r})"


def count(
    name: str, *, of: str | None = None, window: Span, where: str | None = None, default: Any = None,
    description: str = "", unit: str = "",
) -> WindowFeature:  # fmt: skip
    """Declare how many rows (or values of `of` that are not null) the window holds; 0 when empty.

    Args:
        name: The feature's name.
        of: The source's column, raw or derived; None counts rows.
        window: Its length: at least 48 s, a whole number of its hops.
        where: A condition on source columns; only rows for which it is true (not null) count.
        default: Value where there is none; the status says so all the same.
        description: For people.
        unit: For people.
    """
    return WindowFeature(
        name, Stat.COUNT, of, window, kind="int64", where=where, default=default, description=description, unit=unit
    )


def sum(  # noqa: A001 the field's standard word
    name: str, *, of: str, window: Span, dtype: Any = float, where: str | None = None, default: Any = None,
    description: str = "", unit: str = "",
) -> WindowFeature:  # fmt: skip
    """Declare the sum over the window; 0 when empty. Arguments as for `count`.

    With `dtype=int` it is an exact int64 of an integer column (a value that is no integer counts as null); a total
    that does not fit into 64 bits is null. As float, whole numbers are exact up to 2**53.
    """
    kind = _checked(name, dtype, _NUMBERS)
    return WindowFeature(
        name, Stat.SUM, of, window, kind=kind, where=where, default=default, description=description, unit=unit
    )


def mean(
    name: str, *, of: str, window: Span, dtype: Any = float, where: str | None = None, default: Any = None,
    description: str = "", unit: str = "",
) -> WindowFeature:  # fmt: skip
    """Declare the mean over the window; null when empty. Arguments as for `count`.

    With `dtype=fb.Vector(K)` it is the element-wise mean of a column of vectors, summed in float64.
    """
    kind = checked_type(f"feature {name!r}", dtype)
    if kind != "float64" and not is_vector(kind):
        raise DefinitionError(f"feature {name!r} is a mean of type {kind}; use float, or fb.Vector(K) for vectors")
    return WindowFeature(
        name, Stat.MEAN, of, window, kind=kind, where=where, default=default, description=description, unit=unit
    )


def std(
    name: str, *, of: str, window: Span, where: str | None = None, default: Any = None, description: str = "",
    unit: str = "",
) -> WindowFeature:  # fmt: skip
    """Declare the sample standard deviation over the window; null under two values. Arguments as for `count`."""
    return WindowFeature(name, Stat.STD, of, window, where=where, default=default, description=description, unit=unit)


def var(
    name: str, *, of: str, window: Span, where: str | None = None, default: Any = None, description: str = "",
    unit: str = "",
) -> WindowFeature:  # fmt: skip
    """Declare the sample variance over the window; null under two values. Arguments as for `count`."""
    return WindowFeature(name, Stat.VAR, of, window, where=where, default=default, description=description, unit=unit)


def min(  # noqa: A001 the field's standard word
    name: str, *, of: str, window: Span, dtype: Any = float, where: str | None = None, default: Any = None,
    description: str = "", unit: str = "",
) -> WindowFeature:  # fmt: skip
    """Declare the least value in the window; null when empty. Exact int64 with `dtype=int`; as for `count`."""
    kind = _checked(name, dtype, _NUMBERS)
    return WindowFeature(
        name, Stat.MIN, of, window, kind=kind, where=where, default=default, description=description, unit=unit
    )


def max(  # noqa: A001 the field's standard word
    name: str, *, of: str, window: Span, dtype: Any = float, where: str | None = None, default: Any = None,
    description: str = "", unit: str = "",
) -> WindowFeature:  # fmt: skip
    """Declare the greatest value in the window; null when empty. Exact int64 with `dtype=int`; as for `count`."""
    kind = _checked(name, dtype, _NUMBERS)
    return WindowFeature(
        name, Stat.MAX, of, window, kind=kind, where=where, default=default, description=description, unit=unit
    )


def first(
    name: str, *, of: str, window: Span, dtype: Any = float, where: str | None = None, default: Any = None,
    description: str = "", unit: str = "",
) -> WindowFeature:  # fmt: skip
    """Declare the value of the oldest row in the window by (event, created, sequence) that has one; else null.

    `dtype` is float, int, bool or datetime; arguments as for `count`.
    """
    kind = _checked(name, dtype, _ENDS)
    return WindowFeature(
        name, Stat.FIRST, of, window, kind=kind, where=where, default=default, description=description, unit=unit
    )


def last(
    name: str, *, of: str, window: Span, dtype: Any = float, where: str | None = None, default: Any = None,
    description: str = "", unit: str = "",
) -> WindowFeature:  # fmt: skip
    """Declare the value of the newest row in the window by (event, created, sequence) that has one; as `first`."""
    kind = _checked(name, dtype, _ENDS)
    return WindowFeature(
        name, Stat.LAST, of, window, kind=kind, where=where, default=default, description=description, unit=unit
    )


def distinct(
    name: str, *, of: str, window: Span, where: str | None = None, default: Any = None, description: str = "",
    unit: str = "",
) -> WindowFeature:  # fmt: skip
    """Declare how many different values the window holds; null when empty. Arguments as for `count`.

    Numbers, texts, times and bytes; equal numbers are one value whatever their type, 1 and "1" are two. Exact up to
    255 values, beyond it a HyperLogLog estimate with a standard error of 2.3 %, the same in batch and online.
    """
    return WindowFeature(
        name, Stat.DISTINCT, of, window, kind="int64", where=where, default=default, description=description, unit=unit
    )


def quantile(
    name: str, *, of: str, q: float, window: Span, where: str | None = None, default: Any = None,
    description: str = "", unit: str = "",
) -> WindowFeature:  # fmt: skip
    """Declare the q-quantile (the ceil(q n)-th smallest value) over the window; null when empty. As for `count`.

    History is exact. Online it is exact while a cell holds up to 200 values; beyond that its rank is off by at most
    1.33 % of n with probability 99 % (KLL sketches).

    Args:
        name: The feature's name.
        of: The source's column.
        q: In (0, 1), 0.5 for the median.
        window: Its length.
        where: A condition on source columns.
        default: Value where there is none.
        description: For people.
        unit: For people.
    """
    if isinstance(q, bool) or not isinstance(q, int | float) or not 0 < q < 1:
        raise DefinitionError(f"feature {name!r} asks for the quantile {q!r}; q must lie between 0 and 1, such as 0.95")
    return WindowFeature(
        name, Stat.QUANTILE, of, window, where=where, q=float(q), default=default, description=description, unit=unit
    )


def windows(
    make: Callable[..., WindowFeature], name: str, *, windows: Sequence[Span], **arguments: Any
) -> list[WindowFeature]:
    """Declare one feature per window: `name` and the window's length, such as minutes_1h, minutes_24h.

    Example:
        >>> [f.name for f in windows(mean, "minutes", of="minutes", windows=["1h", "24h", "7d"])]
        ['minutes_1h', 'minutes_24h', 'minutes_7d']

    Args:
        make: Which statistic: `fb.mean`, `fb.count`, `fb.quantile`, ...
        name: What the features' names begin with.
        windows: The windows' lengths, none twice.
        arguments: The others of `make`: `of`, `where`, `default`, ...
    """
    if isinstance(windows, str | timedelta) or not windows:
        raise DefinitionError(
            f"features {name!r} have windows {windows!r}; give a list of lengths, such as ['1h', '7d']"
        )
    return [make(f"{name}_{_suffix(window)}", window=window, **arguments) for window in windows]


def trend(
    name: str, *, of: str, short: Span, long: Span, make: Callable[..., WindowFeature] = mean,
    where: str | None = None, default: Any = None, description: str = "", unit: str = "",
) -> list[WindowFeature | Transform]:  # fmt: skip
    """Declare how the short window's mean compares to the long one's: their ratio.

    It is null where either is, or the long one is 0. The two are features of their own, named after the
    trend: `fb.trend("minutes_trend", of="minutes", short="7d", long="30d")` gives minutes_trend_7d, minutes_trend_30d
    and minutes_trend.

    Args:
        name: The trend's name.
        of: The source's column.
        short: The window above the line.
        long: The window below it, longer than `short`.
        make: Which statistic of both windows, `fb.mean` by default.
        where: A condition on source columns.
        default: Value of the trend where it is null.
        description: For people.
        unit: For people.
    """
    if not units.duration(short) < units.duration(long):
        raise DefinitionError(f"trend {name!r} compares {short} with {long}; the short window must be the shorter one")
    over, under = windows(make, name, windows=[short, long], of=of, where=where)
    share = ratio(over.name, under.name)
    return [over, under, computed(name, share, default=default, description=description, unit=unit)]


def _suffix(window: Span) -> str:
    text = window if isinstance(window, str) else f"{window // timedelta(seconds=1)}s"
    return re.sub(r"\W", "", text)


def _checked(name: str, dtype: Any, allowed: Sequence[str]) -> ColumnType:
    kind = checked_type(f"feature {name!r}", dtype)
    if kind not in allowed:
        words = {"float64": "float", "int64": "int", "timestamp": "datetime", "bool": "bool"}
        raise DefinitionError(f"feature {name!r} has type {kind}; it can be {' or '.join(words[k] for k in allowed)}")
    return kind
