"""Read pushes before anything is logged: what can be applied is kept, the rest is refused.

The surprise: a push is read here exactly as history and a replay will read it, through `reading.accept`. So whatever
the log holds can be applied; only stamps and sequences come later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from flyball.errors import BadRequest, FlyballError, InputError
from flyball.features.packing import Rows, read_rows
from flyball.features.ports import IngestLog
from flyball.features.pushcheck import check_pushed
from flyball.features.pushes import Batch, id_key, id_keys
from flyball.features.raw import raw_table
from flyball.features.reading import accept, file_types
from flyball.features.spec import ColumnType, SourceSpec, ViewSpec

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Checked", "Intake"]

Row = dict[str, Any]
_UNSTAMPED = -(2**62)


@dataclass(slots=True)
class Checked:
    """A push that may be logged; its rows wait for stamp and sequence."""

    place: int
    batch: Batch
    rows: list[Row]
    keys: list[bytes]
    accepted: int
    rejected: int
    duplicates: int
    seen: int  # sequence of the first duplicate
    views: dict[str, Rows]


class Intake:
    """Check pushes and read logged rows, by the column types of the source's files.

    Args:
        log: Whose event ids tell what was taken before.
        root: The project's root; None when pushed rows alone tell the types.
        state: The project's state folder, where types that were pinned at apply lie.
    """

    def __init__(self, log: IngestLog, *, root: Path | None, state: Path | None) -> None:
        self._log = log
        self._root = root
        self._state = state
        self._types: dict[str, Mapping[str, ColumnType] | None] = {}

    def forget(self, source: str) -> None:
        """Look at the types of a source again when they are needed next."""
        self._types.pop(source, None)

    def check(self, place: int, batch: Batch, views: Sequence[ViewSpec], taken: dict[bytes, int]) -> Checked:
        """Read rows for the views of their source; leave out what was taken before.

        Args:
            place: Of the push among those that are taken together.
            batch: The push.
            views: The views of its source, at least one, the newest definition last.
            taken: Event ids of the pushes before it; those of this push are added.

        Raises:
            InputError: a row misses a column or has a wrong type.
            BadRequest: what was sent cannot be rows.
        """
        spec = views[-1].source
        if not isinstance(batch.rows, list):
            raise BadRequest(f"rows pushed to {spec.name!r} are {type(batch.rows).__name__}; send a list of objects")
        rows, seen, duplicates = self._check_rows(spec, batch.rows), 0, 0
        keys: list[bytes] = []
        if spec.event_id:
            rows, keys, seen = self._fresh(spec, rows, taken)
            duplicates = len(batch.rows) - len(rows)
        raw = raw_table(rows) if rows else None
        accepted, rejected, read = self.read(views, raw, np.arange(len(rows)), np.full(len(rows), _UNSTAMPED))
        taken.update(dict.fromkeys(keys, 1))
        return Checked(place, batch, rows, keys, accepted, rejected, duplicates, seen, read)

    def explain(self, views: Sequence[ViewSpec], rows: Sequence[Any]) -> dict[int, str]:
        """Return what is wrong with each row that cannot be taken, by its place."""
        spec = views[-1].source
        wrong: dict[int, str] = {}
        for k, row in enumerate(rows):
            try:
                checked = self._check_rows(spec, [row])
                if spec.event_id:
                    id_keys(spec, checked)
            except InputError as error:
                wrong[k] = str(error).removeprefix("row 0 ")
        return wrong or self._unreadable(views, rows)

    def read(
        self, views: Sequence[ViewSpec], raw: pa.Table | None, sequence: np.ndarray, arrival: np.ndarray
    ) -> tuple[int, int, dict[str, Rows]]:
        """Return how many rows of a source are accepted and rejected, and the accepted ones for each view by digest.

        Args:
            views: Views of one source; the last one's definition is what is counted.
            raw: Raw columns; None for no row.
            sequence: Places in the log, int64, shape (rows,).
            arrival: Stamps in µs, int64, shape (rows,).
        """
        import pyarrow as pa

        if raw is None:
            return 0, 0, {}
        raw = raw.append_column("__sequence", pa.array(sequence, pa.int64()))
        raw = raw.append_column("__arrival", pa.array(arrival, pa.int64()))
        read: dict[SourceSpec, tuple[pa.Table, int]] = {}
        for view in views:  # two digests of a view may see two definitions of one source
            if view.source not in read:
                read[view.source] = accept(view.source, raw, self._types_of(view.source))
        table, rejected = read[views[-1].source]
        return table.num_rows, rejected, {view.digest: read_rows(view, read[view.source][0]) for view in views}

    def follow_ids(self, source: SourceSpec) -> None:
        """Bring the index of event ids up to the log; a source without event ids has none."""
        if not source.event_id:
            return
        ids = self._log.event_ids
        for raw in self._log.read_batches(source.name, after=ids.covered(source.name)):
            sequence = raw.column("__sequence").to_pylist()
            values = raw.column(source.event_id).to_pylist() if source.event_id in raw.column_names else []
            known = [(id_key(source.name, v), at) for v, at in zip(values, sequence, strict=False) if v is not None]
            arrival = int(raw.column("__arrival")[-1].as_py())
            ids.add(source.name, [key for key, _ in known], [at for _, at in known], arrival, last=sequence[-1])

    def _unreadable(self, views: Sequence[ViewSpec], rows: Sequence[Any]) -> dict[int, str]:
        """Return what only shows when a row is derived and filtered."""
        wrong: dict[int, str] = {}
        for k, row in enumerate(rows):
            try:
                self.read(views, raw_table([row]), np.zeros(1, np.int64), np.zeros(1, np.int64))
            except FlyballError as error:
                wrong[k] = str(error)
        return wrong

    def _check_rows(self, spec: SourceSpec, rows: list[Row]) -> list[Row]:
        """Return the rows as the log will give them back: what is applied now is what a replay applies."""
        check_pushed(spec, rows, self._types_of(spec))
        names = dict.fromkeys(name for keys in {tuple(row) for row in rows} for name in keys)
        reserved = next((name for name in names if not isinstance(name, str) or name[:2] == "__"), None)
        if reserved is not None:
            raise BadRequest(f"a row pushed to {spec.name!r} has a column {reserved!r}; such names are flyball's own")
        try:
            logged: list[Row] = msgspec.msgpack.decode(msgspec.msgpack.encode(rows))
        except (TypeError, OverflowError, ValueError) as error:
            raise BadRequest(f"rows pushed to {spec.name!r} hold a value that cannot be logged: {error}") from error
        return logged

    def _fresh(self, spec: SourceSpec, rows: list[Row], taken: dict[bytes, int]) -> tuple[list[Row], list[bytes], int]:
        """Return the rows whose event id is new, their ids' digests, and where the first other one was taken."""
        keys = id_keys(spec, rows)
        found = self._log.event_ids.find(keys)
        here: set[bytes] = set()
        kept: list[int] = []
        for k, (key, sequence) in enumerate(zip(keys, found, strict=True)):
            if not sequence and key not in taken and key not in here:
                here.add(key)
                kept.append(k)
        seen = next((sequence for sequence in found if sequence), 0)
        if len(kept) == len(rows):
            return rows, keys, seen
        return [rows[k] for k in kept], [keys[k] for k in kept], seen

    def _types_of(self, spec: SourceSpec) -> Mapping[str, ColumnType] | None:
        if spec.name not in self._types:
            told = self._root is not None or bool(spec.schema)
            self._types[spec.name] = file_types(self._root or Path(), spec, self._state) if told else None
        return self._types[spec.name]
