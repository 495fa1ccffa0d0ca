"""Rows of one view in the order in which questions about them are asked: by entity, then event, then known.

The surprise: an entity's code and a row's place share one int64 (code in the high bits), so that one sort of plain
integers orders by both and the place comes out of the low bits; no argsort over two columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flyball.features.kernel.partials import Ints

__all__ = ["Timeline", "codes_of", "row_order"]


class Timeline:
    """Rows by entity, event and known time.

    Args:
        codes: Entity code per row, shape (n,), -1 where a key is null (never matches).
        event: Event time per row in µs, not decreasing; rows of equal event are ordered by (created, sequence).
        known: Known time per row in µs, at least the event time.

    Attributes:
        rows: Input position of each row that has an entity, by (code, position).
        event_keys: Code and position of those rows packed, increasing.
        known_keys: Code and place in the order of known times packed, in the same order as `rows`.
        known: The input's known times.
    """

    def __init__(self, codes: Ints, event: Ints, known: Ints) -> None:
        n = len(codes)
        self._shift = max(n, 1).bit_length()
        codes, self._dense = _fit(codes, 62 - self._shift)
        self._mask = (1 << self._shift) - 1
        self._event = event
        self.known = known
        places = np.arange(n, dtype=np.int64)
        self._by_known: Ints | None = None  # input position by known time; None: the same order
        if n and (known[1:] < known[:-1]).any():
            self._by_known = np.argsort(known, kind="stable")
        self._known_sorted = known if self._by_known is None else known[self._by_known]
        packed = (codes << self._shift) | places
        packed = packed if not n or codes.min() >= 0 else packed[codes >= 0]
        self.event_keys: Ints = np.sort(packed)
        self.rows: Ints = self.event_keys & self._mask
        self.known_keys = self.event_keys if self._by_known is None else self._pack_known(n)
        self._newest: tuple[Ints, Ints] | None = None

    def _pack_known(self, n: int) -> Ints:
        place = np.empty(n, dtype=np.int64)
        place[self._by_known] = np.arange(n)
        return (self.event_keys & ~self._mask) | place[self.rows]

    def newest(self, codes: Ints, at: Ints) -> Ints:
        """Return the input position of each request's newest row known at T, or -1.

        Newest is by (event, created, sequence), whatever the order in which rows became known.
        """
        if self._newest is None:
            self._newest = self._running()
        keys, best = self._newest
        place = self.until(keys, codes, self.place_known(at)) - 1
        if not len(best):
            return np.full(len(codes), -1, dtype=np.int64)
        found = best[np.maximum(place, 0)]
        hit = (place >= 0) & (found >> self._shift == self._codes(codes)) & (codes >= 0)
        return np.where(hit, found & self._mask, -1)

    def _running(self) -> tuple[Ints, Ints]:
        if self._by_known is None:
            return self.event_keys, self.event_keys
        keys = np.sort(self.known_keys)
        rows = self._by_known[keys & self._mask]
        return keys, np.maximum.accumulate((keys & ~self._mask) | rows)

    def place_event(self, limit: Ints) -> Ints:
        """Return how many rows, of any entity, have an event <= limit."""
        return _places(self._event, limit)

    def place_known(self, limit: Ints) -> Ints:
        """Return how many rows, of any entity, are known <= limit."""
        return _places(self._known_sorted, limit)

    def until(self, keys: Ints, codes: Ints, place: Ints) -> Ints:
        """Return how many packed keys lie before (entity, place), both by event or both by known."""
        mine = self._codes(codes)
        return _places(keys, np.where(mine >= 0, (mine << self._shift) | place, 0) - 1)  # place <= n < 2**shift

    def begins(self, picked: Ints) -> Ints:
        """Return where among these rows (places in `rows`, increasing) each entity's begin."""
        codes = self.event_keys[picked] >> self._shift
        return np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]][: len(codes)])

    def _codes(self, codes: Ints) -> Ints:
        if self._dense is None:
            return codes
        place = np.minimum(np.searchsorted(self._dense, codes), max(len(self._dense) - 1, 0))
        return np.where(self._dense[place] == codes, place, -1)


def codes_of(rows: Sequence[pa.ChunkedArray], requests: Sequence[pa.ChunkedArray]) -> tuple[Ints, Ints]:
    """Give each entity an int64 code, the same for rows and requests.

    Args:
        rows: The rows' key columns, one per key.
        requests: The requests' key columns, in the same order and of the same types.

    Returns:
        (row codes, request codes); -1 where a key is null, or a request's entity has no row.
    """
    row_codes: Ints | None = None
    request_codes: Ints | None = None
    for ours, theirs in zip(rows, requests, strict=True):
        encoded = pc.dictionary_encode(_one(ours))
        mine = _codes(encoded.indices)
        asked = _codes(pc.index_in(theirs, value_set=encoded.dictionary, skip_nulls=True))
        if row_codes is None or request_codes is None:
            row_codes, request_codes = mine, asked
        else:
            row_codes, request_codes = _pair(row_codes, request_codes, mine, asked, len(encoded.dictionary))
    assert row_codes is not None and request_codes is not None
    return row_codes, request_codes


def row_order(event: Ints, created: Ints, sequence: Ints) -> Ints | None:
    """Return the order of rows by (event, created, sequence), or None when they already lie so."""
    after = event[1:] > event[:-1]
    tie = event[1:] == event[:-1]
    later = (created[1:] > created[:-1]) | ((created[1:] == created[:-1]) & (sequence[1:] >= sequence[:-1]))
    if (after | (tie & later)).all():
        return None
    return np.lexsort((sequence, created, event))


def _places(sorted_keys: Ints, limit: Ints) -> Ints:
    """Return how many keys are <= limit, for limits in any order; neighbours are looked up together."""
    order = np.argsort(limit)
    found = np.empty(len(limit), dtype=np.int64)
    found[order] = np.searchsorted(sorted_keys, limit[order], "right")
    return found


def _fit(codes: Ints, bits: int) -> tuple[Ints, Ints | None]:
    """Make codes fit into `bits` bits; returns the distinct codes where they had to be renumbered."""
    if not len(codes) or int(codes.max()).bit_length() <= bits:
        return codes, None
    distinct, dense = np.unique(codes[codes >= 0], return_inverse=True)
    fitted = np.full(len(codes), -1, dtype=np.int64)
    fitted[codes >= 0] = dense
    return fitted, distinct


def _pair(rows: Ints, requests: Ints, mine: Ints, asked: Ints, n: int) -> tuple[Ints, Ints]:
    """Join the codes of two keys into one, renumbered when the product would not fit."""
    if len(rows) and (int(rows.max()) + 1) * max(n, 1) >= 2**62:
        distinct = np.unique(rows[rows >= 0])
        place = np.minimum(np.searchsorted(distinct, requests), len(distinct) - 1)
        requests = np.where(distinct[place] == requests, place, -1)
        rows = np.where(rows >= 0, np.searchsorted(distinct, rows), -1)
    return (
        np.where((rows >= 0) & (mine >= 0), rows * n + mine, -1),
        np.where((requests >= 0) & (asked >= 0), requests * n + asked, -1),
    )


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _codes(indices: pa.Array | pa.ChunkedArray) -> Ints:
    filled = pc.fill_null(pc.cast(indices, pa.int64()), -1)
    codes: Ints = filled.to_numpy() if isinstance(filled, pa.ChunkedArray) else filled.to_numpy(zero_copy_only=False)
    return codes
