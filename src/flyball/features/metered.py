"""An online store whose writes are timed; for the process that writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["MeteredStore"]

Observe = Callable[[str, float, bool], None]
Item = tuple[bytes, bytes]


class MeteredStore:
    """Do what a store does and tell `observe(operation, seconds, failed)` of each write and drop.

    Args:
        store: The store.
        observe: Called after each write, also after one that failed.
    """

    def __init__(self, store: Any, observe: Observe) -> None:
        self._store = store
        self._observe = observe
        self.get_many = store.get_many
        self.keys = store.keys
        self.remote: bool = getattr(store, "remote", False)

    def write(
        self,
        *,
        newer: Sequence[Item] = (),
        cells: Sequence[Item] = (),
        puts: Sequence[tuple[bytes, bytes | None]] = (),
    ) -> int:
        """Write, timed."""
        return int(self._timed("write", lambda: self._store.write(newer=newer, cells=cells, puts=puts)))

    def pages(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Ask the store."""
        return iter(self._store.pages(prefix))

    def drop(self, prefix: bytes) -> int:
        """Drop, timed."""
        return int(self._timed("drop", lambda: self._store.drop(prefix)))

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _timed(self, operation: str, work: Callable[[], int]) -> int:
        begun, failed = time.perf_counter(), True
        try:
            done = work()
            failed = False
            return done
        finally:
            self._observe(operation, time.perf_counter() - begun, failed)
