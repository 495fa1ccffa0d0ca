"""Data frames as sources: frozen by the digest of their content, and kept as Parquet in the state folder.

The surprise: a frame is written by whoever first needs it and has it, at apply at the latest. Processes that never
import the user's module find the file; those that do import it find the same content under the same digest.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flyball.errors import DefinitionError
from flyball.features import types
from flyball.features.manifest import table_digest, write_sorted
from flyball.features.reading.values import micros, typed
from flyball.features.spec import SourceSpec

__all__ = ["freeze", "keep_frames", "remember_frame"]

_known: dict[str, pa.Table] = {}
_MOST = 64


def remember_frame(name: str, frame: Any) -> tuple[str, pa.Table]:
    """Return the digest and the content of a pandas, polars or Arrow frame, and keep it for `freeze`.

    Raises:
        DefinitionError: it is no frame, or has a column of a type that flyball does not read.
    """
    table = _table(name, frame).replace_schema_metadata(None)
    for field in table.schema:
        if types.from_arrow(field) is None and not pa.types.is_null(field.type):
            raise DefinitionError(f"source {name!r}: column {field.name!r} is {field.type}, which is not read; drop it")
    table = table.take(pa.array(np.arange(table.num_rows)))  # a copy: pandas may share its memory with Arrow
    digest = table_digest(table)
    while len(_known) >= _MOST:
        _known.pop(next(iter(_known)))
    _known[digest] = table
    return digest, table


def freeze(spec: SourceSpec, state: Path) -> bool:
    """Write a frame's content, sorted by its event time, unless it is there; return whether it is there now."""
    path = state / "frames" / f"{spec.path}.parquet"
    if path.exists():
        return True
    table = _known.get(spec.path)
    if table is None:
        return False
    column = table.column(spec.event_time)
    event = micros(typed(column, "timestamp", spec.timezone)) if table.num_rows else np.empty(0, np.int64)
    order = np.argsort(event, kind="stable")
    write_sorted(table.take(pa.array(order)), path, by=(spec.event_time,), event=event)
    return True


def keep_frames(specs: Iterable[SourceSpec], state: Path) -> list[str]:
    """Write every frame among these sources; return the names of those whose content nobody here has."""
    return [s.name for s in specs if s.kind == "frame" and not freeze(s, state)]


def _table(name: str, frame: Any) -> pa.Table:
    from flyball.errors import InputError
    from flyball.features.table import to_requests

    if isinstance(frame, str | Path | list):
        raise DefinitionError(
            f"source {name!r} needs a pandas, polars or Arrow table, got {type(frame).__name__}; for files use "
            "ParquetSource or CSVSource"
        )
    try:
        table = to_requests(frame)
    except InputError as error:
        raise DefinitionError(f"source {name!r}: {error}") from error
    kept = [n for n in table.column_names if not n.startswith("__index_level_")]
    return table.select(kept)
