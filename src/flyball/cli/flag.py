"""flag list|get|set."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb

if TYPE_CHECKING:
    from flyball.project import Project

__all__ = ["get", "list_", "set_"]


@verb
def list_(project: Project, *, show: Callable[..., None]) -> None:
    """List feature flags in force."""
    show(project.flags.list(), _print_flags)


def _print_flags(flags: list[dict[str, Any]]) -> None:
    rows = [(f["name"], "on" if f["on"] else "off", json.dumps(f["default"]), _shares(f), f["revision"]) for f in flags]
    print_table(("flag", "switch", "default", "shares", "revision"), rows, empty="no flags; define one with fb.Flag")


def _shares(flag: dict[str, Any]) -> str:
    return ", ".join(f"{value} {share:.2%}" for value, share in flag["shares"].items())


def _attributes(given: tuple[str, ...]) -> dict[str, Any]:
    """Return name=value pairs, a value read as JSON where it is some."""
    pairs = [pair.partition("=") for pair in given]
    for name, sign, _ in pairs:
        if not sign:
            raise click.UsageError(f"an attribute is written name=value, not {name!r}")
    return {name: _value(text) for name, _, text in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@click.argument("name")
@click.argument("unit")
@click.option("--attribute", "attributes", multiple=True, help="name=value; may be repeated.")
def _get(project: Project, name: str, unit: str, *, attributes: tuple[str, ...], show: Callable[..., None]) -> None:
    """Say what flag NAME is for UNIT, and why."""
    decided = project.flags.decide(name, unit, _attributes(attributes))
    document = {"name": name, "unit": unit, "value": decided.value, "why": decided.why}
    show(document, lambda d: click.echo(f"{json.dumps(d['value'])} ({d['why']})"))


@click.argument("name")
@click.option("--on/--off", "on", default=None, help="Switch it.")
@click.option("--share", help="Share of units of its only value, such as 10%.")
@click.option("--value", "values", multiple=True, help="VALUE=SHARE of one of several values; may be repeated.")
@click.option("--reason", default="", help="For the audit.")
def _set(
    project: Project,
    name: str,
    *,
    on: bool | None,
    share: str | None,
    values: tuple[str, ...],
    reason: str,
    show: Callable[..., None],
) -> None:
    """Switch flag NAME, or change how many units get its values; in force within a second."""
    shares = {_value(value): text for value, _, text in (pair.rpartition("=") for pair in values)}
    if share is not None:
        known = [f for f in project.flags.list() if f["name"] == name]
        if known and len(known[0]["shares"]) != 1:
            raise click.UsageError(f"flag {name} has several values; say which: --value VALUE=SHARE")
        shares |= {_value(value): share for flag in known for value in flag["shares"]}
    if on is None and not shares and share is None:
        raise click.UsageError("say what to change: --on, --off, --share or --value")
    done = project.flags.set(name, on=on, shares=shares, reason=reason)
    show(done, lambda d: note(f"flag {d['name']} is {'on' if d['on'] else 'off'}: {_shares(d)}"))


get = verb(_get)
set_ = verb(_set)
