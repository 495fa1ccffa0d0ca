"""POST /v1/features/online and /v1/features/history: values of features as JSON, for those whose role may read them.

The surprise: null in a value is told apart by its status, and what JSON has no number for is text: "NaN", "Infinity",
"-Infinity".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.errors import BadRequest, DefinitionError, InputError
from flyball.features.spec import Join, Status

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import ViewSpec
    from flyball.project import Project

__all__ = ["MAX_BODY", "READS", "HistoryBody", "OnlineBody", "answer_history", "answer_online", "views_read"]

MAX_BODY = 8_000_000
READS = frozenset({"/v1/features/online", "/v1/features/history"})
_MAX_ROWS = 10_000
_MAX_NAMES = 1_000
_STATUS = tuple(s.name for s in Status)


class OnlineBody(msgspec.Struct, forbid_unknown_fields=True):
    """What `online` is asked: names of views, features ("view:feature") or services, and an object of keys per row."""

    names: list[str]
    rows: list[dict[str, Any]]
    at: datetime | None = None


class HistoryBody(msgspec.Struct, forbid_unknown_fields=True):
    """What `history` is asked: an object per request, with the keys and the time column that `at` names."""

    names: list[str]
    requests: list[dict[str, Any]]
    at: str
    join: Join = "as_known"


def views_read(project: Project, names: Sequence[str]) -> list[str]:
    """Return the views that names stand for, services too.

    Raises:
        BadRequest: there are none, or too many.
        UnknownName: there is no such view, feature or service.
    """
    if not 0 < len(names) <= _MAX_NAMES:
        raise BadRequest(f"{len(names)} names are asked for; name 1 to {_MAX_NAMES} views, features or services")
    return list(dict.fromkeys(name.partition(":")[0] for name in project.applied.selected(names)))


def answer_online(project: Project, body: OnlineBody) -> dict[str, Any]:
    """Return {"names", "types", "values", "statuses"}; values and statuses are lists of rows."""
    _check_rows(body.rows, "rows")
    at = None if body.at is None else _aware(body.at)
    found = project.features.online(body.rows, body.names, at=at)
    columns = [_plain(kind, values) for kind, values in zip(found.types, found.columns, strict=True)]
    return {
        "names": found.names,
        "types": found.types,
        "values": list(zip(*columns, strict=True)),
        "statuses": [[_STATUS[code] for code in row] for row in found.codes.tolist()],
    }


def answer_history(project: Project, body: HistoryBody) -> dict[str, Any]:
    """Return what online would have answered to past requests, in the form of `answer_online`."""
    from flyball.features.types import from_arrow

    _check_rows(body.requests, "requests")
    views = [project.applied.view(name).spec for name in views_read(project, body.names)]
    try:
        found = project.features.history(_typed(body, views), body.names, at=body.at, join=body.join)
    except DefinitionError as error:  # a feature has the name of a key or of the time that was asked for
        raise BadRequest(str(error)) from error
    table, statuses = found.to_arrow(), found.status()
    kinds = [from_arrow(table.schema.field(name).type) or "string" for name in found.names]
    columns = [_plain(kind, table.column(n).to_pylist()) for kind, n in zip(kinds, found.names, strict=True)]
    codes = [[_STATUS[code] for code in statuses[name].tolist()] for name in found.names]
    return {
        "names": found.names,
        "types": kinds,
        "values": list(zip(*columns, strict=True)),
        "statuses": list(zip(*codes, strict=True)),
    }


def _check_rows(rows: Sequence[Mapping[str, Any]], what: str) -> None:
    if not rows:
        raise BadRequest(f"{what} is empty; send at least one object")
    if len(rows) > _MAX_ROWS:
        raise BadRequest(f"{len(rows):,} {what} are more than {_MAX_ROWS:,}; send them in several calls", 413)


def _typed(body: HistoryBody, views: Sequence[ViewSpec]) -> pa.Table:
    """Return keys and times of the requests as typed columns; whatever else they hold is not needed."""
    import pyarrow as pa

    from flyball.features.types import to_arrow
    from flyball.features.values import exact

    kinds = {key.name: key.type for view in views for key in view.entity.keys} | {body.at: "timestamp"}
    columns = {}
    for name, kind in kinds.items():
        values = []
        for place, row in enumerate(body.requests):
            if name not in row:
                raise InputError(f"request {place} has no {name!r}; each needs {', '.join(kinds)}")
            values.append(exact(kind, row[name], f"{name!r} of request {place}"))
        columns[name] = pa.array(values, to_arrow(kind))
    return pa.table(columns)


def _plain(kind: str, values: Sequence[Any]) -> list[Any]:
    from flyball.features.values import to_plain

    return [_finite(to_plain(kind, value)) for value in values]


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
