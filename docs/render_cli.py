"""Write reference/cli.md from the commands themselves: `python docs/render_cli.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from flyball.cli.app import TREE, LazyGroup

_PAGE = Path(__file__).parent / "reference" / "cli.md"
_HEAD = """# Command line

Every verb, written by `python docs/render_cli.py` from the commands themselves.

`--json` prints one document on stdout; notes and progress go to stderr. Verbs that work on a project take
`-p`/`--project` (its folder or flyball.toml, `.` by default) and `--env` (an overlay of flyball.toml); they are left
out below. `flyball --debug` shows tracebacks, `flyball --version` the version.

| exit code | means |
|---|---|
| 0 | done |
| 1 | refused: by a gate, a guardrail, a policy; a watched release that was rolled back |
| 2 | wrong use: an unknown name, a wrong value, a definition that does not make sense |
| 3 | something outside failed: a port in use, a disk, another actor that was faster |
| 130 | interrupted |
"""
_COMMON = {"--project", "--env", "--json", "--help"}


def verbs() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every verb's path and command, in the order of the table."""
    root = LazyGroup("flyball", TREE, "")
    context = click.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if isinstance(command, LazyGroup):
            for inner in command.list_commands(context):
                found = command.get_command(context, inner)
                if found is not None:
                    yield (name, inner), found
        elif command is not None:
            yield (name,), command


def options(command: click.Command) -> list[click.Option]:
    """Return a command's own options."""
    return [p for p in command.params if isinstance(p, click.Option) and not _COMMON & set(p.opts)]


def render() -> str:
    """Return the page."""
    parts = [_HEAD]
    group = ""
    for path, command in verbs():
        if path[0] != group:
            group = path[0]
            parts.append(f"## {group}\n\n{TREE[group][0] if len(path) == 2 else ''}".rstrip() + "\n")
        parts.append(_verb(path, command))
    return "\n".join(parts)


def _verb(path: tuple[str, ...], command: click.Command) -> str:
    arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
    usage = " ".join(["flyball", *path, *arguments])
    text = " ".join((command.help or "").split())
    rows = [f"| `{', '.join(o.opts)}` | {_meaning(o)} |" for o in options(command)]
    table = "\n\n| option | what |\n|---|---|\n" + "\n".join(rows) if rows else ""
    return f"**`{usage}`**: {text}{table}\n"


def _meaning(option: click.Option) -> str:
    words = option.help or ""
    choices = getattr(option.type, "choices", ())
    if choices:
        words = f"{words} One of {', '.join(f'`{c}`' for c in choices)}.".strip()
    if option.show_default and option.default not in (None, False):
        words = f"{words} Default `{option.default}`.".strip()
    return words or option.name or ""


if __name__ == "__main__":
    _PAGE.write_text(render(), encoding="utf-8")
