"""Distinct values by HyperLogLog (Flajolet, Fusy, Gandouet and Meunier 2007), exact while there are few.

A state is a set of 64-bit hashes of at most 255, then 2**11 registers. The surprise: whatever the order and grouping
of merges, the state is the same bytes, because a set becomes registers by its size alone; so batch and online agree
exactly. Registers are read by Ertl's estimator ("New cardinality estimation algorithms for HyperLogLog sketches",
2017, algorithm 6), which needs no tables. Standard error 1.04 / sqrt(2048) = 2.3 %; a hash collision among n values
has probability n**2 / 2**65.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FEW", "estimate", "estimates", "from_bytes", "merge", "of_hashes", "to_bytes"]

_P = 11
_M = 1 << _P
_Q = 64 - _P
FEW = _M // 8 - 1  # a set of at most this many hashes is smaller than the registers
_ROOM = 1 << 24  # registers held at once
State = npt.NDArray[Any]  # uint64 or uint8: sorted distinct hashes, or registers


def of_hashes(hashes: npt.NDArray[np.uint64]) -> State:
    """Return the state of a set of hashes; repeated ones count once."""
    distinct = np.unique(hashes)
    return distinct if len(distinct) <= FEW else _registers(distinct)


def merge(states: Sequence[State]) -> State:
    """Return the state of the union."""
    sets = [s for s in states if s.dtype == np.uint64]
    dense = [s for s in states if s.dtype == np.uint8]
    union = of_hashes(np.concatenate(sets)) if sets else np.empty(0, np.uint64)
    if not dense:
        return union
    dense.append(union if union.dtype == np.uint8 else _registers(union))
    merged: State = np.maximum.reduce(dense)
    return merged


def estimate(state: State) -> int:
    """Return the number of distinct values: exact up to `FEW`, an estimate beyond."""
    if state.dtype == np.uint64:
        return len(state)
    return _ertl(np.bincount(state, minlength=_Q + 2).tolist())


def estimates(hashes: npt.NDArray[np.uint64], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return what `estimate` says of each consecutive segment of hashes, none of them empty."""
    lengths = np.diff(starts, append=len(hashes))
    found = np.zeros(len(starts), np.int64)
    large = np.flatnonzero(lengths > FEW)
    for some in np.array_split(large, len(large) * _M // _ROOM + 1):
        found[some] = _of_registers(hashes, starts[some], lengths[some])
    few = np.flatnonzero(found <= FEW)  # where that few registers are in use, hashes are told apart exactly
    if len(few):
        which, owner = _members(starts[few], lengths[few])
        order = np.lexsort((hashes[which], owner))
        owner, values = owner[order], hashes[which][order]
        new = np.r_[True, (owner[1:] != owner[:-1]) | (values[1:] != values[:-1])]
        exact = np.bincount(owner[new], minlength=len(few))
        for i in np.flatnonzero(exact > FEW).tolist():  # several fell into one register
            begin = starts[few[i]]
            exact[i] = estimate(of_hashes(hashes[begin : begin + lengths[few[i]]]))
        found[few] = exact
    return found


def _of_registers(
    hashes: npt.NDArray[np.uint64], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the estimates of segments by registers alone, 0 where no more than `FEW` registers are in use."""
    which, owner = _members(starts, lengths)
    place, rank = _placed(hashes[which])
    registers = np.zeros(len(starts) * _M, np.uint8)
    np.maximum.at(registers, owner * _M + place, rank)
    used = np.count_nonzero(registers.reshape(-1, _M), axis=1)
    counts = np.bincount(np.repeat(np.arange(len(starts)), _M) * (_Q + 2) + registers, minlength=len(starts) * (_Q + 2))
    rows = counts.reshape(-1, _Q + 2).tolist()
    return np.array([_ertl(c) if u > FEW else 0 for c, u in zip(rows, used.tolist(), strict=True)], np.int64)


def _members(
    starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    owner = np.repeat(np.arange(len(starts)), lengths)
    return np.arange(len(owner)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths), owner


def _ertl(counts: list[int]) -> int:
    """Return the estimate for how many registers hold 0, 1, 2, ..."""
    z = _M * _tau(1 - counts[_Q + 1] / _M)
    for count in counts[_Q:0:-1]:
        z = 0.5 * (z + count)
    z += _M * _sigma(counts[0] / _M)
    return round(_M * _M / (2 * math.log(2) * z))


def to_bytes(state: State) -> bytes:
    """Return the stored form: 8 bytes a hash, or 2048 bytes of registers."""
    return state.tobytes()


def from_bytes(data: bytes | memoryview) -> State:
    """Read what `to_bytes` wrote."""
    return np.frombuffer(data, np.uint8 if len(data) == _M else np.uint64)


def _registers(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Return the registers of sorted hashes, so that those of one register lie together."""
    registers = np.zeros(_M, np.uint8)
    if len(hashes):
        place, rank = _placed(hashes)
        first = np.flatnonzero(np.r_[True, place[1:] != place[:-1]])
        registers[place[first]] = np.maximum.reduceat(rank, first)
    return registers


def _placed(hashes: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Return each hash's register and what it says there."""
    rest = (hashes & np.uint64((1 << _Q) - 1)).astype(np.float64)  # 53 bits are exact in a float64
    return (hashes >> np.uint64(_Q)).astype(np.int64), (_Q + 1 - np.frexp(rest)[1]).astype(np.uint8)


@functools.lru_cache(maxsize=_M + 1)
def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, z = 1.0, x
    while True:
        x *= x
        before = z
        z += x * y
        y += y
        if z == before:
            return z


@functools.lru_cache(maxsize=_M + 1)
def _tau(x: float) -> float:
    if x in {0.0, 1.0}:
        return 0.0
    y, z = 1.0, 1 - x
    while True:
        x = math.sqrt(x)
        before = z
        y *= 0.5
        z -= (1 - x) ** 2 * y
        if z == before:
            return z / 3
