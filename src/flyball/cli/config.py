"""config get|set|explain|schema."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import emit, note, print_table, verb

if TYPE_CHECKING:
    from flyball.project import Project


@click.argument("key")
def _get(project: Project, key: str, *, show: Callable[..., None]) -> None:
    """Print a setting, such as server.port."""
    show({"key": key, "value": _as_written(project.config.get(key))}, lambda d: click.echo(_text(d["value"])))


@click.command()
@click.argument("key")
@click.argument("value")
@click.option("-p", "--project", "path", default=".", show_default=True, help="Project folder or flyball.toml.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def set_(key: str, value: str, path: str, as_json: bool) -> None:
    """Change a setting in flyball.toml, keeping comments."""
    from flyball.config import set_value

    found = Path(path)
    file = found / "flyball.toml" if found.is_dir() else found
    set_value(file, key, value)
    emit({"key": key, "value": value, "file": str(file)}, lambda d: note(f"{d['key']} = {d['value']}"), as_json=as_json)


@verb
def explain(project: Project, *, show: Callable[..., None]) -> None:
    """Say where every setting came from."""
    document = [{"key": k, "value": _as_written(v), "origin": origin} for k, v, origin in project.config.explain()]
    show(document, _print_origins)


def _print_origins(settings: list[dict[str, Any]]) -> None:
    print_table(("setting", "value", "from"), [(s["key"], _text(s["value"]), s["origin"]) for s in settings])


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def schema(as_json: bool) -> None:
    """List every setting."""
    from flyball.config import schema as all_settings

    emit(all_settings(), _print_schema, as_json=as_json)


def _print_schema(settings: list[dict[str, Any]]) -> None:
    rows = [(s["key"], s["type"], s["default"], s["doc"]) for s in settings]
    print_table(("setting", "type", "default", "what"), rows)


def _as_written(value: Any) -> Any:
    """Return a value as flyball.toml would hold it: a span is "15s"."""
    return f"{value.total_seconds():g}s" if isinstance(value, timedelta) else value


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


get = verb(_get)
