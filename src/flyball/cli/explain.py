"""explain PREDICTION_ID."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import print_table, verb

if TYPE_CHECKING:
    from flyball.project import Project


@click.argument("prediction_id")
@click.option("--reveal", is_flag=True, help="Decrypt personal fields; needs server.encryption_key and is audited.")
def _explain(project: Project, prediction_id: str, *, reveal: bool, show: Callable[..., None]) -> None:
    """Say how one prediction came about: arm and why, features, versions, latency, outcome."""
    show(project.explain(prediction_id, reveal=reveal), _print)


def _print(found: dict[str, Any]) -> None:
    features = found.pop("features", [])
    print_table(("what", "value"), [(k, v) for k, v in found.items() if not isinstance(v, dict | list)])
    if features:
        print_table(tuple(features[0]), [tuple(f.values()) for f in features])
    for name, part in found.items():
        if isinstance(part, dict):
            click.echo(f"{name}: " + ", ".join(f"{k} {v}" for k, v in part.items()))


explain = verb(_explain)
