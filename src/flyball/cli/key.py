"""key create|list|revoke."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb

if TYPE_CHECKING:
    from flyball.control.keys import Key
    from flyball.project import Project

__all__ = ["create", "list_", "revoke"]


@click.option("--role", required=True, help="What the key may do: admin, or a role that views name.")
@click.option("--name", help="What to call it; made up when left out.")
@click.option("--models", default="", help="The models it may ask, separated by commas; all when left out.")
@click.option(
    "--rate", default="0", help="Requests a second over all workers: 100/s, 600/m; server.rate when left out."
)
@click.option(
    "--burst", type=float, default=0.0, help="Requests that may come at once; those of one second by default."
)
@click.option("--expires", help="After how long it opens nothing any more, such as 90d; never when left out.")
def _create(
    project: Project,
    *,
    role: str,
    name: str | None,
    models: str,
    rate: str,
    burst: float,
    expires: str | None,
    show: Callable[..., None],
) -> None:
    """Make a key for callers; it is shown this once."""
    wanted = [model.strip() for model in models.split(",") if model.strip()]
    label, key = project.keys.create(role, name=name, models=wanted, rate=rate, burst=burst, expires=expires)
    show({"name": label, "role": role, "key": key}, _print_key)


def _print_key(made: dict[str, Any]) -> None:
    click.echo(made["key"])
    note(f"key {made['name']} of role {made['role']}: keep it now, it is not shown again")


@verb
def list_(project: Project, *, show: Callable[..., None]) -> None:
    """List keys by name and role."""
    show([_shown(key) for key in project.keys.list()], _print_keys)


def _shown(key: Key) -> dict[str, Any]:
    scope = key.scope
    return {"name": key.name, "role": key.role, "models": list(scope.models), "rate": scope.rate,
            "burst": scope.burst, "created": key.created, "expires": scope.expires, "revoked": key.revoked}  # fmt: skip


def _print_keys(keys: list[dict[str, Any]]) -> None:
    rows = [
        (k["name"], k["role"], ", ".join(k["models"]) or "all", f"{k['rate']:g}/s" if k["rate"] else "-",
         k["created"][:19], (k["expires"] or "-")[:19], (k["revoked"] or "-")[:19])
        for k in keys
    ]  # fmt: skip
    print_table(("name", "role", "models", "rate", "created", "expires", "revoked"), rows,
                empty="no keys: everybody who reaches the port may call")  # fmt: skip


@click.argument("name")
def _revoke(project: Project, name: str, *, show: Callable[..., None]) -> None:
    """Have a key open nothing any more."""
    project.keys.revoke(name)
    show({"name": name, "revoked": True}, lambda d: note(f"key {d['name']} is revoked"))


create = verb(_create)
revoke = verb(_revoke)
