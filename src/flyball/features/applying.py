"""Write pushed rows of several views to the store, a slice of the log at a time.

The surprise: a slice is one transaction over all views of the group, checkpoints included. So after a crash a row is
in every view or in none, and one correction of its publication is right for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from flyball.features.cells import WindowLayout
from flyball.features.packing import SPAN, Checkpoint, RowLayout, Rows, checkpoint_key, namespace
from flyball.features.ports import OnlineStore
from flyball.features.spec import ViewSpec

__all__ = ["Layout", "Part", "join_rows", "moved", "stamped", "write_slice"]

Layout = WindowLayout | RowLayout
Part = tuple[ViewSpec, Layout, Rows, Checkpoint]  # what one view gets, and its checkpoint after that


def write_slice(store: OnlineStore, parts: Sequence[Part], arrival: int) -> None:
    """Write rows and checkpoints of views in one transaction; `arrival` is the newest stamp among the rows."""
    newer: list[tuple[bytes, bytes]] = []
    cells: list[tuple[bytes, bytes]] = []
    puts: list[tuple[bytes, bytes | None]] = []
    for view, layout, rows, checkpoint in parts:
        prefix = namespace(view.digest)
        into = cells if view.is_window else newer
        into += [(prefix + key, value) for key, value in layout.pack(rows, arrival - SPAN)]
        puts.append((checkpoint_key(view.digest), checkpoint.to_bytes()))
    if puts:
        store.write(newer=newer, cells=cells, puts=puts)


def moved(checkpoint: Checkpoint, sequence: int) -> Checkpoint:
    """Return the checkpoint moved to a sequence; never back."""
    return msgspec.structs.replace(checkpoint, sequence=max(checkpoint.sequence, sequence))


def stamped(rows: Rows, arrival: int, first: int) -> Rows:
    """Return rows that were read without an arrival, with one, and with their places in the log."""
    return replace(rows, known=np.maximum(rows.known, arrival), sequence=rows.sequence + first)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several reads as one, with the union of their keys."""
    if len(parts) == 1:
        return parts[0]
    keys = list(dict.fromkeys(key for part in parts for key in part.keys))
    place = {key: i for i, key in enumerate(keys)}
    owner = [np.array([place[k] for k in part.keys], np.int64)[part.owner] for part in parts]
    columns = {
        name: (_stack([p.columns[name][0] for p in parts]), np.concatenate([p.columns[name][1] for p in parts]))
        for name in parts[0].columns
    }
    event, created, known, sequence = (
        np.concatenate([getattr(p, n) for p in parts]) for n in ("event", "created", "known", "sequence")
    )
    return Rows(keys, np.concatenate(owner), event, created, known, sequence, columns)


def _stack(values: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate; where one part has no numbers because all of it is null, its type does not matter."""
    kinds = {v.dtype.kind for v in values if len(v)}
    if "O" in kinds and len(kinds) > 1:
        return np.concatenate([v.astype(object) for v in values])
    return np.concatenate(values)
