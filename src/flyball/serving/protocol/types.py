"""What requests are made of: the datatypes of V2 inference, what a model takes, and a request once it is validated.

The surprise: `Signature` is a dictionary of inputs, because the look-up of a name is what a request does most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from flyball.errors import BadRequest, nearest
from flyball.features.spec import ColumnType, InputSpec
from flyball.features.types import is_vector, vector_size

__all__ = ["ACCEPTED", "MALFORMED", "PREFERRED", "PYTHON", "RANGES", "REALS", "ByType", "Call", "Columns", "Range",
           "Scalar", "Signature", "Wanted", "datatype_of", "shape_of", "unknown_input"]  # fmt: skip

Columns = dict[str, list[Any]]
Scalar = str | int | float | bool
Range = tuple[int, int] | tuple[float, float]
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what decoding a body of a stranger may raise
REALS = frozenset({"float64", "float32"})
RANGES: dict[str, tuple[int, int]] = {
    **{f"INT{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)},
}
_FP32 = 3.4028235677973366e38  # what rounds to the largest float32
_FP16 = 65519.996
_FLOATS: dict[str, Range | None] = {"FP64": None, "FP32": (-_FP32, _FP32), "FP16": (-_FP16, _FP16)}


class ByType(dict[ColumnType, Any]):
    """What holds of a type, also of those with parameters: decimal(18,2), vector<384>, list<int64>."""

    def __missing__(self, kind: ColumnType) -> Any:
        self[kind] = self[kind.partition("(")[0].partition("<")[0]]
        return self[kind]


ACCEPTED: ByType = ByType({
    "int64": {**RANGES, "INT64": None},  # its own check says more
    "float64": _FLOATS | RANGES,
    "float32": _FLOATS | RANGES,
    "bool": {"BOOL": None},
    "string": {"BYTES": None},
    "bytes": {"BYTES": None},
    "date": {"BYTES": None},
    "timestamp": {"BYTES": None, "INT64": None},
    "decimal": {"BYTES": None} | RANGES,
    "vector": _FLOATS | RANGES,
    "list": {},
})  # fmt: skip
"""Datatypes that a column takes, and the range that values must keep for their sake."""
PREFERRED: ByType = ByType({
    "int64": "INT64", "float64": "FP64", "float32": "FP32", "bool": "BOOL", "string": "BYTES", "timestamp": "BYTES",
    "bytes": "BYTES", "date": "BYTES", "decimal": "BYTES", "vector": "FP32", "list": "JSON",
})  # fmt: skip
PYTHON: ByType = ByType({
    "int64": frozenset({int}),
    "float64": frozenset({float, int}),
    "float32": frozenset({float, int}),
    "bool": frozenset({bool}),
    "string": frozenset({str}),
    "bytes": frozenset({str, bytes}),
    "date": frozenset({str}),
    "timestamp": frozenset({str, int}),
    "decimal": frozenset({str, int}),
    "vector": frozenset({list}),
    "list": frozenset({list}),
})  # fmt: skip
_LONE: dict[ColumnType, tuple[str, type]] = {
    "float64": ("FP64", float), "int64": ("INT64", int), "bool": ("BOOL", bool), "string": ("BYTES", str),
}  # fmt: skip
_NUMBERS = frozenset({"float64", "float32", "int64", "bool"})


class Signature(dict[str, InputSpec]):
    """A model's inputs by name, and what else a request is checked against.

    `columns` are the inputs that one tensor of shape [n, k] may carry together, in order; none when the model reads
    more than numeric fields. `plain` says that they all are float64. `lone` are (datatype, Python type) of inputs whose
    single value needs no conversion. `classes` are a classifier's, `width` the numbers per row of other answers that
    have several, `max_rows` the model's own limit (0: the server's).
    """

    __slots__ = ("classes", "columns", "lone", "max_rows", "plain", "width")
    columns: tuple[str, ...]
    classes: tuple[Scalar, ...] | None
    lone: dict[str, tuple[str, type]]
    max_rows: int
    plain: bool
    width: int | None

    @classmethod
    def of(
        cls,
        inputs: Iterable[InputSpec],
        *,
        fields: Iterable[str] = (),
        classes: tuple[Scalar, ...] | None = None,
        width: int | None = None,
        max_rows: int = 0,
    ) -> Self:
        """Return the signature; `fields` are the model's own inputs when all it reads is in the request."""
        made = cls((spec.name, spec) for spec in inputs)
        names = tuple(fields)
        made.columns = names if all(made[name].type in _NUMBERS for name in names) else ()
        made.plain = all(made[name].type == "float64" for name in made.columns)
        made.lone = {name: _LONE[spec.type] for name, spec in made.items() if spec.type in _LONE}
        made.classes, made.width, made.max_rows = classes, width, max_rows
        return made

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors of an answer."""
        return ("prediction",) if self.classes is None else ("prediction", "probabilities")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which outputs a caller asked for, in order, and which of them as binary data."""

    names: tuple[str, ...]
    binary: frozenset[str] = frozenset()


@dataclass(slots=True)
class Call:
    """A validated request: `n` rows as columns; `units` is one for all rows, one per row, or None.

    `flat` holds the same numbers row by row when they came as one tensor of shape [n, k], a list or a float64 array.
    `wanted` is None for all outputs as JSON. `single` says that the body was one row and no list.
    """

    columns: Columns
    n: int
    id: str = ""
    units: str | list[str] | None = None
    attributes: dict[str, Any] | list[dict[str, Any]] | None = None
    flat: Any = None
    wanted: Wanted | None = None
    single: bool = False
    wish: str = ""  # the arm a tester asked for
    within: float | None = None  # seconds the caller still waits, when it said so
    pid: str = ""  # the prediction id of a request with an Idempotency-Key


def unknown_input(name: str, inputs: dict[str, InputSpec]) -> BadRequest:
    """Return the error about a name that is no input."""
    close = nearest(name, inputs)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(inputs)) or 'none'}."
    return BadRequest(f"the model has no input named {name!r:.200}; {hint}")


def shape_of(spec: InputSpec) -> list[int]:
    """Return an input's shape as the metadata says it, -1 for the rows."""
    return [-1, vector_size(spec.type)] if is_vector(spec.type) else [-1]


def datatype_of(classes: tuple[Scalar, ...]) -> str:
    """Return the datatype of a classifier's predictions."""
    types = set(map(type, classes))
    if types == {bool}:
        return "BOOL"
    if types == {int}:
        return "INT64"
    return "FP64" if types <= {int, float} else "BYTES"
