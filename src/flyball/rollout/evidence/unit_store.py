"""Keep what is known of each unit: in memory while there are few, in a scratch file of the rollout when there are many.

The surprise: the file is never trusted. Every controller that takes over folds the evidence log again and begins a file
of its own, so a lost or torn one costs that walk and nothing else, and what is answered does not depend on what lies
where. Entries go to the file in one batch after a fold.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from flyball.errors import IntegrityError

__all__ = ["HOT", "UnitStore", "UnitTable", "UnitsLost", "sweep"]

HOT = 200_000  # entries in memory before a batch goes to the file: about 40 MB
_BITS = 1 << 26  # of the filter that spares a look at the file for units not seen before: 8 MiB
_CACHE = "PRAGMA cache_size = -16384"  # 16 MiB
Value = tuple[Any, ...]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple).decode


class UnitsLost(IntegrityError):
    """A scratch file cannot be read or written any more; whoever folds begins again from the evidence log."""


class UnitTable:
    """One map from a unit's hash to a tuple of numbers."""

    __slots__ = ("_id", "_store", "hot")

    def __init__(self, store: UnitStore, id: int) -> None:
        self.hot: dict[int, Value] = {}
        self._store, self._id = store, id

    def get(self, unit: int) -> Value | None:
        """Return what is known of a unit, None when nothing is."""
        found = self.hot.get(unit)
        if found is None and self._store.spilled:
            found = self._store.read(self._id, unit)
        return found

    def set(self, unit: int, value: Value) -> None:
        """Replace what is known of a unit."""
        self.hot[unit] = value


class UnitStore:
    """The unit tables of one rollout.

    Args:
        folder: Where the scratch file goes, None to keep everything in memory.
        hot: Entries that stay in memory.
    """

    def __init__(self, folder: Path | None = None, *, hot: int = HOT) -> None:
        self._folder, self._hot = folder, hot
        self._tables: list[UnitTable] = []
        self._file: sqlite3.Connection | None = None
        self._path: Path | None = None
        self._filter = bytearray()
        self.spilled = False

    def table(self) -> UnitTable:
        """Return a new, empty table."""
        made = UnitTable(self, len(self._tables))
        self._tables.append(made)
        return made

    def settle(self) -> None:
        """Write everything in memory to the file in one batch, when there is too much of it.

        Raises:
            UnitsLost: the file cannot be written; fold the evidence log again.
        """
        if self._folder is None or sum(len(table.hot) for table in self._tables) <= self._hot:
            return
        rows = [(n, unit, _encode(v)) for n, table in enumerate(self._tables) for unit, v in table.hot.items()]
        try:
            file = self._open(self._folder)
            with file:
                file.executemany("INSERT OR REPLACE INTO units VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise self._torn(error) from error
        for number, unit, _ in rows:
            for bit in _positions(number, unit):
                self._filter[bit >> 3] |= 1 << (bit & 7)
        self.spilled = True
        for table in self._tables:
            table.hot = {}

    def read(self, id: int, unit: int) -> Value | None:
        """Return an entry of the file."""
        if not all(self._filter[bit >> 3] & (1 << (bit & 7)) for bit in _positions(id, unit)) or self._file is None:
            return None
        try:
            row = self._file.execute("SELECT value FROM units WHERE id = ? AND unit = ?", (id, unit)).fetchone()
            return None if row is None else _decode(row[0])
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise self._torn(error) from error

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            with contextlib.suppress(sqlite3.Error):
                self._file.close()
            self._file = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _open(self, folder: Path) -> sqlite3.Connection:
        if self._file is None:
            folder.mkdir(parents=True, exist_ok=True)
            self._path = folder / f"units-{os.getpid()}-{id(self):x}.scratch"
            self._path.unlink(missing_ok=True)
            self._file = sqlite3.connect(self._path, check_same_thread=False)
            for pragma in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", _CACHE):
                self._file.execute(pragma)
            self._file.execute(
                "CREATE TABLE units (id INTEGER, unit INTEGER, value BLOB, PRIMARY KEY (id, unit)) WITHOUT ROWID"
            )
            self._filter = bytearray(_BITS >> 3)
        return self._file

    def _torn(self, error: Exception) -> UnitsLost:
        return UnitsLost(
            f"the unit accumulators of {self._folder.name if self._folder else 'a rollout'} cannot be read ({error}); "
            "they are rebuilt from the evidence log"
        )


def sweep(folder: Path) -> None:
    """Remove scratch files that earlier controllers left; one that still has its file open keeps it."""
    for path in folder.glob("units-*.scratch*"):
        path.unlink(missing_ok=True)


def _positions(id: int, unit: int) -> tuple[int, int, int]:
    mixed = (unit ^ (id + 1) * 0x9E3779B97F4A7C15) & 0x7FFFFFFFFFFFFFFF
    return mixed & (_BITS - 1), (mixed >> 18) & (_BITS - 1), (mixed >> 37) & (_BITS - 1)
