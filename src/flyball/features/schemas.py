"""Pandera schemas as data checks: kept by digest like functions, and asked which rows they refuse.

The surprise: pandera judges pandas dtypes, where an integer column with a null is a float one. Types that mean the
same here are not held against a column; its nulls are what `nullable` says of them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flyball.errors import CheckFailed, DefinitionError, MissingExtra, UnknownName
from flyball.features.callables import bring
from flyball.features.spec import CodeRef

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["known_schema", "remember_schema", "schema_mask"]

_KNOWN: dict[CodeRef, Any] = {}
_KINDS = {"int": "i", "Int": "i", "uint": "i", "UInt": "i", "float": "f", "Float": "f", "bool": "b", "boolean": "b",
          "str": "s", "object": "s", "string": "s", "datetime": "t", "DatetimeTZDtype": "t"}  # fmt: skip


def remember_schema(schema: Any, *, rows: bool = False) -> tuple[CodeRef, tuple[str, ...]]:
    """Keep a DataFrameSchema, or a DataFrameModel's, and return its name, digest and columns.

    With `rows` it must judge each row by itself, so nothing in it may be unique.

    Raises:
        MissingExtra: pandera is not installed.
        DefinitionError: this is no schema, or one without columns.
    """
    try:
        import pandera.pandas as pandera
    except ImportError as error:
        raise MissingExtra.of("a pandera data check", "pandera") from error
    made = schema.to_schema() if hasattr(schema, "to_schema") else schema
    if not isinstance(made, pandera.DataFrameSchema):
        raise DefinitionError(f"check.pandera({schema!r:.60}): give a DataFrameSchema or a DataFrameModel of pandera")
    if not made.columns:
        raise DefinitionError("check.pandera: the schema names no columns; add those that it judges")
    if any(getattr(c, "regex", False) for c in made.columns.values()):
        raise DefinitionError("check.pandera: a schema with regex columns cannot be pinned; name the columns")
    if rows and (made.unique or any(c.unique for c in made.columns.values())):
        raise DefinitionError(
            "check.pandera: a schema with unique columns judges rows by other rows, so it cannot quarantine; "
            'use policy "stop" or "warn", or event_id= on the source'
        )
    ref = CodeRef(str(made.name or "schema"), _digest(made))
    _KNOWN[ref] = made
    return ref, tuple(made.columns)


def known_schema(ref: CodeRef) -> Any:
    """Return a schema that was remembered when the definitions were imported.

    Raises:
        UnknownName: this process imported no definitions that declare it.
    """
    if ref not in _KNOWN:
        bring(ref)
    if ref not in _KNOWN:
        raise UnknownName.of("pandera schema in the imported definitions", ref.name, [r.name for r in _KNOWN])
    return _KNOWN[ref]


def schema_mask(schema: Any, name: str, table: pa.Table, columns: tuple[str, ...]) -> npt.NDArray[np.bool_] | bool:
    """Return which rows the schema accepts, or False when it refuses the table without naming rows."""
    import pandera.pandas as pandera

    have = [c for c in columns if c in table.column_names]
    frame = table.select(have).to_pandas(types_mapper=None, coerce_temporal_nanoseconds=True)
    good = np.ones(table.num_rows, bool)
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
    except Exception as error:
        raise CheckFailed(f"pandera schema {name!r} raised {type(error).__name__}: {error}") from error
    else:
        return good
    for case in cases.to_dict("records"):
        if _is_same_kind(case, schema, table):
            continue
        row = case.get("index")
        if row is None or row != row:  # noqa: PLR0124 NaN
            return False
        good[int(row)] = False
    return good


def _is_same_kind(case: dict[str, Any], schema: Any, table: pa.Table) -> bool:
    """Whether this failure is a dtype that pandas changed, not the data."""
    column = case.get("column")
    if not str(case.get("check", "")).startswith("dtype(") or column not in table.column_names:
        return False
    declared = str(schema.columns[column].dtype)
    kind = next((k for prefix, k in _KINDS.items() if declared.startswith(prefix)), "")
    return kind != "" and kind == _kind(table.schema.field(column).type)


def _kind(found: pa.DataType) -> str:
    import pyarrow as pa

    tests = {"i": pa.types.is_integer, "f": pa.types.is_floating, "b": pa.types.is_boolean, "t": pa.types.is_timestamp,
             "s": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t)}  # fmt: skip
    return next((k for k, test in tests.items() if test(found)), "")


def _digest(schema: Any) -> str:
    """Return a digest of all that the schema says, and of the source of its own functions."""
    import inspect

    parts = [repr(schema)]
    for owner in [schema, *schema.columns.values()]:
        for one in getattr(owner, "checks", []):
            fn = getattr(one, "_check_fn", None)
            parts.append(f"{one!r} {getattr(one, 'statistics', None)!r}")
            try:
                parts.append(inspect.getsource(fn) if fn is not None else "")
            except (OSError, TypeError):
                parts.append(getattr(fn, "__qualname__", ""))
        parts.append(repr([getattr(owner, n, None) for n in ("nullable", "unique", "required", "strict", "coerce")]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
