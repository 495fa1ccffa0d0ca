"""feature materialize|quarantine|get|push|history; the catalog's verbs are in `catalog`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, pace_bar, print_table, verb
from flyball.errors import InputError, first_line

if TYPE_CHECKING:
    from flyball.project import Project

__all__ = ["get", "history", "materialize", "push", "quarantine"]

_MOMENT = click.DateTime()


@click.argument("view", required=False)
@click.option("--full", is_flag=True, help="Rebuild all rows.")
@click.option("--from", "start", type=_MOMENT, help="Rebuild only entities with events from this time (UTC) on.")
@click.option("--to", "end", type=_MOMENT, help="... and before this time (UTC).")
def _materialize(
    project: Project, view: str | None, *, full: bool, start: datetime | None, end: datetime | None,
    show: Callable[..., None],
) -> None:  # fmt: skip
    """Bring a view's online rows (all views' without VIEW) up to date with what arrived, whatever its event time."""
    names = [view] if view else [v.name for v in project.features.views()]
    bounds: dict[str, Any] = {n: t.replace(tzinfo=UTC) for n, t in (("start", start), ("end", end)) if t is not None}
    done = {
        name: project.features.materialize(name, full=full, detail=pace_bar(f"materializing {name}"), **bounds)
        for name in names
    }
    show(done, _print_materialized)


def _print_materialized(done: dict[str, Any]) -> None:
    rows = [(name, r["mode"], r["rows"], r["keys"], len(r["files"]), r["quarantined"]) for name, r in done.items()]
    print_table(("view", "run", "rows", "keys", "new files", "quarantined"), rows)
    for name, result in done.items():
        if result["reason"]:
            note(f"{name} was rebuilt: {result['reason']}")
        for warning in result["warnings"]:
            note(f"{name}: warning: {warning}")


@click.argument("source")
@click.option("--limit", type=int, default=20, show_default=True, help="Rows to print.")
def _quarantine(project: Project, source: str, *, limit: int, show: Callable[..., None]) -> None:
    """List the rows of SOURCE that its data checks keep out of every answer, with the reasons."""
    table = project.features.quarantined(source)
    rows = [] if table is None else table.slice(0, limit).to_pylist()
    found = {"source": source, "rows": 0 if table is None else table.num_rows, "first": rows}

    def human(document: dict[str, Any]) -> None:
        note(f"{document['rows']:,} rows of {source} are in quarantine")
        plain = [k for k in (rows[0] if rows else {}) if not k.startswith("__")]
        names = [k for k in plain if not any(isinstance(row[k], list) for row in rows)]  # a vector fills the screen
        shown = [[*(_shown(row[k]) for k in names), row["__reason"]] for row in rows]
        if rows:
            print_table((*names, "reason"), shown)

    show(found, human)


@click.argument("names", nargs=-1, required=True)
@click.option("--entity", "-e", multiple=True, required=True, help="KEY=VALUE, several for composite keys.")
def _get(project: Project, names: tuple[str, ...], *, entity: tuple[str, ...], show: Callable[..., None]) -> None:
    """Look up an entity in NAMES (views, `view:feature`, services): `flyball feature get zone_traffic -e zone=74`."""
    views = [project.applied.view(name.partition(":")[0]) for name in project.applied.selected(names)]
    keys = {key.name: key.type for view in views for key in view.spec.entity.keys}
    row = dict(_key(text, keys) for text in entity)
    vectors = project.features.online([row], list(names))
    values, statuses = vectors.to_dicts()[0], vectors.status()[0]
    for view in {view.name: view for view in views}.values():
        if not project.features.is_filled(view.spec):
            note(f"{view.name} has no online rows yet, so every entity is MISSING; run: flyball apply")
    document = row | {name: {"value": value, "status": statuses[name].name} for name, value in values.items()}
    show(document, _print_values)


def _print_values(document: dict[str, Any]) -> None:
    rows = [(n, _shown(v["value"]), v["status"]) for n, v in document.items() if isinstance(v, dict)]
    print_table(("feature", "value", "status"), rows)


def _shown(value: Any) -> Any:
    """Return a float as text of ten digits, as amounts of money need more than the four of other tables."""
    return f"{value:.10g}" if isinstance(value, float) else value


def _key(text: str, types: Mapping[str, str]) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise InputError(f"--entity {text!r} is not KEY=VALUE; write for example --entity {next(iter(types))}=1")
    if name not in types:
        raise InputError(f"--entity {text!r} is no key of these features; their keys are {', '.join(types)}")
    if types[name] == "bool" and value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    if types[name] == "int64":
        try:
            return name, int(value)
        except ValueError as error:
            raise InputError(f"{name} is a whole number, got {value!r}; write for example --entity {name}=1") from error
    return name, value


@click.argument("source")
@click.argument("file", type=click.Path(allow_dash=True), default="-")
def _push(project: Project, source: str, file: str, *, show: Callable[..., None]) -> None:
    """Append rows (JSON lines, FILE or stdin) to SOURCE."""
    import msgspec

    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    try:
        rows = [msgspec.json.decode(line) for line in text.splitlines() if line.strip()]
    except msgspec.DecodeError as error:
        raise InputError(f"{file} is not JSON lines ({error}); write one object a line") from error
    show(
        project.features.push(source, rows),
        lambda d: note(f"{d['accepted']} accepted, {d['rejected']} left out by where or checks"),
    )


@click.argument("requests", type=click.Path(exists=True))
@click.argument("names", nargs=-1, required=True)
@click.option("--at", required=True, help="Column with each request's time.")
@click.option("--join", type=click.Choice(["as_known", "as_corrected"]), default="as_known", show_default=True)
@click.option("--out", type=click.Path(), required=True, help="Parquet file to write.")
def _history(
    project: Project, requests: str, names: tuple[str, ...], *, at: str, join: Any, out: str, show: Callable[..., None]
) -> None:
    """Join past REQUESTS (Parquet or CSV) with what was known at each one's time."""
    import pyarrow.parquet as pq

    table = project.features.history(Path(requests), list(names), at=at, join=join).to_arrow()
    try:
        pq.write_table(table, out)
    except OSError as error:
        raise InputError(
            f"{out!r} cannot be written ({first_line(error)}); give --out a file in a folder that exists"
        ) from error
    show({"rows": table.num_rows, "out": out}, lambda d: note(f"{d['rows']:,} rows written to {d['out']}"))


materialize = verb(_materialize)
quarantine = verb(_quarantine)
get = verb(_get)
push = verb(_push)
history = verb(_history)
