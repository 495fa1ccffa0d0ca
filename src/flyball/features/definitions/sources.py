"""Sources: where rows come from and how they are read.

The surprise: every source takes pushes by its name, whatever else it reads; `PushSource` is one with nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flyball import units
from flyball.errors import DefinitionError
from flyball.features import types
from flyball.features.definitions.names import check_expression, check_zone, checked_name, checked_type
from flyball.features.spec import About, ColumnSpec, SourceKind, SourceSpec, TransformSpec

if TYPE_CHECKING:
    from flyball.features.definitions.checks import Check
    from flyball.features.definitions.transforms import Transform

__all__ = [
    "CSVSource", "DataFrameSource", "ParquetSource", "PushSource", "SQLSource", "Source", "StreamSource", "TableSource",
]  # fmt: skip

Schema = Mapping[str, Any]
Derive = Mapping[str, "str | Transform"]
_OPTIONS = {
    "kafka": ({"brokers", "topic"}, {"group", "format"}),
    "redis": ({"url", "stream"}, {"group", "consumer", "idle"}),
}


class Source:
    """What all sources share; make one of its kinds.

    Args:
        name: The source's name, part of URLs.
        event_time: Column that says when a row happened.
        created_time: Column that says when the source learned of it, if there is one.
        timezone: What times without an offset are local to. A missing local hour moves forward, a doubled one takes
            the first.
        strict: Refuse times without an offset instead.
        derive: New column -> expression, or transformation such as `fb.bucket(...)`, over raw and earlier derived
            columns.
        where: Condition; rows for which it is not true are dropped and counted.
        delay: How long after the event a row was known, where there is no `created_time` and it was not pushed.
        schema: Raw column -> type (int, float, bool, str, bytes, datetime, date, fb.Vector(8), ...). Types that files
            tell are held to it.
        event_id: Column that names an event; a push whose id was seen is not applied again.
        checks: Data checks (`fb.check`); those with the policy "quarantine" leave rows out, here and at ingest.
        owner: Who answers for it.
        description: What it holds, for people.
        tags: Words to find it by.

    Raises:
        DefinitionError: a name, type, expression, time zone, duration or check makes no sense.
    """

    kind: SourceKind

    def __init__(
        self,
        name: str,
        path: str,
        *,
        event_time: str,
        created_time: str | None = None,
        timezone: str = "UTC",
        strict: bool = False,
        derive: Derive | None = None,
        where: str | None = None,
        delay: str | timedelta = "0s",
        schema: Schema | None = None,
        event_id: str | None = None,
        checks: Sequence[Check] = (),
        owner: str = "",
        description: str = "",
        tags: Sequence[str] = (),
        database: str | None = None,
        stream: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.name = checked_name("source", name)
        check_zone(timezone)
        if where is not None:
            check_expression(f"where of source {name!r}", where)
        self.spec = SourceSpec(
            name=name,
            path=path,
            event_time=event_time,
            created_time=created_time,
            timezone=timezone,
            derive=tuple((column, _step(name, column, how, timezone)) for column, how in (derive or {}).items()),
            where=where,
            delay=units.micros(units.duration(delay)),
            kind=self.kind,
            database=database,
            schema=_schema(name, schema, event_time, created_time, event_id),
            event_id=event_id,
            stream=stream,
            checks=_checks(name, checks),
            strict=strict,
            about=About(owner=owner, description=description, tags=tuple(tags)),
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class _FileSource(Source):
    def __init__(self, name: str, path: str | Path | Sequence[str | Path], *, event_time: str, **settings: Any) -> None:
        if not path:
            raise DefinitionError(f"source {name!r} has no path; name its files, such as data/{name}/*.{self.kind}")
        listed = [path] if isinstance(path, str | Path) else list(path)
        if any("\n" in str(one) or not str(one) for one in listed):
            raise DefinitionError(f"source {name!r} has a path that is empty or holds a line break: {listed!r:.80}")
        super().__init__(name, "\n".join(str(one) for one in listed), event_time=event_time, **settings)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.spec.path!r})"


class ParquetSource(_FileSource):
    """Declare Parquet files as a source, and what is pushed to it by its name.

    Args:
        name: The source's name, part of URLs.
        path: A file, folder or glob relative to the project's root, an address that fsspec knows
            ("s3://bucket/trips/*.parquet"), or several of these. Rows are ordered by file name, then by place in the
            file, where event and created time are equal.
        event_time: Column that says when a row happened.
        settings: As for `Source`.
    """

    kind = "parquet"


class CSVSource(_FileSource):
    """Declare CSV files as a source.

    Types are those of `schema`; of other columns they are sniffed in the first file when it is first read (at apply)
    and pinned then, so that a later file cannot change them: a value of another type is an error that names file, line
    and column. Bytes are base64 text.

    Args:
        name: The source's name, part of URLs.
        path: As for `ParquetSource`.
        event_time: Column that says when a row happened, ISO text or a date.
        settings: As for `Source`.
    """

    kind = "csv"

    def __init__(self, name: str, path: str | Path | Sequence[str | Path], *, event_time: str, **settings: Any) -> None:
        super().__init__(name, path, event_time=event_time, **settings)
        for column in self.spec.schema:
            if types.is_vector(column.type) or types.element_of(column.type) is not None:
                raise DefinitionError(
                    f"source {name!r}: CSV column {column.name!r} cannot be a {column.type}; store lists as Parquet"
                )


class TableSource(Source):
    """Declare a table that DuckDB can read as a source.

    Rows have no order of their own: where event and created time are equal, the content of all columns decides.

    Args:
        name: The source's name, part of URLs.
        database: A DuckDB file relative to the project's root, or an address that DuckDB can ATTACH ("postgres:...",
            "sqlite:shop.db"); its extension must be installed. Opened read-only.
        table: The table's name, the source's own by default; "schema.table" names one in a schema.
        event_time: Column that says when a row happened.
        settings: As for `Source`.
    """

    kind = "table"

    def __init__(
        self, name: str, *, database: str | Path, table: str | None = None, event_time: str, **settings: Any
    ) -> None:
        if not str(database):
            raise DefinitionError(f"source {name!r} has no database; name a DuckDB file or what DuckDB can attach")
        super().__init__(name, table or name, event_time=event_time, database=str(database), **settings)


class SQLSource(Source):
    """Declare the answer of a query in DuckDB's SQL as a source.

    The query may read files relative to the project's root, and what DuckDB's extensions read. It runs in UTC. Rows
    have no order of their own: where event and created time are equal, the content of all columns decides.

    Args:
        name: The source's name, part of URLs.
        query: One SELECT.
        database: A database that its tables are in, if any; as for `TableSource`.
        event_time: Column that says when a row happened.
        settings: As for `Source`.
    """

    kind = "query"

    def __init__(
        self, name: str, query: str, *, database: str | Path | None = None, event_time: str, **settings: Any
    ) -> None:
        if not query.strip():
            raise DefinitionError(f"source {name!r} has an empty query; write one SELECT")
        super().__init__(
            name, query, event_time=event_time, database=None if database is None else str(database), **settings
        )


class DataFrameSource(Source):
    """Declare a pandas, polars or Arrow table as a source, frozen as it is now.

    Its content is kept in the state folder at apply, under the digest of its content: another content is another
    definition, whose views are built anew.

    Args:
        name: The source's name, part of URLs.
        frame: The table. An index is dropped.
        event_time: Column that says when a row happened.
        settings: As for `Source`.
    """

    kind = "frame"

    def __init__(self, name: str, frame: Any, *, event_time: str, **settings: Any) -> None:
        from flyball.features.frames import remember_frame

        digest, table = remember_frame(name, frame)
        if event_time not in table.column_names:
            from flyball.errors import UnknownName

            raise DefinitionError(
                f"source {name!r}: event_time: {UnknownName.of('column', event_time, table.column_names)}"
            )
        super().__init__(name, digest, event_time=event_time, **settings)


class PushSource(Source):
    """Declare a source that only takes pushes: `p.features.push(...)` and `POST /v1/sources/NAME/events`.

    Args:
        name: The source's name, part of URLs.
        schema: Column -> type, the event time's included or taken as datetime.
        event_time: Column that says when a row happened.
        settings: As for `Source`.
    """

    kind = "push"

    def __init__(self, name: str, *, schema: Schema, event_time: str, **settings: Any) -> None:
        if not schema:
            raise DefinitionError(
                f"source {name!r} has an empty schema; list its columns, such as schema={{'user': int}}"
            )
        super().__init__(name, "", event_time=event_time, schema=schema, **settings)


class StreamSource(Source):
    """Declare a stream of events as a source; `flyball up` reads it.

    Args:
        name: The source's name, part of URLs.
        connector: "kafka" (brokers=, topic=, group=) or "redis" (url=, stream=, group=): a Redis stream's group.
        schema: Column -> type of a message, one JSON object each.
        event_time: Column that says when a row happened.
        options: The connector's. `brokers` and `url` may be references ("env:KAFKA_BROKERS", "file:PATH"), so that no
            secret stands in the definitions; any other option of Kafka's client goes to it as it is.
        settings: As for `Source`.
    """

    kind = "stream"

    def __init__(
        self,
        name: str,
        connector: Literal["kafka", "redis"],
        *,
        schema: Schema,
        event_time: str,
        options: Mapping[str, str] | None = None,
        brokers: str | None = None,
        topic: str | None = None,
        url: str | None = None,
        stream: str | None = None,
        group: str = "flyball",
        **settings: Any,
    ) -> None:
        if connector not in _OPTIONS:
            raise DefinitionError(f"stream source {name!r} has the connector {connector!r}; use kafka or redis")
        if not schema:
            raise DefinitionError(f"source {name!r} has an empty schema; list the columns of its messages")
        given = {"brokers": brokers, "topic": topic, "url": url, "stream": stream, "group": group}
        chosen = {k: str(v) for k, v in {**given, **(options or {})}.items() if v is not None}
        must, may = _OPTIONS[connector]
        if missing := sorted(must - chosen.keys()):
            raise DefinitionError(f"stream source {name!r} lacks {', '.join(f'{m}=' for m in missing)} of {connector}")
        if unknown := sorted(chosen.keys() - must - may - (set(options or {}) if connector == "kafka" else set())):
            raise DefinitionError(f"stream source {name!r}: {connector} knows no {', '.join(unknown)}")
        if connector == "kafka" and chosen.setdefault("format", "json") != "json":
            raise DefinitionError(f"stream source {name!r} has the format {chosen['format']!r}; messages are json")
        _no_password(name, chosen)
        pairs = (("connector", connector), *sorted(chosen.items()))
        super().__init__(name, "", event_time=event_time, schema=schema, stream=pairs, **settings)


def _step(source: str, column: str, how: str | Transform, timezone: str) -> str | TransformSpec:
    checked_name("derived column", column)
    if isinstance(how, str):
        check_expression(f"derive {column!r} of source {source!r}", how)
        return how
    bound = getattr(how, "bound", None)
    if bound is None:
        raise DefinitionError(
            f"derive {column!r} of source {source!r} is {how!r:.60}; give an expression or a transformation"
        )
    made: TransformSpec = bound(timezone)
    return made


def _schema(
    source: str, given: Schema | None, event_time: str, created_time: str | None, event_id: str | None
) -> tuple[ColumnSpec, ...]:
    """Return declared columns; times are timestamps and an event id is text where nothing else is said."""
    if not given:
        return ()
    columns = {str(n): checked_type(f"column {n!r} of source {source!r}", kind) for n, kind in given.items()}
    for name in (event_time, created_time):
        if name is not None and columns.setdefault(name, "timestamp") != "timestamp":
            raise DefinitionError(f"source {source!r}: time column {name!r} is declared {columns[name]}; use datetime")
    if event_id is not None:
        columns.setdefault(event_id, "string")
    reserved = next((n for n in columns if n.startswith("__")), None)
    if reserved is not None:
        raise DefinitionError(f"source {source!r} declares a column {reserved!r}; such names are flyball's own")
    return tuple(ColumnSpec(n, k) for n, k in columns.items())


def _checks(source: str, given: Sequence[Check]) -> Any:
    if not given:
        return ()
    from flyball.features.definitions.checks import check_specs

    return check_specs(f"source {source!r}", given)


def _no_password(source: str, options: Mapping[str, str]) -> None:
    """Refuse secrets written out: definitions are kept in snapshots and shown to people."""
    for option, value in options.items():
        literal = not value.startswith(("env:", "file:"))
        if literal and ("password" in option or "secret" in option or (option == "url" and "@" in value)):
            raise DefinitionError(
                f"stream source {source!r} holds a literal secret in {option!r}; write env:NAME or file:PATH and keep "
                "it there"
            )
