"""feature materialize|get|push|history; the catalog's verbs are in `catalog`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, progress_bar, verb
from flyball.errors import InputError

if TYPE_CHECKING:
    from flyball.project import Project

__all__ = ["get", "history", "materialize", "push"]


@click.argument("view", required=False)
@click.option("--full", is_flag=True, help="Rebuild all rows.")
def _materialize(project: Project, view: str | None, *, full: bool, show: Callable[..., None]) -> None:
    """Bring a view's online rows (all views' without VIEW) up to date."""
    names = [view] if view else [v.name for v in project.features.views()]
    done = {
        name: project.features.materialize(name, full=full, progress=progress_bar(f"materializing {name}"))
        for name in names
    }
    show(done, lambda d: print_table(("view", "rows", "keys"), [(n, r["rows"], r["keys"]) for n, r in d.items()]))


@click.argument("names", nargs=-1, required=True)
@click.option("--entity", "-e", multiple=True, required=True, help="KEY=VALUE, several for composite keys.")
def _get(project: Project, names: tuple[str, ...], *, entity: tuple[str, ...], show: Callable[..., None]) -> None:
    """Look up an entity: `flyball feature get zone_traffic -e pickup_zone=74`."""
    keys = {k.name: k.type for n in names for k in project.applied.view(n.partition(":")[0]).spec.entity.keys}
    row = dict(_key(text, keys) for text in entity)
    vectors = project.features.online([row], list(names))
    values, statuses = vectors.to_dicts()[0], vectors.status()[0]
    document = row | {name: {"value": value, "status": statuses[name].name} for name, value in values.items()}
    show(document, _print_values)


def _print_values(document: dict[str, Any]) -> None:
    rows = [(n, v["value"], v["status"]) for n, v in document.items() if isinstance(v, dict)]
    print_table(("feature", "value", "status"), rows)


def _key(text: str, types: Mapping[str, str]) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise InputError(f"--entity {text!r} is not KEY=VALUE; write for example --entity {next(iter(types))}=1")
    if types.get(name) == "int64":
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
        lambda d: note(f"{d['accepted']} accepted, {d['rejected']} rejected by where"),
    )


@click.argument("requests", type=click.Path(exists=True))
@click.argument("names", nargs=-1, required=True)
@click.option("--at", required=True, help="Column with each request's time.")
@click.option("--join", type=click.Choice(["as_known", "as_corrected"]), default="as_known", show_default=True)
@click.option("--out", type=click.Path(), required=True, help="Parquet file to write.")
def _history(
    project: Project, requests: str, names: tuple[str, ...], *, at: str, join: Any, out: str, show: Callable[..., None]
) -> None:
    """Join past REQUESTS (Parquet) with what was known at each one's time."""
    import pyarrow.parquet as pq

    table = project.features.history(Path(requests), list(names), at=at, join=join).to_arrow()
    pq.write_table(table, out)
    show({"rows": table.num_rows, "out": out}, lambda d: note(f"{d['rows']:,} rows written to {d['out']}"))


materialize = verb(_materialize)
get = verb(_get)
push = verb(_push)
history = verb(_history)
