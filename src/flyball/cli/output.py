"""What every verb shares: its options, and one document printed for people or as JSON.

Data goes to stdout, progress to stderr, colour only to a terminal.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from flyball.errors import InputError

__all__ = ["emit", "note", "options", "plain", "print_table", "pace_bar", "progress_bar", "verb", "write_page"]


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --project, --env and --json."""
    function = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(function)
    function = click.option("--env", default=None, help="Overlay [env.NAME] of flyball.toml.")(function)
    return click.option(
        "-p", "--project", "path", default=".", show_default=True, help="Project folder or flyball.toml."
    )(function)


def verb(function: Callable[..., Any]) -> click.Command:
    """Make a command that gets an open `Project` first, and a `show(document, human)` keyword."""

    @functools.wraps(function)
    def command(*args: Any, path: str, env: str | None, as_json: bool, **kwargs: Any) -> Any:
        from flyball.project import Project

        with Project.open(path, environment=env) as project:
            return function(project, *args, show=functools.partial(emit, as_json=as_json), **kwargs)

    return click.command(help=function.__doc__)(options(command))


def emit(document: Any, human: Callable[[Any], None] | None = None, *, as_json: bool) -> None:
    """Print a document: as JSON, or by `human` (which gets plain values)."""
    values = plain(document)
    if as_json or human is None:
        import orjson

        click.echo(orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
    else:
        human(values)


def plain(value: Any) -> Any:
    """Turn dataclasses, enums, times and spans into JSON values."""
    import msgspec

    return msgspec.to_builtins(value, str_keys=True, enc_hook=str)


def note(text: str) -> None:
    """Tell people something that is not data."""
    click.echo(text, err=True)


def write_page(path: Path, page: str) -> None:
    """Write an HTML page for people, and tell where."""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; name a file in a folder that exists") from error
    note(f"wrote {path}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "nothing yet") -> None:
    """Print rows under headings; numbers are right-aligned."""
    if not rows:
        click.echo(empty)
        return
    texts = [[_text(v) for v in row] for row in rows]
    widths = [max(len(c), *(len(r[i]) for r in texts)) for i, c in enumerate(columns)]
    right = [all(isinstance(r[i], int | float | None) for r in rows) for i in range(len(columns))]
    click.echo(_line(columns, widths, right))
    for row in texts:
        click.echo(_line(row, widths, right))


def _line(values: Sequence[str], widths: list[int], right: list[bool]) -> str:
    cells = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
    return "  ".join(cells).rstrip()


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items()) or "-"
    return str(value)


def pace_bar(text: str) -> Callable[[Any], None]:
    """Return a `detail(step)` that draws rows, rows per second and the time to go on stderr when it is a terminal."""
    if not sys.stderr.isatty():
        return lambda _step: None

    def tell(step: Any) -> None:
        share = step.rows / step.all_rows if step.all_rows else 1.0
        pace = f"{step.rows:,} rows, {step.rows_per_second:,.0f}/s, {step.eta:.0f} s to go"
        sys.stderr.write(f"\r{text}  {'#' * round(share * 30):<30} {share:4.0%}  {pace}\x1b[K")
        if step.rows >= step.all_rows:
            sys.stderr.write("\n")
        sys.stderr.flush()

    return tell


def progress_bar(text: str) -> Callable[[int, int], None]:
    """Return a `progress(done, total)` that draws on stderr when it is a terminal."""
    if not sys.stderr.isatty():
        return lambda _done, _total: None

    def tell(done: int, total: int) -> None:
        share = done / total if total else 1.0
        sys.stderr.write(f"\r{text}  {'#' * round(share * 30):<30} {share:4.0%}")
        if done >= total:
            sys.stderr.write("\n")
        sys.stderr.flush()

    return tell
