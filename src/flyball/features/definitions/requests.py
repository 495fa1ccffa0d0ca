"""What a request brings; what is computed from it is in `transforms`."""

from __future__ import annotations

from flyball.features.definitions.names import checked_name, checked_type
from flyball.features.spec import ColumnType

__all__ = ["Field"]


class Field:
    """Declare an input of the request: in training the example's column of that name, in serving the request's value.

    Args:
        name: The input's name.
        dtype: As of a Feature; a model's matrix takes numbers, and a column for each part of a vector.
        required: Whether a request without it is refused; otherwise it is null.
    """

    def __init__(self, name: str, dtype: type | str, required: bool = True) -> None:
        self.name = checked_name("field", name)
        self.type: ColumnType = checked_type(f"field {name!r}", dtype)
        self.required = required

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.type})"
