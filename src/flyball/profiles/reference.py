"""What a model version was trained on, as profiles: the edges, one profile per window, and the total.

The surprise: the single windows are kept because the reference's own window-to-window variation is what a later
window must exceed; a window that the sample covers only partly is folded into the total but not into that variation.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from flyball.errors import InputError
from flyball.profiles.profile import (
    Edges,
    Profile,
    edges_of,
    pack_columns,
    pack_edges,
    unpack,
    unpack_columns,
    unpack_edges,
)
from flyball.profiles.windows import windows_between
from flyball.units import from_micros, micros, to_micros

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Reference", "ReferenceWindow", "build_reference"]

_MAGIC = b"FBR1"
_WHOLE = 0.75  # the first and last window count as whole when the sample covers this share of them


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceWindow:
    """One window of the reference sample; `whole` is False when the sample covers it only partly."""

    start: datetime
    end: datetime
    profile: Profile
    whole: bool


@dataclass(frozen=True, eq=False)
class Reference:
    """Edges, windows (oldest first) and total of a version's training sample."""

    edges: tuple[Edges, ...]
    windows: tuple[ReferenceWindow, ...]
    window: timedelta
    timezone: str

    @cached_property
    def total(self) -> Profile:
        """The profile of the whole sample."""
        total = Profile.empty(self.edges)
        for each in self.windows:
            total = total.merge(each.profile)
        return total

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in the order of the model's matrix."""
        return tuple(e.name for e in self.edges)

    def to_bytes(self) -> bytes:
        """Return versioned, compressed bytes."""
        windows = [(to_micros(w.start), to_micros(w.end), w.whole, pack_columns(w.profile)) for w in self.windows]
        head = (micros(self.window), self.timezone, pack_edges(self.edges), windows)
        return _MAGIC + zlib.compress(msgspec.msgpack.encode(head), 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> Reference:
        """Read what `to_bytes` wrote; raises IntegrityError."""
        window, timezone, packed_edges, packed = unpack(data, _MAGIC, "reference")
        edges = unpack_edges(packed_edges)
        windows = tuple(
            ReferenceWindow(from_micros(start), from_micros(end), unpack_columns(edges, columns), whole)
            for start, end, whole, columns in packed
        )
        return cls(edges, windows, timedelta(microseconds=window), timezone)


def build_reference(
    matrix: npt.NDArray[np.float64],
    names: Sequence[str],
    at: npt.NDArray[np.int64],
    *,
    window: timedelta = timedelta(days=1),
    timezone: str = "UTC",
) -> Reference:
    """Profile a training sample window by window.

    Args:
        matrix: Feature values, float64 of shape (n, k), null as NaN.
        names: The k column names.
        at: Request time of each row, int64 µs, shape (n,), in any order.
        window: Length of a window: whole days, or shorter than a day.
        timezone: Whose midnight windows are aligned to.

    Raises:
        InputError: no rows, or shapes that do not fit.
    """
    data = np.asarray(matrix, dtype=np.float64)
    times = np.asarray(at, dtype=np.int64)
    if data.ndim != 2 or data.shape != (len(times), len(names)) or not len(times):
        raise InputError(
            f"a reference needs rows: matrix {data.shape}, {len(names)} names, {len(times)} times do not fit together"
        )
    edges = tuple(edges_of(name, data[:, i]) for i, name in enumerate(names))
    order = np.argsort(times, kind="stable")
    times = times[order]
    bounds = windows_between(from_micros(int(times[0])), from_micros(int(times[-1])), window, timezone)
    stops = np.searchsorted(times, [to_micros(start) for start, _ in bounds] + [to_micros(bounds[-1][1])])
    windows = []
    for (start, end), low, high in zip(bounds, stops[:-1], stops[1:], strict=True):
        if low < high:
            profile = Profile.fold(edges, data[order[low:high]])
            whole = _covered(times, start, end) >= _WHOLE
            windows.append(ReferenceWindow(start, end, profile, whole))
    return Reference(edges, tuple(windows), window, timezone)


def _covered(times: npt.NDArray[np.int64], start: datetime, end: datetime) -> float:
    """Return the share of [start, end) that lies between the sample's first and last row."""
    begin, finish = to_micros(start), to_micros(end)
    return (min(finish, int(times[-1])) - max(begin, int(times[0]))) / (finish - begin)
