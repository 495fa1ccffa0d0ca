"""Mergeable summaries of columns: one histogram each, on edges that a reference fixed once.

The surprise: per-bin sums are integers. A value is stored as its distance from the column's centre in units of
2**-30 of the reference's spread, so that sums merge exactly, in any order, and a difference of profiles is exact too.
The sums are what makes the Wasserstein distance of two histograms nearly that of the samples.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec
import numpy as np
import numpy.typing as npt

from flyball.errors import InputError, IntegrityError, UnknownName

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BINS", "CATEGORIES", "BinMismatch", "ColumnProfile", "Edges", "Profile", "edges_of", "fold_column"]

BINS = 256
CATEGORIES = 32
_UNIT_BITS = 30
_CLIP = float(1 << 38)  # a value beyond 256 x the reference's spread counts as lying there: sums cannot overflow
_MAGIC = b"FBP1"

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class BinMismatch(InputError):
    """Say that two profiles were made on different edges."""


@dataclass(frozen=True, eq=False)
class Edges:
    """Where a column's bins lie, fixed by a reference sample.

    kind "number": k rising `values`, k + 1 bins (-inf, v0], (v0, v1], ..., (vk-1, inf); kind "category": k exact ones,
    k + 1 bins, the last for every other value; `labels` names them when the column held strings (values are 0..k-1).
    `sd` is the reference's standard deviation, 0.0 for a constant column.
    """

    name: str
    kind: Literal["number", "category"]
    values: Floats
    center: float
    scale: float
    sd: float
    labels: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """The 16 hex digits that two profiles must share to be compared or merged."""
        head = msgspec.msgpack.encode((self.name, self.kind, self.center, self.scale, self.labels))
        return hashlib.sha256(head + self.values.tobytes()).hexdigest()[:16]

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.values) + 1


@dataclass(frozen=True, slots=True, eq=False)
class ColumnProfile:
    """Counts and scaled sums per bin, shape (bins,), and the number of nulls."""

    counts: Ints
    sums: Ints
    nulls: int

    @property
    def n(self) -> int:
        """Values that are not null."""
        return int(self.counts.sum())


@dataclass(frozen=True, eq=False)
class Profile:
    """One summary per column of `n` rows."""

    edges: tuple[Edges, ...]
    columns: tuple[ColumnProfile, ...]
    n: int

    @classmethod
    def empty(cls, edges: Sequence[Edges]) -> Self:
        """Return the profile of no rows; merging it changes nothing."""
        zero = tuple(ColumnProfile(np.zeros(e.bins, np.int64), np.zeros(e.bins, np.int64), 0) for e in edges)
        return cls(tuple(edges), zero, 0)

    @classmethod
    def fold(cls, edges: Sequence[Edges], matrix: Floats) -> Self:
        """Summarise a float64 matrix of shape (n, k), one column per edges; NaN is null."""
        data = np.asarray(matrix, dtype=np.float64)
        if data.ndim != 2 or data.shape[1] != len(edges):
            raise InputError(f"the matrix has shape {data.shape}, but the profile has {len(edges)} columns")
        columns = tuple(fold_column(e, data[:, i]) for i, e in enumerate(edges))
        return cls(tuple(edges), columns, data.shape[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Column names."""
        return tuple(e.name for e in self.edges)

    def column(self, name: str) -> tuple[Edges, ColumnProfile]:
        """Return one column's edges and summary; raises UnknownName."""
        for edges, column in zip(self.edges, self.columns, strict=True):
            if edges.name == name:
                return edges, column
        raise UnknownName.of("profiled column", name, self.names)

    def mean(self, name: str) -> float:
        """Return a numeric column's mean (exact to 2**-30 of the reference's spread); NaN when empty."""
        edges, column = self.column(name)
        return edges.center + int(column.sums.sum()) / column.n / edges.scale if column.n else float("nan")

    def merge(self, other: Profile) -> Profile:
        """Return the profile of both samples together: exact, and the same in any order."""
        return self._combine(other, 1)

    def without(self, other: Profile) -> Profile:
        """Return this profile less a part of it: exact; `other` must be such a part."""
        return self._combine(other, -1)

    def same_edges(self, other: Profile) -> bool:
        """Whether both were made on the same edges."""
        return self.edges is other.edges or [e.digest for e in self.edges] == [e.digest for e in other.edges]

    def to_bytes(self) -> bytes:
        """Return versioned, compressed bytes."""
        return _MAGIC + zlib.compress(msgspec.msgpack.encode((pack_edges(self.edges), pack_columns(self))), 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> Profile:
        """Read what `to_bytes` wrote; raises IntegrityError."""
        packed_edges, packed = unpack(data, _MAGIC, "profile")
        return unpack_columns(unpack_edges(packed_edges), packed)

    def _combine(self, other: Profile, sign: int) -> Profile:
        if not self.same_edges(other):
            raise BinMismatch(
                f"profiles of {', '.join(self.names) or 'no columns'} and {', '.join(other.names) or 'no columns'} "
                "have different edges; profile both samples with the edges of one reference"
            )
        columns = tuple(
            ColumnProfile(a.counts + sign * b.counts, a.sums + sign * b.sums, a.nulls + sign * b.nulls)
            for a, b in zip(self.columns, other.columns, strict=True)
        )
        return Profile(self.edges, columns, self.n + sign * other.n)


def edges_of(name: str, column: Floats) -> Edges:
    """Fix a column's bins: exact categories for integers with at most 32 distinct values, else 256 quantiles.

    Args:
        name: The column's name.
        column: The reference sample, shape (n,); NaN is null; all null gives a single bin.
    """
    values = np.sort(column[~np.isnan(column)])
    values = values[np.isfinite(values)]
    if not len(values):
        return Edges(name, "number", np.zeros(0), 0.0, 1.0, 0.0)
    distinct = values[np.r_[True, values[1:] != values[:-1]]]
    sd = float(values.std()) if len(distinct) > 1 else 0.0
    center = float(values[len(values) // 2])
    spread = max(float(values[-1]) - center, center - float(values[0])) or max(abs(center), 1.0)
    scale = 2.0 ** min(max(_UNIT_BITS - math.ceil(math.log2(spread)), -1000), 1000)
    if len(distinct) <= CATEGORIES and bool(np.all(distinct == np.rint(distinct))):
        return Edges(name, "category", distinct, center, scale, sd)
    picks = values[np.linspace(0, len(values) - 1, BINS).round().astype(np.int64)]
    return Edges(name, "number", np.unique(picks), center, scale, sd)


def fold_column(edges: Edges, column: Floats) -> ColumnProfile:
    """Summarise one float64 column of shape (n,); NaN is null."""
    ordered = np.sort(column)  # NaN last
    ordered = ordered[: int(np.searchsorted(ordered, np.nan))]
    nulls = len(column) - len(ordered)
    high = np.searchsorted(ordered, edges.values, side="right")
    if edges.kind == "category":
        counts = np.zeros(edges.bins, np.int64)
        counts[:-1] = high - np.searchsorted(ordered, edges.values, side="left")
        counts[-1] = len(ordered) - counts.sum()
        return ColumnProfile(counts, np.zeros(edges.bins, np.int64), nulls)
    bounds = np.concatenate(([0], high, [len(ordered)]))
    with np.errstate(over="ignore"):
        units = ordered - edges.center
        units *= edges.scale
    np.rint(np.clip(units, -_CLIP, _CLIP, out=units), out=units)  # in place: a column of a million rows is 8 MB
    running = np.concatenate(([0], np.cumsum(units.astype(np.int64))))
    return ColumnProfile(np.diff(bounds), np.diff(running[bounds]), nulls)


def pack_edges(edges: Sequence[Edges]) -> list[Any]:
    """Return edges as plain data for msgpack."""
    return [(e.name, e.kind, e.values.tobytes(), e.center, e.scale, e.sd, list(e.labels)) for e in edges]


def unpack_edges(packed: list[Any]) -> tuple[Edges, ...]:
    """Read what `pack_edges` made."""
    return tuple(
        Edges(name, kind, np.frombuffer(values, np.float64), center, scale, sd, tuple(labels))
        for name, kind, values, center, scale, sd, labels in packed
    )


def pack_columns(profile: Profile) -> tuple[int, bytes, bytes, list[int]]:
    """Return a profile's numbers as plain data for msgpack, edges apart."""
    counts = np.concatenate([c.counts for c in profile.columns]) if profile.columns else np.zeros(0, np.int64)
    sums = np.concatenate([c.sums for c in profile.columns]) if profile.columns else np.zeros(0, np.int64)
    return profile.n, counts.astype("<i8").tobytes(), sums.astype("<i8").tobytes(), [c.nulls for c in profile.columns]


def unpack_columns(edges: tuple[Edges, ...], packed: Any) -> Profile:
    """Read what `pack_columns` made."""
    n, counts_bytes, sums_bytes, nulls = packed
    counts, sums = np.frombuffer(counts_bytes, "<i8"), np.frombuffer(sums_bytes, "<i8")
    stops = np.cumsum([0, *(e.bins for e in edges)])
    columns = tuple(
        ColumnProfile(counts[a:b].astype(np.int64), sums[a:b].astype(np.int64), nulls[i])
        for i, (a, b) in enumerate(itertools.pairwise(stops))
    )
    return Profile(edges, columns, n)


def unpack(data: bytes, magic: bytes, what: str) -> Any:
    """Check the version and return the plain data; raises IntegrityError."""
    if data[:4] != magic:
        raise IntegrityError(
            f"these bytes are no {what} of version {magic[-1:].decode()}: they start with {data[:4]!r}"
        )
    try:
        return msgspec.msgpack.decode(zlib.decompress(data[4:]))
    except (zlib.error, msgspec.DecodeError) as error:
        raise IntegrityError(f"the {what} is damaged ({error}); make it again from its data") from error
