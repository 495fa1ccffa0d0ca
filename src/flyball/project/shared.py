"""What a project gives to the shared catalog and takes from it.

The surprise: publishing comes last and may fail without harm. What is applied is applied; the next `flyball apply`
publishes what is missing. Only a name that belongs to another project stops an apply, before anything happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flyball.adapters.catalogs import open_catalog
from flyball.disk import write_atomically
from flyball.errors import ConfigError, ConflictError, FlyballError, Unavailable
from flyball.features.definitions.imported import ImportedView
from flyball.features.shared import Entry, chosen, lock_of, obstacle, taken
from flyball.layout import CATALOG_LOCK
from flyball.settings import ProjectSettings
from flyball.units import from_micros, to_micros

if TYPE_CHECKING:
    from flyball.features.shared import CatalogStore
    from flyball.features.spec import ViewSpec
    from flyball.project.root import Project

__all__ = ["Sharing", "ask", "pin", "publish", "published", "sharing"]


@dataclass(frozen=True, slots=True)
class Sharing:
    """What an apply publishes: `new` are views whose definition or description the catalog lacks.

    `refused` are sentences about names that belong to other projects; `notes` say what people should know.
    """

    new: tuple[ViewSpec, ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def ask(project: Project, name: str, digest: str | None) -> Entry:
    """Return a published view; raises what `fb.imported` says."""
    catalog = _catalog(project)
    if catalog is None:
        raise ConfigError(
            f'view {name!r} is imported, but no catalog is set; write url = "postgresql://HOST/NAME" or a folder '
            "under [catalog] in flyball.toml"
        )
    try:
        return chosen(catalog.entries(name), name, digest)
    except Unavailable as error:
        raise Unavailable(f"view {name!r} is imported, and {CATALOG_LOCK} does not have it yet: {error}") from error


def pin(project: Project) -> None:
    """Write what the working definitions import into the lock; without imports there is none."""
    path = project.root / CATALOG_LOCK
    lock = lock_of((view.entry, view.named) for view in project.imports)
    if not lock.views:
        path.unlink(missing_ok=True)
        return
    body = lock.to_bytes()
    if not path.exists() or path.read_bytes() != body:
        write_atomically(path, body, durable=True)


def sharing(project: Project) -> Sharing:
    """Compare the working views with the catalog; one that is away is a note."""
    catalog = None if project.is_temporary else _catalog(project)
    if catalog is None:
        return Sharing()
    me = _name(project)
    mine, notes = _mine(project)
    try:
        known = catalog.entries()
    except Unavailable as error:
        return Sharing(mine, (), (*notes, f"{error}; what is new is published by a later flyball apply"))
    owners = {e.name: e.project for e in known}
    refused = [str(taken(v.name, owners[v.name], me)) for v in mine if owners.get(v.name, me) != me]
    current = {e.name: e.spec for e in known if e.current}
    new = tuple(v for v in mine if current.get(v.name) != v and owners.get(v.name, me) == me)
    return Sharing(new, tuple(refused), notes)


def publish(project: Project, found: Sharing) -> Sharing:
    """Publish what is new; what fails now is said, and done by the next apply."""
    catalog = _catalog(project) if found.new else None
    if catalog is None:
        return found
    now, me = to_micros(project.clock.now()), _name(project)
    try:
        catalog.publish([Entry(v.name, v.digest, me, now, v) for v in found.new])
    except (Unavailable, ConflictError) as error:
        said = f"nothing was published: {error}"
        return Sharing((), found.refused, tuple(dict.fromkeys([*found.notes, said])))
    return found


def published(project: Project) -> list[dict[str, Any]]:
    """Return what the catalog holds, as plain documents.

    Raises:
        ConfigError: no catalog is set.
        Unavailable: it cannot be reached.
    """
    catalog = _catalog(project)
    if catalog is None:
        raise ConfigError('no catalog is set; write url = "postgresql://HOST/NAME" or a folder under [catalog]')
    here = {view.digest for view in project.applied.view_specs}
    return [
        {"name": e.name, "digest": e.digest, "project": e.project, "owner": e.owner, "at": from_micros(e.at),
         "current": e.current, "here": e.digest in here, "entity": e.spec.entity.name, "source": e.spec.source.name,
         "features": [f.name for f in e.spec.features], "description": e.spec.about.description,
         "obstacle": obstacle(e.spec)}
        for e in catalog.entries()
    ]  # fmt: skip


def _mine(project: Project) -> tuple[tuple[ViewSpec, ...], tuple[str, ...]]:
    views = [v for _, v in sorted(project.working.views.items()) if not isinstance(v, ImportedView)]
    specs = tuple(v.spec for v in views)
    notes = [note for spec in specs if (note := _caution(spec))]
    return specs, tuple(notes)


def _caution(spec: ViewSpec) -> str:
    problem = obstacle(spec)
    if problem:
        return f"view {spec.name} is published for people to see only: {problem}"
    source = spec.source
    relative = source.kind in {"parquet", "csv"} and any(
        "://" not in path and not path.startswith("/") for path in source.path.split("\n")
    )
    if relative:
        return (
            f"view {spec.name} reads {source.path.splitlines()[0]}, relative to its project; who imports it needs the "
            "files at the same place below their own"
        )
    return ""


def _catalog(project: Project) -> CatalogStore | None:
    try:
        return open_catalog(project.settings.catalog.url, project.root, project.config.secret)
    except FlyballError as error:
        if isinstance(error, Unavailable | ConfigError):
            raise
        raise ConfigError(f"catalog.url cannot be used: {error}") from error


def _name(project: Project) -> str:
    name = project.settings.project.name
    if name == ProjectSettings().name:
        raise ConfigError(
            f"project.name is {name!r}, as by default; in a catalog views belong to projects by name, so give this one "
            "its own in flyball.toml"
        )
    return name
