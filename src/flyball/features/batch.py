"""One write to an online store, sorted by what decides it; for stores that merge at the client.

Stores that hold a lock while they merge (LMDB) need none of this. The others let their server decide the usual case, a
lone row record, and come here with what the server cannot decide: window cells, row chains, one key written twice.
The surprise: keys keep their order of operations, so a batch ends in the bytes that applying it one by one would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flyball.features.cells import merge_windows
from flyball.features.packing import merge_rows

__all__ = ["Batch", "Folded"]

Item = tuple[bytes, bytes]
_ROW, _CELL, _PUT = range(3)


@dataclass(frozen=True, slots=True)
class Folded:
    """What merging came to: the new value of each key (None: it is removed), and how many row values won."""

    values: dict[bytes, bytes | None]
    won: int


@dataclass(slots=True)
class Batch:
    """A write, by key: `rows` and `puts` have one operation each, `folds` need the stored value at the client."""

    rows: dict[bytes, bytes] = field(default_factory=dict)
    puts: dict[bytes, bytes | None] = field(default_factory=dict)
    folds: dict[bytes, list[tuple[int, bytes | None]]] = field(default_factory=dict)

    @classmethod
    def of(cls, newer: Sequence[Item], cells: Sequence[Item], puts: Iterable[tuple[bytes, bytes | None]]) -> Batch:
        """Sort the operations of one write."""
        batch = cls()
        for key, value in newer:
            batch._row(key, value)
        for key, value in cells:
            batch._fold(key, _CELL, value)
        for key, plain in puts:
            if key in batch.rows or key in batch.folds:
                batch._fold(key, _PUT, plain)
            else:
                batch.puts[key] = plain
        return batch

    def _row(self, key: bytes, value: bytes) -> None:
        if key in self.folds:
            self.folds[key].append((_ROW, value))
        elif key in self.rows:
            self.folds[key] = [(_ROW, self.rows.pop(key)), (_ROW, value)]
        else:
            self.rows[key] = value

    def _fold(self, key: bytes, kind: int, value: bytes | None) -> None:
        if key in self.rows:
            self.folds[key] = [(_ROW, self.rows.pop(key))]
        self.folds.setdefault(key, []).append((kind, value))

    def hand_over(self, keys: Iterable[bytes]) -> None:
        """Take row keys that the server could not decide to the client."""
        for key in keys:
            self.folds[key] = [(_ROW, self.rows.pop(key))]

    def fold(self, stored: Mapping[bytes, bytes | None]) -> Folded:
        """Apply every fold to its stored value; `stored` has each of those keys.

        Raises:
            IntegrityError: a stored window value has another layout than the new one.
        """
        plain = [key for key, ops in self.folds.items() if len(ops) == 1 and ops[0][0] == _CELL]
        merged = merge_windows([(stored[key], self.folds[key][0][1] or b"") for key in plain]) if plain else []
        values: dict[bytes, bytes | None] = dict(zip(plain, merged, strict=True))
        won = 0
        for key, ops in self.folds.items():
            if key not in values:
                values[key], count = _one_by_one(stored[key], ops)
                won += count
        return Folded(values, won)


def _one_by_one(value: bytes | None, ops: Sequence[tuple[int, bytes | None]]) -> tuple[bytes | None, int]:
    won = 0
    for kind, new in ops:
        if kind == _PUT or new is None:
            value = new
        elif kind == _CELL:
            value = merge_windows([(value, new)])[0]
        else:
            changed = merge_rows(value, new)
            if changed is not None:
                value, won = changed, won + 1
    return value, won
