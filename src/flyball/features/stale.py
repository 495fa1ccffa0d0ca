"""Find the keys that a full rebuild did not write, in bounded memory.

The surprise: a large run's keys are remembered as hashes in spill files, cut by the hash itself; what the store holds
is cut the same way, and then only one piece at a time is compared. A stale key with the hash of a written one would
stay: with 64 bits, one chance in 18,000 where ten million are stale and a hundred million were written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from flyball.features.partitions import Parts

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.ports import OnlineStore

__all__ = ["Written"]

_PAGE = 10_000  # keys removed at once


class Written:
    """The keys of one run.

    Args:
        folder: Where to spill; None or one part keeps all in memory.
        parts: How many pieces to compare.
    """

    def __init__(self, folder: Path | None, parts: int) -> None:
        count = parts if folder is not None else 1
        self._parts, self._stored = (
            Parts(["hash"], count, None if folder is None else folder.with_name(f"{folder.name}-{name}"))
            for name in ("written", "stored")
        )

    def add(self, keys: Sequence[bytes]) -> None:
        """Take keys that were written, or will be."""
        import pyarrow as pa

        self._parts.add([pa.table({"hash": pa.array(_hashes(keys))})])

    def stale(self, store: OnlineStore, prefix: bytes) -> Iterator[list[bytes]]:
        """Yield the stored keys that were not written, some thousands at a time; to be asked once."""
        for some in store.pages(prefix):
            self._stored.add([_table(some)])
        for number in range(self._parts.count):
            stored, mine = self._stored.part(number), self._parts.part(number)
            if stored is not None and stored.num_rows:
                written = np.empty(0, np.int64) if mine is None else mine.column("hash").to_numpy()
                gone = stored.column("key").filter(_mask(stored.column("hash").to_numpy(), written))
                for i in range(0, len(gone), _PAGE):
                    yield gone.slice(i, _PAGE).to_pylist()

    def close(self) -> None:
        """Remove what was spilled."""
        self._parts.close()
        self._stored.close()


def _table(keys: Sequence[bytes]) -> pa.Table:
    import pyarrow as pa

    return pa.table({"hash": pa.array(_hashes(keys)), "key": pa.array(keys, pa.binary())})


def _mask(stored: np.ndarray, written: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.array(~np.isin(stored, written))


def _hashes(keys: Sequence[bytes]) -> np.ndarray:
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64, len(keys)).view(np.int64)
