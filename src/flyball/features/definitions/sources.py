"""Sources: where rows come from and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from flyball import units
from flyball.errors import DefinitionError
from flyball.features.definitions.names import check_expression, check_zone, checked_name
from flyball.features.spec import SourceSpec

__all__ = ["ParquetSource"]


class ParquetSource:
    """Declare where rows come from: Parquet files, and what is pushed to the source by its name.

    Args:
        name: The source's name, part of URLs.
        path: File or glob, relative to the project's root.
        event_time: Column that says when a row happened.
        created_time: Column that says when the source learned of it, if there is one.
        timezone: What times without an offset are local to. A missing local hour moves forward, a doubled one takes
            the first.
        derive: New column -> expression over raw and earlier derived columns.
        where: Condition; rows for which it is not true are dropped and counted.
        delay: How long after the event a row of the files was known, where there is no `created_time`.
    """

    def __init__(
        self,
        name: str,
        path: str,
        *,
        event_time: str,
        created_time: str | None = None,
        timezone: str = "UTC",
        derive: Mapping[str, str] | None = None,
        where: str | None = None,
        delay: str | timedelta = "0s",
    ) -> None:
        self.name = checked_name("source", name)
        if not path:
            raise DefinitionError(f"source {name!r} has no path; name its files, such as data/{name}/*.parquet")
        check_zone(timezone)
        for column, text in (derive or {}).items():
            check_expression(f"derive {column!r} of source {name!r}", text)
            checked_name("derived column", column)
        if where is not None:
            check_expression(f"where of source {name!r}", where)
        self.spec = SourceSpec(
            name=name,
            path=str(path),
            event_time=event_time,
            created_time=created_time,
            timezone=timezone,
            derive=tuple((derive or {}).items()),
            where=where,
            delay=units.micros(units.duration(delay)),
        )

    def __repr__(self) -> str:
        return f"ParquetSource({self.name!r}, {self.spec.path!r})"
