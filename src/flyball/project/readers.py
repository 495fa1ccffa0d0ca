"""Who reads a feature view: versions that serve or may serve, and the models' definitions.

A version goes on reading the digest it was trained with, whatever is applied, so nothing here stops it at once; what
breaks is its next training, its history, and whoever counts on the name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flyball.errors import FlyballError
from flyball.features.spec import FeatureService
from flyball.project.views import live_versions

if TYPE_CHECKING:
    from flyball.definitions import Definitions
    from flyball.project.root import Project
    from flyball.registry.types import Version

__all__ = ["Reader", "readers_of", "reads_of", "service_of"]


@dataclass(frozen=True, slots=True)
class Reader:
    """One reader of a view: "eta v2 (candidate)" or "eta (definition)", and the view's features it reads."""

    name: str
    features: frozenset[str]
    digest: str = ""

    def reads(self, features: tuple[str, ...]) -> bool:
        """Whether it reads one of these features; () stands for all of the view."""
        return not features or not self.features.isdisjoint(features)


def readers_of(project: Project, old: Definitions, new: Definitions) -> dict[str, list[Reader]]:
    """Return the readers of each applied view by its name: live versions, then definitions that are to stay."""
    found: dict[str, list[Reader]] = {}
    for version in live_versions(project):
        service = service_of(project, version)
        if service is not None:
            _note(found, service, f"{version.model} {version.version} ({version.lifecycle.value})")
    for name, model in old.models.items():
        if name in new.models:
            _note(found, model.service, f"{name} (definition)")
    return found


def service_of(project: Project, version: Version) -> FeatureService | None:
    """Return what a version reads, None when its artifact is gone."""
    from flyball.registry.artifacts import read_manifest

    try:
        return read_manifest(project.root / version.path, version.digest).service
    except FlyballError:
        return None


def reads_of(service: FeatureService, view: str) -> frozenset[str]:
    """Return the features of a view that a service reads, as columns or as arguments of a function at request time."""
    return frozenset(_reads(service, view))


def _reads(service: FeatureService, view: str) -> Iterator[str]:
    for column in service.columns:
        if column.kind == "view" and column.view == view:
            yield column.name
        for argument in column.transform.args if column.transform is not None else ():
            owner, sign, feature = argument.partition(":")
            if sign and owner == view:
                yield feature


def _note(found: dict[str, list[Reader]], service: FeatureService, name: str) -> None:
    for view in service.views:
        found.setdefault(view.name, []).append(Reader(name, reads_of(service, view.name), view.digest))
