"""What is different between two training sets: period, rows, and how far each column moved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from flyball.datasets.files import open_dataset
from flyball.datasets.types import DatasetManifest, TrainingSet
from flyball.layout import Layout

__all__ = ["ColumnChange", "DatasetDiff", "compare", "difference"]


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """One column in both sets; means are NaN where it is null throughout or missing.

    `moved` is the difference of the means in standard deviations of the old one.
    """

    name: str
    old_mean: float
    new_mean: float
    moved: float
    old_nulls: float
    new_nulls: float


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """Two training sets side by side; `columns` have what moved most first, the label among them."""

    old: str
    new: str
    rows: tuple[int, int]
    periods: tuple[tuple[datetime, datetime], tuple[datetime, datetime]]
    shared_rows: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    columns: tuple[ColumnChange, ...]

    @property
    def same(self) -> bool:
        """Whether both are the same training set."""
        return self.old == self.new


def compare(old: DatasetManifest, new: DatasetManifest, layout: Layout) -> dict[str, Any]:
    """Return how two recorded training sets differ, as one JSON document.

    Args:
        old: A manifest.
        new: Another one.
        layout: Where their files are.

    Returns:
        "manifest": field -> [old, new] where they differ; "columns": name -> how far its mean moved, in standard
        deviations of the old one (None when unknown), what moved most first; "shared_rows", "added", "removed".

    Raises:
        Unavailable: a file is gone.
        IntegrityError: a file was changed.
    """
    found = difference(open_dataset(old, layout), open_dataset(new, layout))
    before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
    return {
        "manifest": {name: [before[name], after[name]] for name in before if before[name] != after[name]},
        "columns": {c.name: c.moved if math.isfinite(c.moved) else None for c in found.columns},
        "shared_rows": found.shared_rows,
        "added": list(found.added),
        "removed": list(found.removed),
    }


def difference(old: TrainingSet, new: TrainingSet) -> DatasetDiff:
    """Compare two training sets, training parts and holdouts together."""
    common = [name for name in new.feature_names if name in old.feature_names]
    columns = [_change(name, name, old, new) for name in common]
    columns.append(_change(new.manifest.label, "__label", old, new))
    columns.sort(key=lambda c: (-abs(c.moved) if math.isfinite(c.moved) else 0.0, c.name))
    return DatasetDiff(
        old=old.manifest.digest,
        new=new.manifest.digest,
        rows=(old.manifest.rows, new.manifest.rows),
        periods=((old.manifest.start, old.manifest.end), (new.manifest.start, new.manifest.end)),
        shared_rows=len(_keys(old) & _keys(new)),
        added=tuple(name for name in new.feature_names if name not in old.feature_names),
        removed=tuple(name for name in old.feature_names if name not in new.feature_names),
        columns=tuple(columns),
    )


def _change(name: str, column: str, old: TrainingSet, new: TrainingSet) -> ColumnChange:
    a, b = _values(old, column), _values(new, column)
    mean, later = _mean(a), _mean(b)
    spread = float(np.nanstd(a)) if np.isfinite(a).any() else math.nan
    moved = 0.0 if mean == later else (later - mean) / spread if spread > 0 else math.nan
    return ColumnChange(name, mean, later, moved, float(np.isnan(a).mean()), float(np.isnan(b).mean()))


def _values(data: TrainingSet, column: str) -> np.ndarray:
    from flyball.features.matrix import to_matrix

    return np.asarray(to_matrix(data.table, [column])[:, 0])


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _keys(data: TrainingSet) -> set[tuple[int, int]]:
    pairs = zip(data.table.column("__at").to_pylist(), data.table.column("__sequence").to_pylist(), strict=True)
    return set(pairs)
