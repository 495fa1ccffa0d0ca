"""Profile and compare whole tables, without a project: `fb.drift.profile`, `fb.drift.compare`.

The surprise: a profile made with `like=` uses the other profile's edges; only so can two be compared, and a stored
profile of a few kB stands for the reference table ever after.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flyball.errors import InputError
from flyball.monitoring.types import FeatureDrift
from flyball.profiles.contrast import contrast
from flyball.profiles.profile import CATEGORIES, BinMismatch, ColumnProfile, Edges, Profile, edges_of, fold_column
from flyball.profiles.significance import benjamini_hochberg

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd
    import pyarrow as pa

__all__ = ["DriftReport", "compare", "profile"]


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What moved between two tables. One look without windows: `usual` is 0 and nothing is calibrated."""

    features: tuple[FeatureDrift, ...]
    reference_rows: int
    current_rows: int
    alpha: float
    budget: float

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the features that moved significantly and by more than the budget, largest first."""
        moved = [f for f in self.features if f.level != "none"]
        return tuple(f.feature for f in sorted(moved, key=lambda f: -f.distance))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"drifted": list(self.drifted)}

    def explain(self) -> str:
        """Return one sentence."""
        names = ", ".join(self.drifted)
        rows = f"{self.current_rows:,} rows against {self.reference_rows:,}"
        return (
            f"{len(self.drifted)} of {len(self.features)} features moved ({names}); {rows}"
            if names
            else (f"no feature of {len(self.features)} moved by more than {self.budget:g}; {rows}")
        )

    def __str__(self) -> str:
        """Return a table."""
        width = max([len(f.feature) for f in self.features] + [7])
        lines = [f"{'feature':<{width}}  distance        q  verdict"]
        for f in self.features:
            verdict = "ok" if f.level == "none" else "moved"
            lines.append(f"{f.feature:<{width}}  {f.distance:8.3f}  {f.q:7.1g}  {verdict}")
        return "\n".join([*lines, self.explain()])


def profile(table: pa.Table | pd.DataFrame, *, like: Profile | None = None) -> Profile:
    """Profile every column of an Arrow table or pandas frame.

    Numbers, booleans and times become float64 (times in µs); strings become at most 32 categories and "other".

    Args:
        table: The sample.
        like: Use this profile's edges, and its columns in its order.

    Raises:
        InputError: a column of `like` is missing, or a column's type has no profile.
    """
    arrow = _arrow(table)
    wanted = list(like.edges) if like is not None else [None] * arrow.num_columns
    names = like.names if like is not None else tuple(arrow.column_names)
    missing = [n for n in names if n not in arrow.column_names]
    if missing:
        has = ", ".join(arrow.column_names)
        raise InputError(f"the table has no column {missing[0]!r}, which the reference profile has; it has {has}")
    edges: list[Edges] = []
    columns: list[ColumnProfile] = []
    for name, fixed in zip(names, wanted, strict=True):
        found, values = _numbers(name, arrow.column(name), fixed)
        edges.append(found)
        columns.append(fold_column(found, values))
    return Profile(like.edges if like is not None else tuple(edges), tuple(columns), arrow.num_rows)


def compare(
    reference: Profile | pa.Table | pd.DataFrame,
    current: Profile | pa.Table | pd.DataFrame,
    *,
    alpha: float = 0.01,
    budget: float = 0.10,
) -> DriftReport:
    """Compare two samples column by column.

    Args:
        reference: A table, or the profile of one.
        current: A table, or a profile made with `like=` the reference's.
        alpha: False discovery rate over all columns (Benjamini-Hochberg), in (0, 1).
        budget: Largest accepted distance: Wasserstein / reference sd, or Jensen-Shannon distance for categories.

    Raises:
        InputError: a column is missing or has no profile; BinMismatch: two profiles of different edges.
    """
    base = reference if isinstance(reference, Profile) else profile(reference)
    other = current if isinstance(current, Profile) else profile(current, like=base)
    if not base.same_edges(other):
        raise BinMismatch("the two profiles have different edges; make the second with profile(table, like=first)")
    found = contrast(base, other)
    features = tuple(
        FeatureDrift(c.name, c.distance, 0.0, q, _level(c.distance, q, alpha, budget), False)
        for c, q in zip(found, benjamini_hochberg([c.p for c in found]), strict=True)
    )
    return DriftReport(features, base.n, other.n, alpha, budget)


def _level(size: float, q: float, alpha: float, budget: float) -> Literal["none", "warn"]:
    return "warn" if q < alpha and size > budget else "none"


def _arrow(table: pa.Table | pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    return table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)


def _numbers(name: str, column: pa.ChunkedArray, fixed: Edges | None) -> tuple[Edges, npt.NDArray[np.float64]]:
    """Return the column as float64 (null as NaN) and its edges."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _coded(name, column, fixed)
    if fixed is not None and fixed.labels:
        raise InputError(f"column {name!r} holds {kind}, but strings in the reference; make both the same type")
    if pa.types.is_temporal(kind):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(f"column {name!r} holds {kind}, which has no profile; keep numbers, booleans, times, strings")
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    return fixed if fixed is not None else edges_of(name, values), values


def _coded(name: str, column: pa.ChunkedArray, fixed: Edges | None) -> tuple[Edges, npt.NDArray[np.float64]]:
    """Return string codes: the position in the labels, or one past the end for any other string."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if fixed is not None and not fixed.labels:
        raise InputError(f"column {name!r} holds strings, but numbers in the reference; make both the same type")
    if fixed is None:
        counted = sorted(
            ((c["counts"], c["values"]) for c in column.drop_null().value_counts().to_pylist()), reverse=True
        )
        labels = tuple(sorted(value for _, value in counted[:CATEGORIES]))
        fixed = Edges(name, "category", np.arange(len(labels), dtype=np.float64), 0.0, 1.0, 0.0, labels)
    index = pc.index_in(column, value_set=pa.array(fixed.labels, pa.string()))
    codes = pc.if_else(pc.is_null(column), None, pc.fill_null(index.cast(pa.float64()), float(len(fixed.labels))))
    return fixed, codes.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
