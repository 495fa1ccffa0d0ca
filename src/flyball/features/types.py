"""Column types by name, and what each is in Arrow.

The surprise: a type travels as its name ("int64", "decimal(18,2)", "list<string>", "vector<384>"), because
definitions are JSON; this module is the only one that takes such a name apart.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from flyball.errors import DefinitionError

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import ColumnType

__all__ = ["PLAIN", "decimal_of", "element_of", "is_number", "is_vector", "to_arrow", "vector_size"]

PLAIN = ("int64", "float32", "float64", "bool", "string", "bytes", "timestamp", "date")
_DECIMAL = re.compile(r"decimal\((\d{1,2}),(\d{1,2})\)")
_LIST = re.compile(r"list<(.+)>")
_VECTOR = re.compile(r"vector<([1-9]\d{0,4})>")
_MOST_DIGITS = 38


def is_number(kind: ColumnType) -> bool:
    """Whether a type takes one column of a model's matrix as a number."""
    return kind in {"int64", "float32", "float64", "bool"} or decimal_of(kind) is not None


def is_vector(kind: ColumnType) -> bool:
    """Whether a type is a float32 vector of fixed size."""
    return _VECTOR.fullmatch(kind) is not None


def vector_size(kind: ColumnType) -> int:
    """Return how many matrix columns a type takes: K of a vector<K>, else 1."""
    found = _VECTOR.fullmatch(kind)
    return int(found[1]) if found else 1


def element_of(kind: ColumnType) -> ColumnType | None:
    """Return T of a list<T>, else None."""
    found = _LIST.fullmatch(kind)
    return found[1] if found else None


def decimal_of(kind: ColumnType) -> tuple[int, int] | None:
    """Return (precision, scale) of a decimal, else None."""
    found = _DECIMAL.fullmatch(kind)
    return (int(found[1]), int(found[2])) if found else None


@lru_cache(maxsize=1024)
def to_arrow(kind: ColumnType) -> pa.DataType:
    """Return the Arrow type; a vector is a fixed-size list of float32.

    Raises:
        DefinitionError: there is no such type.
    """
    import pyarrow as pa

    match kind:
        case "int64" | "float32" | "float64" | "string" | "date":
            return {"int64": pa.int64(), "float32": pa.float32(), "float64": pa.float64(), "string": pa.string(),
                    "date": pa.date32()}[kind]  # fmt: skip
        case "bool":
            return pa.bool_()
        case "bytes":
            return pa.binary()
        case "timestamp":
            return pa.timestamp("us", "UTC")
    if (digits := decimal_of(kind)) is not None and 1 <= digits[0] <= _MOST_DIGITS and digits[1] <= digits[0]:
        return pa.decimal128(*digits)
    if is_vector(kind):
        return pa.list_(pa.float32(), vector_size(kind))
    if (element := element_of(kind)) is not None:
        return pa.list_(to_arrow(element))
    raise DefinitionError(
        f"{kind!r} is no type; use {', '.join(PLAIN)}, decimal(P,S) with S <= P <= {_MOST_DIGITS}, list<T> or vector<K>"
    )
