"""`imported`: a feature view that another project published in the shared catalog.

The surprise: the definition comes from flyball.catalog.lock beside the code that is being imported, a snapshot's own
lock for a snapshot; the catalog itself is asked only for what is not there yet, and only while a project reads its
working definitions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType

from flyball.errors import DefinitionError
from flyball.features.definitions.entities import Entity
from flyball.features.definitions.sources import Source
from flyball.features.definitions.views import FeatureView
from flyball.features.shared import Entry, obstacle, read_lock
from flyball.layout import CATALOG_LOCK

__all__ = ["ImportedView", "asking", "imported", "imports_of"]

Ask = Callable[[str, str | None], Entry]
_ask: ContextVar[Ask | None] = ContextVar("flyball_catalog", default=None)
_CODE = "flyball_code_"  # packages of code folders, see registry/code.py
_KEPT = "__flyball_imports__"


class ImportedView(FeatureView):
    """A view of another project; used like one's own, and published by nobody but its project.

    Args:
        entry: What was published.
        named: Whether the import named the digest.
        asked: Whether the catalog was asked; another time it may say something else.

    Raises:
        DefinitionError: the view cannot be used outside of its project.
    """

    def __init__(self, entry: Entry, *, named: bool = True, asked: bool = False) -> None:
        problem = obstacle(entry.spec)
        if problem:
            raise DefinitionError(
                f"view {entry.name!r} of project {entry.project!r} cannot be imported: {problem}; define it here"
            )
        spec = entry.spec
        self.entry, self.named, self.asked = entry, named, asked
        self.name, self.spec = spec.name, spec
        self.entity = Entity(spec.entity.name, keys={k.name: k.type for k in spec.entity.keys})
        self.source = _source(entry)

    def __repr__(self) -> str:
        return f"imported({self.name!r}, digest={self.entry.digest!r})"


def imported(name: str, digest: str | None = None) -> ImportedView:
    """Return a feature view that another project published; `[catalog] url` says where.

    What is first taken from the catalog is kept in flyball.catalog.lock by `flyball apply`. Commit that file: from then
    on the same definition is read from it, whether the catalog can be reached or not.

    Args:
        name: The view's name in the catalog.
        digest: Its 16 hex digits; without them the definition its project applied last is taken, and pinned.

    Raises:
        DefinitionError: this is not run as a project's definitions, or the view runs code of its project.
        UnknownName: the catalog has no such view or digest.
        Unavailable: the catalog cannot be reached, and the lock does not have the view.
        ConfigError: no catalog is set, and the lock does not have the view.
    """
    package = _package()
    locked = None if package is None else read_lock(Path(package.__path__[0]) / CATALOG_LOCK).find(name, digest)
    entry = locked
    if entry is None:
        ask = _ask.get()
        if ask is None:
            raise DefinitionError(
                f"imported({name!r}) is not in {CATALOG_LOCK} of this code, and only a project may ask the catalog; "
                "apply it there first: flyball apply"
            )
        entry = ask(name, digest)
    view = ImportedView(entry, named=digest is not None, asked=locked is None)
    if package is not None:
        vars(package).setdefault(_KEPT, []).append(view)
    return view


@contextmanager
def asking(ask: Ask) -> Iterator[None]:
    """Have imports that are in no lock ask for their definition."""
    token = _ask.set(ask)
    try:
        yield
    finally:
        _ask.reset(token)


def imports_of(module: ModuleType) -> list[ImportedView]:
    """Return everything that the code folder of a module imported, in order."""
    package = sys.modules.get(module.__name__.partition(".")[0])
    return list(vars(package).get(_KEPT, ())) if package is not None else []


def _package() -> ModuleType | None:
    """Return the package of the code folder on whose behalf this runs."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "").partition(".")[0]
        if name.startswith(_CODE):
            return sys.modules.get(name)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _source(entry: Entry) -> Source:
    source = Source.__new__(Source)
    source.name, source.spec = entry.spec.source.name, entry.spec.source
    return source
