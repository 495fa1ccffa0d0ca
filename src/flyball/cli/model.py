"""model list|show|compare|promote|retire|score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb
from flyball.cli.run import only_model

if TYPE_CHECKING:
    from flyball.project import Project

__all__ = ["compare", "list_", "promote", "retire", "score", "show", "split", "switch"]

_model = click.option("--model", help="May be left out when there is one.")


@_model
def _list(project: Project, *, model: str | None, show: Callable[..., None]) -> None:
    """List versions, oldest first."""
    found = project.models[model or only_model(project)].versions
    show(found, _print_versions)


def _print_versions(versions: list[dict[str, Any]]) -> None:
    rows = [
        (v["version"], v["lifecycle"], v["gate"], v["metrics"].get("mae"), v["cause"], v["created"][:16])
        for v in versions
    ]
    print_table(("version", "lifecycle", "gate", "mae", "cause", "made"), rows)


@click.argument("version")
@_model
def _show(project: Project, version: str, *, model: str | None, show: Callable[..., None]) -> None:
    """Show a version, its metrics and its gate."""
    handle = project.models[model or only_model(project)]
    document = {"version": handle.version(version), "gate": handle.gate(version)}
    show(document, _print_version)


def _print_version(document: dict[str, Any]) -> None:
    version = document["version"]
    made = f"made by run {version['run']} ({version['cause']})"
    click.echo(f"{version['model']} {version['version']}: {version['lifecycle']}, {made}")
    print_table(("metric", "value"), sorted(version["metrics"].items()))
    print_table(
        ("check", "verdict", "what"), [(c["name"], c["verdict"], c["text"]) for c in document["gate"]["checks"]]
    )


@click.argument("one")
@click.argument("other")
@_model
def _compare(project: Project, one: str, other: str, *, model: str | None, show: Callable[..., None]) -> None:
    """Compare two versions' holdout metrics and data."""
    handle = project.models[model or only_model(project)]
    pair = [handle.version(v) for v in (one, other)]
    names = sorted({name for v in pair for name in v.metrics})
    document = {
        "metrics": {n: [v.metrics.get(n) for v in pair] for n in names},
        "dataset": [v.dataset for v in pair],
        "code": [v.code for v in pair],
    }
    show(document, lambda d: print_table(("metric", one, other), [(n, *v) for n, v in d["metrics"].items()]))


@click.argument("version")
@_model
@click.option("--reason", default="promoted by hand", help="For the audit.")
def _promote(project: Project, version: str, *, model: str | None, reason: str, show: Callable[..., None]) -> None:
    """Make VERSION champion at once, without a rollout."""
    done = project.models[model or only_model(project)].promote(version, reason=reason)
    show(done, lambda d: note(f"{d['model']} {d['version']} is champion"))


@click.argument("version", required=False)
@_model
@click.option("--reason", default="switched by hand", help="For the audit.")
def _switch(
    project: Project, version: str | None, *, model: str | None, reason: str, show: Callable[..., None]
) -> None:
    """Exchange the champion for VERSION, or for the one before it; the old one stays loaded beside it."""
    done = project.models[model or only_model(project)].switch(version, reason=reason)
    show(done, lambda d: note(f"{d['model']} {d['version']} serves; the other one is warm: flyball model switch"))


@click.argument("shares", nargs=-1)
@_model
@click.option("--holdout", help="Share of units that always get the champion, such as 5%.")
@click.option("--stop", is_flag=True, help="End the split: the champion gets all units.")
@click.option("--reason", default="", help="For the audit.")
def _split(
    project: Project,
    shares: tuple[str, ...],
    *,
    model: str | None,
    holdout: str | None,
    stop: bool,
    reason: str,
    show: Callable[..., None],
) -> None:
    """Give versions shares of the units beside the champion: flyball model split v3=20% v4=20%."""
    if stop == bool(shares) or any("=" not in share for share in shares):
        raise click.UsageError("write VERSION=SHARE for each variant, such as v3=20%, or --stop")
    wanted = {version: share for version, _, share in (pair.partition("=") for pair in shares)}
    done = project.models[model or only_model(project)].split(wanted, holdout=holdout, reason=reason)
    show(done, lambda d: note(", ".join(f"{version} {share:.2%}" for version, share in d.items())))


@click.argument("version")
@_model
@click.option("--reason", default="", help="For the audit.")
def _retire(project: Project, version: str, *, model: str | None, reason: str, show: Callable[..., None]) -> None:
    """Say that VERSION may not serve any more."""
    done = project.models[model or only_model(project)].retire(version, reason=reason)
    show(done, lambda d: note(f"{d['model']} {d['version']} is retired"))


@click.argument("file", type=click.Path(exists=True))
@_model
@click.option("--version", help="The champion by default.")
@click.option("--out", type=click.Path(), required=True, help="Parquet file to write: the input and `prediction`.")
def _score(
    project: Project, file: str, *, model: str | None, version: str | None, out: str, show: Callable[..., None]
) -> None:
    """Predict for a Parquet FILE of past requests."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    values = project.models[model or only_model(project)].score(Path(file), version=version)
    column = pa.array(values) if values.ndim == 1 else pa.array(list(values))
    pq.write_table(table.append_column("prediction", column), out)
    show({"rows": table.num_rows, "out": out}, lambda d: note(f"{d['rows']:,} predictions written to {d['out']}"))


list_ = verb(_list)
show = verb(_show)
compare = verb(_compare)
promote = verb(_promote)
switch = verb(_switch)
split = verb(_split)
retire = verb(_retire)
score = verb(_score)
