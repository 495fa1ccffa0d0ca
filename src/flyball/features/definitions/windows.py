"""Window features: rows of a source folded over a span of time.

The surprise: `count`, `sum`, `min` and `max` here build features; inside this module the builtins are not used.
"""

from __future__ import annotations

from datetime import timedelta

from flyball import units
from flyball.errors import DefinitionError, UnitError
from flyball.features.definitions.names import check_default, checked_name
from flyball.features.kernel.windows import hop_for
from flyball.features.spec import ColumnType, FeatureSpec, Scalar, Stat

__all__ = ["WindowFeature", "count", "max", "mean", "min", "std", "sum"]


class WindowFeature:
    """A window view's feature; made by `count`, `sum`, `mean`, `std`, `min` and `max`."""

    def __init__(self, name: str, stat: Stat, of: str | None, window: str | timedelta, default: Scalar) -> None:
        self.name = checked_name("feature", name)
        try:
            span = units.micros(units.duration(window))
            hop = hop_for(span)
        except (DefinitionError, UnitError) as error:
            raise DefinitionError(f"feature {name!r}: {error}") from error
        kind: ColumnType = "int64" if stat is Stat.COUNT else "float64"
        check_default(name, kind, default)
        self.spec = FeatureSpec(name=name, type=kind, of=of, stat=stat, window=span, hop=hop, default=default)

    def __repr__(self) -> str:
        return f"{self.spec.stat}({self.name!r})"


def count(name: str, *, of: str | None = None, window: str | timedelta, default: Scalar = None) -> WindowFeature:
    """Declare how many rows (or values of `of` that are not null) the window holds; 0 when empty."""
    return WindowFeature(name, Stat.COUNT, of, window, default)


def sum(name: str, *, of: str, window: str | timedelta, default: Scalar = None) -> WindowFeature:  # noqa: A001 the field's standard word
    """Declare the sum over the window; 0 when empty. Whole numbers are exact up to 2**53."""
    return WindowFeature(name, Stat.SUM, of, window, default)


def mean(name: str, *, of: str, window: str | timedelta, default: Scalar = None) -> WindowFeature:
    """Declare the mean over the window; null when empty."""
    return WindowFeature(name, Stat.MEAN, of, window, default)


def std(name: str, *, of: str, window: str | timedelta, default: Scalar = None) -> WindowFeature:
    """Declare the sample standard deviation over the window; null under two values."""
    return WindowFeature(name, Stat.STD, of, window, default)


def min(name: str, *, of: str, window: str | timedelta, default: Scalar = None) -> WindowFeature:  # noqa: A001 the field's standard word
    """Declare the least value in the window; null when empty."""
    return WindowFeature(name, Stat.MIN, of, window, default)


def max(name: str, *, of: str, window: str | timedelta, default: Scalar = None) -> WindowFeature:  # noqa: A001 the field's standard word
    """Declare the greatest value in the window; null when empty."""
    return WindowFeature(name, Stat.MAX, of, window, default)
