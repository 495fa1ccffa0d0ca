"""What a routing table means for a node: its file, its hosts' names, and how to read it.

The surprise: readers never ask a database. The shared map says which version is wanted, and the file of that version
is complete before the map says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from flyball.errors import IntegrityError, Unavailable
from flyball.layout import Layout
from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef

__all__ = [
    "CLAIM",
    "WANTED",
    "explain_name",
    "host_name",
    "newest_table",
    "read_table",
    "untrusted",
    "versions",
    "wanted_file",
]

CLAIM = ".died"  # ending of the file by which one worker counts a host's death for all
WANTED = ".wanted"  # ending of the file by which workers ask for a process that is started on demand


def host_name(digest: str) -> str:
    """Return the name of the process, socket and log file of the host of an artifact."""
    return f"host-{digest[:16]}"


def explain_name(digest: str) -> str:
    """Return the name of the process, socket and log file of what explains an artifact's predictions."""
    return f"explain-{digest[:16]}"


def wanted_file(layout: Layout, name: str) -> Path:
    """Return the file whose time says when a process that is started on demand was last asked for."""
    return layout.socket(name).with_suffix(WANTED)


def read_table(layout: Layout, version: int) -> RoutingTable:
    """Return a routing table by version; 0 is the empty one.

    Raises:
        Unavailable: there is no such file.
        IntegrityError: it is no routing table of that version.
    """
    if version == 0:
        return RoutingTable(version=0, fence=0, written=0)
    path = layout.table(version)
    try:
        table = RoutingTable.from_json(path.read_bytes())
    except OSError as error:
        raise Unavailable(f"routing table {version} cannot be read from {path} ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise IntegrityError(f"{path} is no routing table ({error}); it was changed after it was written") from error
    if table.version != version:
        raise IntegrityError(f"{path} holds routing table {table.version} instead of {version}")
    return table


def newest_table(layout: Layout) -> int:
    """Return the newest version that has a file, 0 when none has: a file is written only after the commit."""
    return max((int(path.stem) for path in layout.routing.glob("*.json") if path.stem.isdigit()), default=0)


def untrusted(table: RoutingTable) -> Iterator[VersionRef]:
    """Yield every version of the table that needs a host, once per digest.

    A champion whose control cohort is to pay the same hop as the candidate needs one too, beside the workers' own copy.
    """
    seen: set[str] = set()
    for route in table.models.values():
        for ref in _hosted(route):
            if ref.digest not in seen:
                seen.add(ref.digest)
                yield ref


def versions(table: RoutingTable) -> Iterator[VersionRef]:
    """Yield every version that the table names, as often as it names it."""
    for route in table.models.values():
        yield from _named(route)


def _hosted(route: ModelRoute) -> Iterator[VersionRef]:
    yield from (ref for ref in _named(route) if not ref.trusted)
    if route.control_hosted:
        yield replace(route.champion, trusted=False)


def _named(route: ModelRoute) -> Iterator[VersionRef]:
    yield route.champion
    if route.candidate is not None:
        yield route.candidate
    yield from (variant.version for variant in route.variants)
    yield from route.warm
