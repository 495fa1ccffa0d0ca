"""Rows of one view between reading and packing: columns of numpy values, entities by index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Rows", "stack"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one view, ready to pack: entity as an index into `keys`, times in µs, one column per feature or slot.

    A column is (values, is null): float64, int64 (times in µs, dates in days), vectors float32 (n, k), else objects.
    """

    keys: list[bytes]
    owner: np.ndarray
    event: np.ndarray
    created: np.ndarray
    known: np.ndarray
    sequence: np.ndarray
    columns: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # name -> (values, is null)

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, which: np.ndarray) -> Rows:
        """Return some of the rows, by mask or index, with the same keys."""
        columns = {n: (v[which], m[which]) for n, (v, m) in self.columns.items()}
        return Rows(self.keys, self.owner[which], self.event[which], self.created[which], self.known[which],
                    self.sequence[which], columns)  # fmt: skip


def stack(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate columns of several reads; where a part is all null, its type and shape do not matter."""
    wide = next((p.shape[1] for p in parts if p.ndim == 2), None)
    if wide is not None:
        parts = [p if p.ndim == 2 else np.zeros((len(p), wide), np.float32) for p in parts]
        if any(p.shape[1] != wide for p in parts):
            return np.fromiter((row for p in parts for row in p), object)
    kinds = {p.dtype.kind for p in parts if len(p)}
    if "O" in kinds and len(kinds) > 1:
        parts = [p.astype(object) for p in parts]
    return np.concatenate(parts)
