"""Windows over event time: hops, cells, and their evaluation for many requests at once.

A window W at T covers (floor_hop(T - W), T]: its old edge is floored to a hop so that stored cells answer it, its new
edge is exact. Cells are left-open and right-closed, cell k is (k * hop, (k + 1) * hop]. The surprise: in batch no cells
are built. Rows lie sorted by entity and event, and a tree of partials over them answers any range in a few dozen
vector steps; rows that became known out of order form chains of their own, and the few left over are gone through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from flyball.errors import DefinitionError
from flyball.features.kernel.pairs import Asked, PairFold, fold_pairs, slices
from flyball.features.kernel.partials import Floats, Ints, Partials, combine, empty, finish, fold, of_values
from flyball.features.kernel.ranges import Ends, Vectors, Wholes, nowhere
from flyball.features.kernel.ranked import quantile
from flyball.features.kernel.slots import Column, Slot, planned
from flyball.features.kernel.timeline import Timeline
from flyball.features.kernel.wholes import finish as whole_finish
from flyball.features.spec import FeatureSpec, Stat, Status
from flyball.features.types import is_vector

__all__ = ["LADDER", "cell_of", "evaluate", "first_cell", "floor_hop", "hop_for"]

_SECOND = 1_000_000
LADDER = tuple(s * _SECOND for s in (1, 5, 15, 60, 300, 900, 1800, 3600, 10_800, 21_600, 86_400))
"""Hops in microseconds: 1 s, 5 s, 15 s, 1 m, 5 m, 15 m, 30 m, 1 h, 3 h, 6 h, 1 d."""
_PARTS = 48
_PAIRS = 2_000_000  # request-row pairs looked at together: bounds memory at about 100 MB
_CHAINS, _MANY_CHAINS = 3, 24
_EXACT = {"wholes", "first", "last"}
_MANY_PAIRS = 8_000_000  # from here on a wavelet matrix is cheaper than looking at each pair


def hop_for(window: int) -> int:
    """Return the hop of a window, both in microseconds: the largest of the ladder that is at most W / 48.

    Raises:
        DefinitionError: the window is shorter than 48 s, or no whole number of hops.
    """
    fitting = [hop for hop in LADDER if hop * _PARTS <= window]
    if not fitting:
        raise DefinitionError(f"a window of {window / _SECOND:g} s is too short; the shortest window is {_PARTS} s")
    if window % fitting[-1]:
        hop = fitting[-1] // _SECOND
        raise DefinitionError(
            f"a window of {window / _SECOND:g} s is no whole number of its hops of {hop} s; "
            f"use {window // fitting[-1] * hop} s or {(window // fitting[-1] + 1) * hop} s"
        )
    return fitting[-1]


@overload
def floor_hop(at: int, hop: int) -> int: ...
@overload
def floor_hop(at: Ints, hop: int) -> Ints: ...
def floor_hop(at: int | Ints, hop: int) -> int | Ints:
    """Return the last multiple of `hop` that is not after `at`."""
    return at // hop * hop


@overload
def cell_of(event: int, hop: int) -> int: ...
@overload
def cell_of(event: Ints, hop: int) -> Ints: ...
def cell_of(event: int | Ints, hop: int) -> int | Ints:
    """Return the index k of the cell (k * hop, (k + 1) * hop] that holds an event."""
    return (event - 1) // hop


@overload
def first_cell(at: int, window: int, hop: int) -> int: ...
@overload
def first_cell(at: Ints, window: int, hop: int) -> Ints: ...
def first_cell(at: int | Ints, window: int, hop: int) -> int | Ints:
    """Return the oldest cell of a window at T; it covers cells from here to `cell_of(at, hop)`, the last up to T."""
    return (at - window) // hop


def evaluate(
    rows: Timeline,
    columns: Mapping[str, Column],
    features: Iterable[FeatureSpec],
    codes: Ints,
    at: Ints,
) -> list[tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]]:
    """Answer window features for requests.

    Args:
        rows: The view's rows.
        columns: The features' slots by name (`slots.columns`), of the rows in the timeline's input order.
        features: Window features.
        codes: Entity code of each request, -1 where its key is null or unknown.
        at: T of each request, µs.

    Returns:
        (values, statuses) per feature: float64 (NaN where null), int64 (0 where null) or float32 of shape (n, K).
        Status is MISSING where the entity has no row known at T.
    """
    features = list(features)
    unseen = rows.newest(codes, at) < 0
    low = _low_places(rows, features, at)
    asked = _Requests(codes, at, rows.place_known(at), rows.place_event(at), low)
    plans = list(zip(features, planned(features), strict=True))
    plain = [(f, s) for f, (kind, s) in plans if kind in {"rows", "moments"}]
    folded = _moments(rows, columns, plain, asked)
    others = [(f, k, s) for f, (k, s) in plans if k not in {"rows", "moments"}]
    many = {
        f.name
        for f, k, _ in others
        if k in _EXACT or is_vector(k) or (k == "kll" and _pairs_of(rows, asked, f) > _MANY_PAIRS)
    }
    ranged = _ranged(rows, columns, [(f, k, s) for f, k, s in others if f.name in many and k != "kll"], asked)
    ranked = _ranked(rows, columns, [(f, k, s) for f, k, s in others if f.name in many and k == "kll"], asked)
    rest = [(f, k, s) for f, k, s in others if f.name not in many]
    paired = {name: fold.finish() for name, fold in _pairs(rows, columns, rest, asked).items()}
    found = ranged | ranked | paired
    answers = []
    for f, (kind, slot) in plans:
        if kind in {"rows", "moments"}:
            numbers, status = finish(folded[_name(slot), f.window, f.hop], f.stat or Stat.COUNT)
        else:
            numbers, status = found[f.name]
        status[unseen] = Status.MISSING
        answers.append((numbers, status))
    return answers


def _name(slot: Slot | None) -> str | None:
    return None if slot is None else slot.name


def _moments(
    rows: Timeline, columns: Mapping[str, Column], plain: list[tuple[FeatureSpec, Slot | None]], asked: _Requests
) -> dict[_Key, Partials]:
    """Fold what merges as moments, by slot and window, through chains and trees."""
    folded = {(_name(s), f.window, f.hop): empty(len(asked.at)) for f, s in plain}
    deep = {_name(s) for f, s in plain if f.stat is not Stat.COUNT}
    spread = any(f.stat in {Stat.STD, Stat.VAR} for f, _ in plain)
    for chain in _chains(rows) if folded else ():
        ranges = chain.ranges(rows, asked)
        for name in dict.fromkeys(_name(s) for _, s in plain):
            column = None if name is None else columns[name][0][rows.rows[chain.picked]]
            mine = {key: ranges[key[1:]] for key in folded if key[0] == name}
            for key, found in chain.fold(asked, column, mine, deep=name in deep, spread=spread):
                folded[key] = combine(folded[key], found, deviations=spread)
    return folded


def _pairs_of(rows: Timeline, asked: _Requests, f: FeatureSpec) -> int:
    """Return how many rows lie in all requests' windows together, known or not."""
    end = rows.until(rows.event_keys, asked.codes, asked.at_event)
    begin = np.minimum(rows.until(rows.event_keys, asked.codes, asked.low_event[f.window, f.hop]), end)
    return int((end - begin).sum())


def _ranged(
    rows: Timeline, columns: Mapping[str, Column], wanted: list[tuple[FeatureSpec, str, Slot | None]], asked: _Requests
) -> dict[str, _Answer]:
    """Fold exact integers, vectors and ends through chains; pairs of a request and a row are only those of the rest."""
    n, folds = len(asked.at), {}
    for f, kind, slot in wanted:
        folds[f.name] = f, _range_fold(f, kind, columns[slot.name if slot else ""], n)
    for chain in _chains(rows) if folds else ():
        ranges = chain.ranges(rows, asked)
        picked = rows.rows[chain.picked]
        for f, held in folds.values():
            begin, end = ranges[f.window, f.hop]
            if isinstance(chain, _Rest):
                for some, request, at in chain.pairs(asked, begin, end):
                    held.add_pairs(some.start + request, chain.picked[at], picked[at])
            elif isinstance(held, Vectors):
                held.add(picked, begin, end, *_aligned(chain.entities, len(picked)))
            elif isinstance(held, Ends):
                held.add(picked, begin, end, chain.picked)
            else:
                held.add(picked, begin, end)
    slots = {f.name: columns[slot.name if slot else ""][0] for f, _, slot in wanted}
    return {name: _ended(fold, f, rows, slots[name]) for name, (f, fold) in folds.items()}


def _range_fold(f: FeatureSpec, kind: str, column: Column, n: int) -> Wholes | Vectors | Ends:
    values, nulls = column
    if kind == "wholes":
        return Wholes(values, nulls, f.stat or Stat.SUM, n)
    return Vectors(values, nulls, n) if is_vector(kind) else Ends(nulls, first=kind == "first", n=n)


def _ended(fold: Wholes | Vectors | Ends, f: FeatureSpec, rows: Timeline, values: npt.NDArray[Any]) -> _Answer:
    if isinstance(fold, Wholes):
        return whole_finish(fold.found, f.stat or Stat.SUM)
    if isinstance(fold, Vectors):
        good = fold.count > 0
        mean = fold.sums / np.maximum(fold.count, 1)[:, None]
        status = np.where(good, Status.PRESENT, Status.NULL).astype(np.uint8)
        return np.where(good[:, None], mean, np.nan).astype(np.float32), status
    there = fold.found != nowhere(f.stat is Stat.FIRST)
    found = np.full(len(there), np.nan) if f.type == "float64" else np.zeros(len(there), np.int64)
    found[there] = values[rows.rows[fold.found[there]]]
    return found, np.where(there, Status.PRESENT, Status.NULL).astype(np.uint8)


def _ranked(
    rows: Timeline, columns: Mapping[str, Column], wanted: list[tuple[FeatureSpec, str, Slot | None]], asked: _Requests
) -> dict[str, _Answer]:
    """Find exact quantiles in the ranges of many chains; a request that a rest concerns goes through its pairs."""
    if not wanted:
        return {}
    chains = [(chain, chain.ranges(rows, asked)) for chain in _chains(rows, _MANY_CHAINS)]
    answers = {}
    for f, kind, slot in wanted:
        assert slot is not None
        values, nulls = columns[slot.name]
        parts, begin, end, size, left = [np.empty(0)], [], [], 0, np.zeros(len(asked.at), bool)
        for chain, ranges in chains:
            a, b = ranges[f.window, f.hop]
            if isinstance(chain, _Rest):
                left = a < b
                continue
            picked = rows.rows[chain.picked]
            valid = ~nulls[picked]
            place = np.concatenate(([0], np.cumsum(valid))) + size
            begin.append(place[a])
            end.append(place[b])
            parts.append(values[picked[valid]])
            size += len(parts[-1])
        found = quantile(np.concatenate(parts), begin, end, f.q or 0.5) if begin else np.full(len(asked.at), np.nan)
        if left.any():
            some = asked.only(np.flatnonzero(left))
            found[left] = _pairs(rows, columns, [(f, kind, slot)], some)[f.name].finish()[0]
        answers[f.name] = found, np.where(np.isnan(found), Status.NULL, Status.PRESENT).astype(np.uint8)
    return answers


def _pairs(
    rows: Timeline, columns: Mapping[str, Column], wanted: list[tuple[FeatureSpec, str, Slot | None]], asked: _Requests
) -> dict[str, PairFold]:
    """Fold the rest, value by value, all features of a window together."""
    n = len(asked.at)
    spans: dict[_Span, list[PairFold]] = {}
    for f, kind, slot in wanted:
        assert slot is not None
        spans.setdefault((f.window, f.hop), []).append(PairFold.of(f, kind, slot, columns, n))
    for span, folds in spans.items():
        end = rows.until(rows.event_keys, asked.codes, asked.at_event)
        begin = np.minimum(rows.until(rows.event_keys, asked.codes, asked.low_event[span]), end)
        fold_pairs(rows, Asked(asked.at, begin, end), folds, _PAIRS)
    return {fold.feature.name: fold for folds in spans.values() for fold in folds}


_Span = tuple[int | None, int | None]  # window and hop
_Key = tuple[str | None, int | None, int | None]  # column, window, hop
_Range = tuple[Ints, Ints]
_Answer = tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class _Requests:
    """Requests, and where among all rows their T and their windows' old edges lie."""

    codes: Ints
    at: Ints
    at_known: Ints
    at_event: Ints
    low_event: Mapping[_Span, Ints]

    def only(self, some: Ints) -> _Requests:
        """Return some of the requests."""
        low = {span: places[some] for span, places in self.low_event.items()}
        return _Requests(self.codes[some], self.at[some], self.at_known[some], self.at_event[some], low)


def _low_places(rows: Timeline, features: Iterable[FeatureSpec], at: Ints) -> dict[_Span, Ints]:
    spans = dict.fromkeys((f.window, f.hop) for f in features)
    return {(w, h): rows.place_event(floor_hop(at - (w or 0), h or 1)) for w, h in spans}


@dataclass(frozen=True, slots=True)
class _Chain:
    """Rows (positions in the timeline's order) of which none is known before one with an older event."""

    picked: Ints
    by_event: Ints
    by_known: Ints
    entities: Ints  # where each entity's rows begin

    def ranges(self, rows: Timeline, asked: _Requests) -> dict[_Span, _Range]:
        """Return the range of this chain's rows that each request sees, per window."""
        end = rows.until(self.by_known, asked.codes, asked.at_known)
        return {
            span: (np.minimum(rows.until(self.by_event, asked.codes, low), end), end)
            for span, low in asked.low_event.items()
        }

    def fold(
        self, _: _Requests, column: Floats | None, ranges: Mapping[_Key, _Range], *, deep: bool, spread: bool
    ) -> Iterator[tuple[_Key, Partials]]:
        """Fold each range; a tree answers all windows over one column."""
        tree = None if column is None else _Tree(column, self.entities, deep=deep, spread=spread)
        for key, (begin, end) in ranges.items():
            yield key, _counts(end - begin) if tree is None else tree.query(begin, end)


@dataclass(frozen=True, slots=True)
class _Rest:
    """Rows known in no order: each request looks at all of its range, in slices of bounded size."""

    picked: Ints
    by_event: Ints
    known: Ints

    def ranges(self, rows: Timeline, asked: _Requests) -> dict[_Span, _Range]:
        """Return the range of this rest's rows in each request's window, known or not."""
        end = rows.until(self.by_event, asked.codes, asked.at_event)
        return {
            span: (np.minimum(rows.until(self.by_event, asked.codes, low), end), end)
            for span, low in asked.low_event.items()
        }

    def fold(
        self, asked: _Requests, column: Floats | None, ranges: Mapping[_Key, _Range], *, deep: bool, spread: bool
    ) -> Iterator[tuple[_Key, Partials]]:
        """Fold what was known of each range; `deep` and `spread` make no difference here."""
        del deep, spread
        values = np.ones(len(self.picked)) if column is None else column
        for key, (begin, end) in ranges.items():
            folded = [self._fold(values, begin[p], end[p], asked.at[p]) for p in slices(end - begin, _PAIRS)]
            yield key, np.concatenate([empty(0), *folded])

    def pairs(self, asked: _Requests, begin: Ints, end: Ints) -> Iterator[tuple[slice, Ints, Ints]]:
        """Yield slices of requests, and the pairs of one of them and a row (place in `picked`) known to it."""
        for some in slices(end - begin, _PAIRS):
            lengths = end[some] - begin[some]
            starts = np.cumsum(lengths) - lengths
            places = np.arange(int(lengths.sum())) + np.repeat(begin[some] - starts, lengths)
            seen = self.known[places] <= np.repeat(asked.at[some], lengths)
            yield some, np.repeat(np.arange(len(lengths)), lengths)[seen], places[seen]

    def _fold(self, values: Floats, begin: Ints, end: Ints, at: Ints) -> Partials:
        lengths = end - begin
        starts = np.cumsum(lengths) - lengths
        places = np.arange(int(lengths.sum())) + np.repeat(begin - starts, lengths)
        known = self.known[places] <= np.repeat(at, lengths)
        return fold(np.where(known, values[places], np.nan), starts)


class _Tree:
    """Partials over 1, 2, 4, ... neighbours; any range is a merge of at most two nodes per level.

    Nodes are counted from their entity's first row: each entity lies at a multiple of its largest node, those with
    large ones first. So the order in which floats are added, and with it the last bit of a sum, depends on the
    entity's own rows only, and neither on who else is there nor on how entities were dealt into buckets.
    """

    def __init__(self, values: Floats, entities: Ints, *, deep: bool, spread: bool) -> None:
        self._spread = spread
        self._counts = None if deep else np.concatenate(([0], np.cumsum(~np.isnan(values))))
        self._moved, size = _aligned(entities, len(values)) if deep else (entities[:0], 0)
        self._levels: list[Partials] = []
        if deep:
            laid = np.full(size, np.nan)
            laid[np.arange(len(values)) + self._moved] = values
            self._levels.append(of_values(laid))
        while deep and len(self._levels[-1]) > 1:
            below = self._levels[-1]
            half = len(below) // 2 * 2
            self._levels.append(combine(below[0:half:2], below[1:half:2], deviations=spread))

    def query(self, begin: Ints, end: Ints) -> Partials:
        """Return the partial of each range [begin, end) of one entity's rows."""
        if self._counts is not None:
            return _counts(self._counts[end] - self._counts[begin])
        left, right = empty(len(begin)), empty(len(begin))
        moved = self._moved[np.minimum(begin, len(self._moved) - 1)] if len(self._moved) else 0
        low, high = begin + moved, end + moved
        for level in self._levels:
            odd = np.flatnonzero((low < high) & (low & 1 == 1))
            left[odd] = combine(left[odd], level[low[odd]], deviations=self._spread)
            low[odd] += 1
            odd = np.flatnonzero((low < high) & (high & 1 == 1))
            high[odd] -= 1
            right[odd] = combine(level[high[odd]], right[odd], deviations=self._spread)
            low >>= 1
            high >>= 1
            if not (low < high).any():
                break
        return combine(left, right, deviations=self._spread)


def _aligned(entities: Ints, n: int) -> tuple[Ints, int]:
    """Return by how much each row moves so that its entity lies at a multiple of its largest node, and the new size."""
    lengths = np.diff(entities, append=n)
    node = 1 << (np.frexp(lengths.astype(np.float64))[1].astype(np.int64) - 1)
    order = np.argsort(-node, kind="stable")
    room = np.where(lengths == node, node, 2 * node)[order]
    begins = np.empty_like(entities)
    begins[order] = np.cumsum(room) - room
    return np.repeat(begins - entities, lengths), int(room.sum())


def _counts(n: Ints) -> Partials:
    partials = empty(len(n))
    partials["count"] = n
    return partials


def _chains(rows: Timeline, most: int = _CHAINS) -> Iterator[_Chain | _Rest]:
    """Split rows into chains (on time first, then what is late among itself) and a rest."""
    left = np.arange(len(rows.rows))
    for _ in range(most):
        if not len(left):
            return
        keys = rows.known_keys[left]
        regular = keys == np.minimum.accumulate(keys[::-1])[::-1]
        picked = left[regular]
        yield _Chain(picked, rows.event_keys[picked], keys[regular], rows.begins(picked))
        left = left[~regular]
    if len(left):
        yield _Rest(left, rows.event_keys[left], rows.known[rows.rows[left]])
