"""Column types by name, and what each is in Arrow.

The surprise: a type travels as its name ("int64", "decimal(18,2)", "list<string>", "vector<384>"), because
definitions are JSON; this module is the only one that takes such a name apart. What its values are is in `values`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from flyball.errors import DefinitionError

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import ColumnType

__all__ = [
    "KEYS", "PLAIN", "canonical", "decimal_of", "element_of", "from_arrow", "is_matrix", "is_number", "is_vector",
    "to_arrow", "vector_size",
]  # fmt: skip

PLAIN = ("int64", "float32", "float64", "bool", "string", "bytes", "timestamp", "date")
KEYS = frozenset({"int64", "string", "bool", "bytes", "timestamp", "date"})
"""Types that an entity's key may have: those of which two values are the same or not, without rounding."""
_DECIMAL = re.compile(r"decimal\((\d{1,2}),(\d{1,2})\)")
_LIST = re.compile(r"list<(.+)>")
_VECTOR = re.compile(r"vector<([1-9]\d{0,4})>")
_MOST_DIGITS = 38


def canonical(name: str) -> ColumnType | None:
    """Return a type's name as it is written here ("decimal(18, 2)" is "decimal(18,2)"), None when there is no such."""
    kind = re.sub(r"\s+", "", name)
    if kind in PLAIN or is_vector(kind):
        return kind
    if (digits := decimal_of(kind)) is not None:
        return (
            f"decimal({digits[0]},{digits[1]})" if 1 <= digits[0] <= _MOST_DIGITS and digits[1] <= digits[0] else None
        )
    element = element_of(kind)
    inner = None if element is None else canonical(element)
    return None if inner is None else f"list<{inner}>"


def is_number(kind: ColumnType) -> bool:
    """Whether a type takes one column of a model's matrix as a number."""
    return kind in {"int64", "float32", "float64", "bool"} or decimal_of(kind) is not None


def is_matrix(kind: ColumnType) -> bool:
    """Whether a type may stand in a model's matrix: numbers, and vectors (a column for each part)."""
    return is_number(kind) or is_vector(kind)


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


def from_arrow(field: pa.Field | pa.DataType) -> ColumnType | None:
    """Return the type that an Arrow field or type is read as, None for those that flyball does not read.

    Integers of any width are int64, half floats float32, texts of any layout string, timestamps and dates of any unit
    timestamp and date; a dictionary is what it encodes; a fixed-size list of floats is a vector.
    """
    import pyarrow as pa

    kind = field.type if isinstance(field, pa.Field) else field
    is_ = pa.types
    if is_.is_dictionary(kind):
        return from_arrow(kind.value_type)
    if is_.is_fixed_size_list(kind) and is_.is_floating(kind.value_type) and kind.list_size > 0:
        return f"vector<{kind.list_size}>"
    if is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind) or is_.is_list_view(kind):
        element = from_arrow(kind.value_type)
        return None if element is None else f"list<{element}>"
    if is_.is_decimal(kind):
        fits = kind.precision <= _MOST_DIGITS and 0 <= kind.scale <= kind.precision
        return f"decimal({kind.precision},{kind.scale})" if fits else None
    tests = (
        (is_.is_integer, "int64"), (is_.is_float64, "float64"), (is_.is_floating, "float32"), (is_.is_boolean, "bool"),
        (is_.is_string, "string"), (is_.is_large_string, "string"), (is_.is_string_view, "string"),
        (is_.is_binary, "bytes"), (is_.is_large_binary, "bytes"), (is_.is_fixed_size_binary, "bytes"),
        (is_.is_binary_view, "bytes"), (is_.is_timestamp, "timestamp"), (is_.is_date, "date"),
    )  # fmt: skip
    return next((name for test, name in tests if test(kind)), None)
