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

__all__ = ["compare", "import_", "list_", "optimize", "promote", "retire", "score", "show", "split", "switch"]

_model = click.option("--model", help="May be left out when there is one.")


@_model
def _list(project: Project, *, model: str | None, show: Callable[..., None]) -> None:
    """List versions, oldest first; of all models when none is named."""
    names = [model] if model else sorted(project.applied.models)
    show([version for name in names for version in project.models[name].versions], _print_versions)


def _print_versions(versions: list[dict[str, Any]]) -> None:
    whose = ("model",) if len({v["model"] for v in versions}) > 1 else ()
    score = "mae or auc" if whose else "auc" if versions and "auc" in versions[0]["metrics"] else "mae"
    rows = []
    for v in versions:
        held = v["metrics"].get("mae", v["metrics"].get("auc"))
        rows.append(
            (*(v[name] for name in whose), v["version"], v["lifecycle"], v["gate"], held, v["cause"], v["created"][:16])
        )
    print_table((*whose, "version", "lifecycle", "gate", score, "cause", "made"), rows)


@click.argument("version")
@_model
def _show(project: Project, version: str, *, model: str | None, show: Callable[..., None]) -> None:
    """Show a version, its metrics, its gate, its format and what answers for it."""
    from flyball.project.importing import lowering_report
    from flyball.registry.artifacts import read_manifest

    handle = project.models[model or only_model(project)]
    found = handle.version(version)
    manifest = read_manifest(project.root / found.path, found.digest)
    document = {
        "version": found, "gate": handle.gate(version), "format": manifest.format, "class": manifest.model_class,
        "classes": manifest.classes, "lowered": manifest.lowered, "tried": lowering_report(project, found.run),
    }  # fmt: skip
    show(document, _print_version)


def _print_version(document: dict[str, Any]) -> None:
    version = document["version"]
    made = f"made by run {version['run']} ({version['cause']})"
    click.echo(f"{version['model']} {version['version']}: {version['lifecycle']}, {made}")
    click.echo(f"stored as {document['format']}{_answered_by(document['lowered'])}")
    print_table(("metric", "value"), sorted(version["metrics"].items()))
    print_tried(document["tried"])
    print_table(
        ("check", "verdict", "what"), [(c["name"], c["verdict"], c["text"]) for c in document["gate"]["checks"]]
    )


def _answered_by(lowered: dict[str, Any] | None) -> str:
    if lowered is None:
        return ", which answers itself"
    flips = f", {len(lowered['flips'])} decisions flip within it" if lowered["flips"] else ""
    return f"; a {lowered['kind']} kernel answers, equal on {lowered['rows']:,} rows to {lowered['gap']:.2g}{flips}"


def print_tried(tried: list[dict[str, Any]]) -> None:
    """Print which lowered forms were tried, and what came of them."""
    rows = []
    for each in tried:
        one, many = ([f"{t['native'] * 1e6:.0f} -> {t['lowered'] * 1e6:.0f}" for t in each["timings"]] + ["", ""])[:2]
        rows.append((each["kind"], each["gap"] if each["rows"] else "", one, many, each["problem"] or "taken"))
    if rows:
        print_table(("kernel", "largest difference", "µs, 1 row", "µs, 32 rows", "verdict"), rows)


@click.argument("artifact", type=click.Path())
@_model
@click.option("--format", "kind", default="auto", help="auto|onnx|xgboost|lightgbm|catboost|keras|skops|pyfunc.")
@click.option("--classes", help="Labels of a classifier's columns as a JSON list, where the format does not keep them.")
def _import(
    project: Project, artifact: str, *, model: str | None, kind: str, classes: str | None, show: Callable[..., None]
) -> int:
    """Register ARTIFACT, a model that was trained elsewhere, as a version, and gate it."""
    import json

    from flyball.cli.run import tell
    from flyball.errors import InputError
    from flyball.training.types import RunState

    try:
        labels = None if classes is None else list(json.loads(classes))
    except (ValueError, TypeError) as error:
        raise InputError(f"--classes is {classes!r}; write a JSON list of labels, such as [false, true]") from error
    handle = project.models[model or only_model(project)]
    done = handle.import_(artifact, format=kind, classes=labels, progress=tell)
    show(done, lambda d: note(f"{d['model']} {d['version']} is registered: {d['state']}"))
    return 1 if done.state is RunState.GATED_OUT else 0


@click.argument("version")
@_model
@click.option("--dry-run", is_flag=True, help="Only measure and tell.")
def _optimize(project: Project, version: str, *, model: str | None, dry_run: bool, show: Callable[..., None]) -> int:
    """Look for a faster equal form of VERSION again; another one than it has becomes a new version."""
    from flyball.cli.run import tell
    from flyball.training.types import RunState

    handle = project.models[model or only_model(project)]
    found = handle.optimize(version, dry_run=dry_run, progress=tell)
    show(found, _print_optimized)
    return 1 if found.run is not None and found.run.state is RunState.GATED_OUT else 0


def _print_optimized(document: dict[str, Any]) -> None:
    print_tried(document["tried"])
    if document["run"] is not None:
        note(f"{document['run']['model']} {document['run']['version']} is registered: {document['run']['state']}")
    else:
        note(f"{document['version']}: {document['before'] or 'native'}, found {document['after'] or 'native'}")


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
import_ = verb(_import)
optimize = verb(_optimize)
score = verb(_score)
