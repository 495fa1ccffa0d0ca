"""Which files a view has taken in, and what has arrived since. Pure.

The surprise: an incremental run goes by arrival, never by event time. Whatever stands in a file that was not there
before is new, however old its events are, so late rows and corrections land. A file that changed under its name, or is
gone, cannot be told row by row: the view is rebuilt, and the run says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from flyball.features.ports import FileInfo

__all__ = ["Arrivals", "Run", "Seen", "arrivals_key", "changed", "fresh"]


class Seen(msgspec.Struct, frozen=True):
    """One file as it was taken in.

    `newest` is an upper bound of when its rows were known by themselves (µs): above the checkpoint's `until` there are
    rows still to come. `published` is when materialization made the file readable, for files that appeared after the
    first run; None means that only the declared delay counts.
    """

    index: int
    size: int
    mtime_ns: int
    newest: int
    published: int | None = None


class Run(msgspec.Struct, frozen=True):
    """A run under way, so that it goes on after a kill as it began.

    `parts` is how many hash partitions there are, `published` the stamp of files that are new to the view, `start` and
    `end` bound a backfill (event time, µs), `clean` says that nothing was stored before, so nothing can be stale.
    """

    mode: str  # "full", "arrival" or "range"
    reason: str
    files: dict[str, Seen]  # what the view has taken in when the run is done
    new: tuple[str, ...] = ()
    parts: int = 1
    published: int | None = None
    start: int | None = None
    end: int | None = None
    clean: bool = False


class Arrivals(msgspec.Struct, frozen=True):
    """What a view's namespace has taken in, and the run under way; kept in the store beside its rows."""

    files: dict[str, Seen] = {}
    run: Run | None = None

    def to_bytes(self) -> bytes:
        """Return the stored form."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes | None) -> Arrivals:
        """Read what `to_bytes` wrote; None is the beginning."""
        return cls() if data is None else msgspec.msgpack.decode(data, type=cls)


def arrivals_key(digest: str) -> bytes:
    """Return the key of the view's arrivals."""
    return b"f" + bytes.fromhex(digest)


def changed(before: Mapping[str, Seen], now: Sequence[FileInfo]) -> str:
    """Return why the files taken in before can no longer be added to, or "" when they can.

    Rows are numbered by their file's place in name order, so a file that sorts before known ones renumbers those.
    """
    present = {f.path: f for f in now}
    for path, seen in sorted(before.items()):
        found = present.get(path)
        if found is None:
            return f"file {path} is gone"
        if (found.size, found.mtime_ns) != (seen.size, seen.mtime_ns):
            return f"file {path} was rewritten"
        if found.index != seen.index:
            return "a new file sorts before files that were taken in"
    return ""


def fresh(before: Mapping[str, Seen], now: Sequence[FileInfo]) -> tuple[str, ...]:
    """Return the files that have appeared since, in order."""
    return tuple(f.path for f in now if f.path not in before)
