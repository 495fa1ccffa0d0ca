"""What a request brings: fields, and features computed from the request itself."""

from __future__ import annotations

from flyball.features.definitions.names import check_zone, checked_name, checked_type
from flyball.features.spec import ColumnType

__all__ = ["Field", "RequestFeature", "day_of_week", "hour_of_day", "ratio"]


class Field:
    """Declare an input of the request: in training the example's column of that name, in serving the request's value.

    Args:
        name: The input's name.
        dtype: int, float, bool, str or datetime; a model's matrix takes numbers and booleans.
        required: Whether a request without it is refused; otherwise it is null.
    """

    def __init__(self, name: str, dtype: type | str, required: bool = True) -> None:
        self.name = checked_name("field", name)
        self.type: ColumnType = checked_type(f"field {name!r}", dtype)
        self.required = required

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.type})"


class RequestFeature:
    """A feature computed from the request; made by `hour_of_day`, `day_of_week` and `ratio`."""

    def __init__(self, name: str, function: str, args: tuple[str, ...], timezone: str | None = None) -> None:
        self.name = checked_name("feature", name)
        self.function = function
        self.args = args
        if timezone is not None:
            check_zone(timezone)
        self.timezone = timezone

    def __repr__(self) -> str:
        return f"{self.function}({', '.join(self.args)})"


def hour_of_day(column: str, *, name: str | None = None, timezone: str | None = None) -> RequestFeature:
    """Declare the local hour, 0 to 23, of a time column; the examples' `at` column means T.

    Args:
        column: The examples' `at` column, or a request input of type datetime.
        name: The feature's name, "hour_of_day" by default.
        timezone: Local to what; the examples' source decides by default.
    """
    return RequestFeature(name or "hour_of_day", "hour_of_day", (column,), timezone)


def day_of_week(column: str, *, name: str | None = None, timezone: str | None = None) -> RequestFeature:
    """Declare the local day of the week, Monday 0 to Sunday 6, of a time column; as `hour_of_day`."""
    return RequestFeature(name or "day_of_week", "day_of_week", (column,), timezone)


def ratio(a: str, b: str, *, name: str) -> RequestFeature:
    """Declare a / b of two numeric inputs; null where b is zero."""
    return RequestFeature(name, "ratio", (a, b))
