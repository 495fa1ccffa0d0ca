"""Distinct values by HyperLogLog (Flajolet, Fusy, Gandouet and Meunier 2007), exact while there are few.

A state is a set of 64-bit hashes of at most 255, then 2**11 registers. The surprise: whatever the order and grouping
of merges, the state is the same bytes, because a set becomes registers by its size alone; so batch and online agree
exactly. Registers are read by Ertl's estimator ("New cardinality estimation algorithms for HyperLogLog sketches",
2017, algorithm 6), which needs no tables. Standard error 1.04 / sqrt(2048) = 2.3 %; a hash collision among n values
has probability n**2 / 2**65.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FEW", "estimate", "from_bytes", "merge", "of_hashes", "to_bytes"]

_P = 11
_M = 1 << _P
_Q = 64 - _P
FEW = _M // 8 - 1  # a set of at most this many hashes is smaller than the registers
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
    counts = np.bincount(state, minlength=_Q + 2).tolist()
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
        rest = (hashes & np.uint64((1 << _Q) - 1)).astype(np.float64)  # 53 bits are exact in a float64
        rank = (_Q + 1 - np.frexp(rest)[1]).astype(np.uint8)
        place = (hashes >> np.uint64(_Q)).astype(np.int64)
        first = np.flatnonzero(np.r_[True, place[1:] != place[:-1]])
        registers[place[first]] = np.maximum.reduceat(rank, first)
    return registers


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
