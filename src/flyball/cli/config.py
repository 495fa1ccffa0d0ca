"""config get|set|explain|schema."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import emit, note, print_table, verb

if TYPE_CHECKING:
    from flyball.project import Project


@click.argument("key")
def _get(project: Project, key: str, *, show: Callable[..., None]) -> None:
    """Print a setting, such as server.port."""
    show({"key": key, "value": project.config.get(key)}, lambda d: click.echo(d["value"]))


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
    document = [{"key": key, "value": value, "origin": origin} for key, value, origin in project.config.explain()]
    show(document, lambda d: print_table(("setting", "value", "from"), [tuple(r.values()) for r in d]))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def schema(as_json: bool) -> None:
    """List every setting."""
    from flyball.config import schema as all_settings

    emit(all_settings(), _print_schema, as_json=as_json)


def _print_schema(settings: list[dict[str, Any]]) -> None:
    rows = [(s["key"], s["type"], s["default"], s["doc"]) for s in settings]
    print_table(("setting", "type", "default", "what"), rows)


get = verb(_get)
