"""Approximate quantiles by KLL (Karnin, Lang and Liberty, "Optimal quantile approximation in streams", 2016).

A state is a list of levels; an item of level h stands for 2**h values. The surprise: the coin that decides which half
of a level survives is a hash of the level's content, so that the same merges give the same bytes, in any process;
another order of merges may give another state within the same bound. With k = 200 the rank of an answer is off by at
most 1.33 % of n with probability 99 % (single quantile); up to 200 values the answer is exact. Where all values are
at hand (in batch, in a raw head) they are answered exactly. The q-quantile of n values is the ceil(q n)-th smallest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from flyball.features.kernel.partials import Floats

__all__ = ["BOUND", "K", "Levels", "exact", "from_bytes", "merge", "of_values", "quantiles", "to_bytes"]

K = 200
BOUND = 0.0133
"""Rank error of one quantile, as a share of n, that holds with probability 99 %."""
_SHRINK, _SMALLEST = 2 / 3, 8
Levels = tuple[Floats, ...]


def of_values(values: Floats) -> Levels:
    """Return the state of values without NaN."""
    return _compressed([np.sort(values)])


def merge(states: Sequence[Levels]) -> Levels:
    """Return the state of all values of some states."""
    return _compressed(_joined(states))


def quantiles(states: Sequence[Levels], qs: Sequence[float]) -> list[float]:
    """Return the q-quantiles of all values of some states, NaN where there are none; nothing is compacted for it."""
    levels = _joined(states)
    items = np.concatenate([np.empty(0), *levels])
    if not len(items):
        return [math.nan] * len(qs)
    weights = np.repeat(1 << np.arange(len(levels), dtype=np.int64), [len(level) for level in levels])
    order = np.argsort(items, kind="stable")
    ranks = np.cumsum(weights[order])
    wanted = [_rank(q, int(ranks[-1])) for q in qs]
    found: list[float] = items[order][np.searchsorted(ranks, wanted)].tolist()
    return found


def exact(values: Floats, starts: npt.NDArray[np.int64], q: float) -> Floats:
    """Return the exact q-quantile of each consecutive segment of values, none of them empty."""
    lengths = np.diff(starts, append=len(values))
    order = np.lexsort((values, np.repeat(np.arange(len(starts)), lengths)))
    places = np.array([_rank(q, n) - 1 for n in lengths.tolist()], np.int64)
    found: Floats = values[order][starts + places]
    return found


def to_bytes(levels: Levels) -> bytes:
    """Return the stored form: number of levels, their sizes, their items."""
    return np.array([len(levels), *map(len, levels)], np.int64).tobytes() + b"".join([v.tobytes() for v in levels])


def from_bytes(data: bytes | memoryview) -> Levels:
    """Read what `to_bytes` wrote."""
    count = int.from_bytes(data[:8], "little")
    ends = np.cumsum(np.frombuffer(data, np.int64, count, 8)).tolist()
    items = np.frombuffer(data, np.float64, offset=8 + 8 * count)
    return tuple(items[a:b] for a, b in zip([0, *ends], ends, strict=False))


def _rank(q: float, n: int) -> int:
    return max(1, math.ceil(q * n))


def _joined(states: Sequence[Levels]) -> list[Floats]:
    height = max((len(s) for s in states), default=0)
    return [np.concatenate([s[h] for s in states if h < len(s)]) for h in range(height)]


def _compressed(levels: list[Floats]) -> Levels:
    """Compact the lowest level that is too long until all fit together."""
    levels = levels or [np.empty(0)]
    while True:
        sizes, room = [len(v) for v in levels], _room(len(levels))
        if sum(sizes) <= sum(room):
            return tuple(np.sort(v) for v in levels)
        h = next(i for i, (size, limit) in enumerate(zip(sizes, room, strict=True)) if size > limit)
        kept, raised = _compacted(np.sort(levels[h]), h)
        levels[h] = kept
        if h + 1 == len(levels):
            levels.append(raised)
        else:
            levels[h + 1] = np.concatenate([levels[h + 1], raised])


def _compacted(items: Floats, level: int) -> tuple[Floats, Floats]:
    """Return what stays (the odd one out) and every second of the others."""
    coin = xxhash.xxh3_64_intdigest(items.tobytes(), seed=level)
    odd = len(items) % 2
    alone = (coin >> 1) & 1  # the odd one out is the least or the greatest
    kept = items[:odd] if alone else items[len(items) - odd :]
    paired = items[odd:] if alone else items[: len(items) - odd]
    return kept, paired[coin & 1 :: 2]


def _room(height: int) -> list[int]:
    return [max(_SMALLEST, math.ceil(K * _SHRINK ** (height - 1 - h))) for h in range(height)]
