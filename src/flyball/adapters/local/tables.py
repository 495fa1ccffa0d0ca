"""What a routing table means for a node: its file, its hosts' names, and how to read it.

The surprise: readers never ask a database. The shared map says which version is wanted, and the file of that version
is complete before the map says so.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from flyball.errors import IntegrityError, Unavailable
from flyball.layout import Layout
from flyball.rollout.routing import RoutingTable, VersionRef

__all__ = ["host_name", "newest_table", "read_table", "untrusted"]


def host_name(digest: str) -> str:
    """Return the name of the process, socket and log file of the host of an artifact."""
    return f"host-{digest[:16]}"


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
    """Yield every version of the table that needs a host, once per digest."""
    seen: set[str] = set()
    for route in table.models.values():
        for ref in (route.champion, route.candidate, *route.warm):
            if ref is not None and not ref.trusted and ref.digest not in seen:
                seen.add(ref.digest)
                yield ref
