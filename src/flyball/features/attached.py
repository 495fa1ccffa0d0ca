"""The views that pushed rows are applied to, and how far the store is with each of them.

The surprise: a store may hold less than this process wrote to it. A remote one that came back from an older copy is
told by its checkpoints, and what it lacks is replayed from the log before anything newer goes in.
"""

from __future__ import annotations

from collections.abc import Sequence

from flyball.errors import UnknownName
from flyball.features.applying import Layout, Part, join_rows, moved, stamped, write_slice
from flyball.features.arrival import arrivals_key
from flyball.features.cells import WindowLayout
from flyball.features.intake import Checked, Intake
from flyball.features.packing import Checkpoint, RowLayout, Rows, checkpoint_key, namespace
from flyball.features.ports import IngestLog, OnlineStore
from flyball.features.spec import SourceSpec, ViewSpec

__all__ = ["AttachedViews"]

_SLICE = 2_048  # rows in one transaction
_REPLAY = 16_384  # logged rows read together


class AttachedViews:
    """Apply logged rows to views, each from its own checkpoint on."""

    def __init__(self, store: OnlineStore, log: IngestLog, intake: Intake) -> None:
        self._store = store
        self._log = log
        self._intake = intake
        self._views: dict[str, ViewSpec] = {}  # by digest
        self._layouts: dict[str, Layout] = {}
        self._applied: dict[str, int] = {}  # by digest, what this process brought the store to
        self._present: dict[str, Checkpoint] = {}  # by digest, as of the last look

    def __contains__(self, digest: str) -> bool:
        return digest in self._views

    @property
    def all(self) -> tuple[ViewSpec, ...]:
        """Every view, in the order in which they came."""
        return tuple(self._views.values())

    @property
    def sources(self) -> tuple[SourceSpec, ...]:
        """The sources of the views, the newest definition of each name."""
        return tuple({view.source.name: view.source for view in self._views.values()}.values())

    def of(self, source: str) -> list[ViewSpec]:
        """Return the views of a source.

        Raises:
            UnknownName: no view reads it.
        """
        mine = [view for view in self._views.values() if view.source.name == source]
        if not mine:
            raise UnknownName.of("source", source, {s.name for s in self.sources})
        return mine

    def put(self, view: ViewSpec) -> None:
        """Add a view; nothing is applied to it yet."""
        self._views[view.digest] = view
        self._layouts[view.digest] = WindowLayout(view) if view.is_window else RowLayout(view)
        self._applied.setdefault(view.digest, 0)

    def remove(self, digest: str, *, drop: bool = False) -> None:
        """Take a view away; with `drop`, also what is stored for it."""
        self._views.pop(digest, None)
        self._layouts.pop(digest, None)
        self._applied.pop(digest, None)
        if drop:
            self._store.write(puts=[(checkpoint_key(digest), None), (arrivals_key(digest), None)])
            self._store.drop(namespace(digest))

    def checkpoint(self, view: ViewSpec) -> Checkpoint:
        """Return how far a view's namespace is."""
        return Checkpoint.from_bytes(self._store.get_many([checkpoint_key(view.digest)])[0])

    def unapplied_from(self, source: str) -> int | None:
        """Return the highest sequence that any view of a source was brought to; None when all are new."""
        mine = [view for view in self._views.values() if view.source.name == source]
        stored = self._store.get_many([checkpoint_key(view.digest) for view in mine])
        return max((Checkpoint.from_bytes(s).sequence for s in stored if s is not None), default=None)

    def lag(self) -> bool:
        """Look at the checkpoints; return whether the store holds less than this process wrote to it."""
        digests = list(self._applied)
        stored = self._store.get_many([checkpoint_key(d) for d in digests])
        self._present = {d: Checkpoint.from_bytes(s) for d, s in zip(digests, stored, strict=True)}
        return any(c.sequence < self._applied[d] and not c.building for d, c in self._present.items())

    def apply(self, pushes: Sequence[Checked], arrivals: Sequence[int], firsts: Sequence[int]) -> None:
        """Write logged pushes to every view that is not being rebuilt, from the checkpoints of the last look on.

        In slices of the log, each in one transaction over all views.
        """
        rows = self._by_view(pushes, arrivals, firsts)
        arrival, first = max(arrivals), min(firsts)
        end = max(first + len(p.rows) - 1 for p, first in zip(pushes, firsts, strict=True))
        for begin in range(first, end + 1, _SLICE):
            last = min(begin + _SLICE - 1, end)
            parts: list[Part] = []
            for digest, some in rows:
                whole = begin == first and last == end
                mine = some if whole else some.take((some.sequence >= begin) & (some.sequence <= last))
                note = moved(self._present[digest], last)
                parts.append((self._views[digest], self._layouts[digest], mine, note))
            write_slice(self._store, parts, arrival)
            for view, _, _, note in parts:
                self._applied[view.digest] = note.sequence

    def catch_up(self, view: ViewSpec) -> int:
        """Replay the log from a view's checkpoint; return how many rows. One that is being rebuilt waits for that."""
        present = self.checkpoint(view)
        if present.building:
            return 0
        replayed = 0
        for raw in self._log.read_batches(view.source.name, after=present.sequence, rows=_REPLAY):
            stamps, sequence = (raw.column(n).to_numpy() for n in ("__arrival", "__sequence"))
            _, _, rows = self._intake.read([view], raw.drop_columns(["__arrival", "__sequence"]), sequence, stamps)
            present = moved(present, int(sequence[-1]))
            part = (view, self._layouts[view.digest], rows[view.digest], present)
            write_slice(self._store, [part], int(stamps.max()))
            replayed += raw.num_rows
        if not replayed and self._store.get_many([checkpoint_key(view.digest)])[0] is None:
            self._store.write(puts=[(checkpoint_key(view.digest), present.to_bytes())])  # it is no new view any more
        self._applied[view.digest] = present.sequence
        return replayed

    def _by_view(
        self, pushes: Sequence[Checked], arrivals: Sequence[int], firsts: Sequence[int]
    ) -> list[tuple[str, Rows]]:
        """Return the rows of all pushes, stamped and numbered, by the digest of the view that gets them."""
        found: dict[str, list[Rows]] = {}
        for push, arrival, first in zip(pushes, arrivals, firsts, strict=True):
            for digest, rows in push.views.items():
                found.setdefault(digest, []).append(stamped(rows, arrival, first))
        return [(d, join_rows(some)) for d, some in found.items() if not self._present[d].building]
