"""data versions|diff|lineage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import print_table, verb
from flyball.cli.run import only_model

if TYPE_CHECKING:
    from flyball.datasets.types import DatasetManifest
    from flyball.project import Project

_model = click.option("--model", help="May be left out when there is one.")


@_model
def _versions(project: Project, *, model: str | None, show: Callable[..., None]) -> None:
    """List a model's training sets."""
    found = project.data.versions(model or only_model(project))
    show(found, _print_versions)


def _print_versions(manifests: list[dict[str, Any]]) -> None:
    rows = [
        (m["digest"][:12], m["train_rows"], m["holdout_rows"], m["immature"], m["start"][:16], m["end"][:16])
        for m in manifests
    ]
    print_table(("digest", "train", "holdout", "immature", "from", "until"), rows)


@click.argument("one")
@click.argument("other")
@_model
def _diff(project: Project, one: str, other: str, *, model: str | None, show: Callable[..., None]) -> None:
    """Compare two training sets, each given by its digest's first letters or by a version made of it."""
    from flyball.datasets.compare import compare

    document = compare(_set_of(project, model, one), _set_of(project, model, other), project.layout)
    show(document, _print_diff)


def _set_of(project: Project, model: str | None, name: str) -> DatasetManifest:
    if name.startswith("v"):  # no digest does
        return project.data.get(project.models[model or only_model(project)].version(name).dataset)
    return project.data.get(name)


def _print_diff(document: dict[str, Any]) -> None:
    rows = [(name, *values) for name, values in document["manifest"].items()]
    print_table(("what", "one", "other"), rows, empty="the manifests are equal")
    print_table(("column", "distance"), list(document.get("columns", {}).items()), empty="")


@click.argument("version")
@_model
def _lineage(project: Project, version: str, *, model: str | None, show: Callable[..., None]) -> None:
    """Say what a version was made of: run, data, code, parent, views."""
    name = model or only_model(project)
    found = project.models[name].version(version)
    manifest = project.data.get(found.dataset)
    service = project.models[name].load(version).manifest.service
    document = {
        "model": name,
        "version": found.version,
        "run": found.run,
        "cause": found.cause,
        "parent": found.parent,
        "code": found.code,
        "dataset": found.dataset,
        "dataset_rows": manifest.rows,
        "features": "as served, from the prediction log" if manifest.join == "as_served" else manifest.join,
        "views": {v.name: v.digest for v in service.views},
        "sources": sorted({v.source.name for v in service.views}),
        "mlflow": found.mlflow,
    }
    show(document, lambda d: print_table(("what", "value"), list(d.items())))


versions = verb(_versions)
diff = verb(_diff)
lineage = verb(_lineage)
