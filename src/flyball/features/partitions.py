"""Rows of a source by parts of their entities, so that a part fits into memory however large the source is.

The surprise: a small source is one part and never touches the disk. A large one is read once, in bounded pieces, and
each piece is cut by a hash of the entity's key into spill files; all rows of an entity land in the same one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Parts", "part_of"]

_MIX = np.uint64(0x9E3779B97F4A7C15)


def part_of(columns: Sequence[pa.ChunkedArray], parts: int) -> npt.NDArray[np.int64]:
    """Return the part of each row, shape (rows,), in [0, parts): a hash of its key columns, the same on any machine."""
    import pyarrow as pa

    mixed = np.zeros(len(columns[0]), np.uint64)
    with np.errstate(over="ignore"):
        for column in columns:
            whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            mixed = (mixed ^ _hashes(whole)) * _MIX
            mixed ^= mixed >> np.uint64(29)
    return (mixed % np.uint64(parts)).astype(np.int64)


def _hashes(column: pa.Array) -> npt.NDArray[np.uint64]:
    import pyarrow as pa

    if pa.types.is_integer(column.type):
        whole: npt.NDArray[np.uint64] = (
            column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
        )
        return whole
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    known = np.array([zlib.crc32(str(v).encode()) for v in coded.dictionary.to_pylist()] or [0], np.uint64)
    found: npt.NDArray[np.uint64] = known[coded.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    return found


class Parts:
    """Tables of one run, cut into `count` parts; `close` removes what was spilled.

    Args:
        keys: The entity's key columns.
        count: How many parts; with one, `add` keeps tables in memory.
        folder: Where to spill; made and removed here.
    """

    def __init__(self, keys: Sequence[str], count: int, folder: Path | None) -> None:
        self._keys = list(keys)
        self.count = count
        self._folder = folder
        self._held: list[pa.Table] = []
        self._writers: list[Any] = [None] * count
        self.rows = 0

    def add(self, tables: Iterable[pa.Table]) -> None:
        """Take rows; every table has the same schema."""
        for table in tables:
            self.rows += table.num_rows
            if self.count == 1:
                self._held.append(table)
            elif table.num_rows:
                self._spill(table)

    def __iter__(self) -> Iterator[pa.Table | None]:
        """Yield each part's rows, None for a part without any."""
        for number in range(self.count):
            yield self.part(number)

    def part(self, number: int) -> pa.Table | None:
        """Return one part's rows; a part is given out once when it is held in memory."""
        import pyarrow as pa

        if self.count == 1:
            tables, self._held = self._held, []
            return pa.concat_tables(tables) if tables else None
        self._finish()
        path = self._path(number)
        if not path.exists():
            return None
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_stream(source).read_all()

    def close(self) -> None:
        """Remove the spill files."""
        self._finish()
        if self._folder is not None and self._folder.exists():
            for path in self._folder.glob("part-*.arrow"):
                path.unlink()
            self._folder.rmdir()

    def _spill(self, table: pa.Table) -> None:
        import pyarrow as pa

        which = part_of([table.column(k) for k in self._keys], self.count)
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(self.count), "right")
        cut = table.take(pa.array(order))
        begin = 0
        for number, end in enumerate(ends.tolist()):
            if end > begin:
                self._writer(number, table.schema).write_table(cut.slice(begin, end - begin))
            begin = end

    def _writer(self, number: int, schema: pa.Schema) -> Any:
        import pyarrow as pa

        if self._writers[number] is None:
            self._path(number).parent.mkdir(parents=True, exist_ok=True)
            self._writers[number] = pa.ipc.new_stream(str(self._path(number)), schema)
        return self._writers[number]

    def _finish(self) -> None:
        for number, writer in enumerate(self._writers):
            if writer is not None:
                writer.close()
                self._writers[number] = None

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"part-{number:05d}.arrow"
