"""Training sets and their manifests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from flyball.features.spec import Join

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

__all__ = ["DatasetManifest", "Made", "TrainingSet"]

Made: TypeAlias = Join | Literal["as_served"]
"""How features were joined; "as_served": not at all, they are the values of the prediction log."""


@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """What an immutable training set is made of; `digest` is the SHA-256 of its canonical Arrow content.

    `holdout_from` is the first T of the holdout, `embargo` (µs) the stretch before it that neither trains nor counts.
    """

    digest: str
    model: str
    rows: int
    train_rows: int
    holdout_rows: int
    features: str  # digest of the feature service
    label: str
    code: str
    join: Made
    start: datetime
    end: datetime
    holdout_from: datetime
    embargo: int
    immature: int  # examples left out because their label had not matured
    rejected: int  # source rows dropped by `where`
    poisoned: tuple[tuple[datetime, datetime], ...] = ()
    path: str = ""  # Parquet file, relative to the project's state folder
    created: datetime | None = None
    supersedes: str = ""  # digest of the set this one is without an erased subject's rows
    superseded_by: str = ""  # digest of the set that took this one's place; its own rows are gone
    warnings: tuple[str, ...] = ()  # data checks with policy "warn" that failed on its sources
    unserved: int = 0  # rows of the log left out: served without a feature of the model, or not from the online store


class TrainingSet:
    """Rows for one training: X, y of the training part, and the holdout apart.

    `X` is float64 numpy of shape (n, k), column order `feature_names`; null is NaN.
    """

    def __init__(self, table: pa.Table, manifest: DatasetManifest, feature_names: tuple[str, ...]) -> None:
        """Wrap a table: feature columns, `__label` (float64), `__at` (int64 µs), `__part` (0 train, 1 holdout)."""
        self.table = table
        self.manifest = manifest
        self.feature_names = feature_names
        self._parts: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    @property
    def X(self) -> np.ndarray:
        """Training matrix, shape (train_rows, k)."""
        return self._part(0)[0]

    @property
    def y(self) -> np.ndarray:
        """Training labels, shape (train_rows,)."""
        return self._part(0)[1]

    @property
    def at(self) -> np.ndarray:
        """Training request times, int64 µs."""
        return self._part(0)[2]

    @property
    def holdout(self) -> tuple[np.ndarray, np.ndarray]:
        """Holdout matrix and labels, which no training sees."""
        part = self._part(1)
        return part[0], part[1]

    def to_pandas(self) -> pd.DataFrame:
        """Return the training part as a data frame with the label in its last column."""
        import pandas as pd

        frame = pd.DataFrame(self.X, columns=list(self.feature_names))
        frame[self.manifest.label] = self.y
        return frame

    def _part(self, part: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if part not in self._parts:
            import pyarrow.compute as pc

            from flyball.features.matrix import to_matrix

            rows = self.table.filter(pc.equal(self.table.column("__part"), part))
            y = rows.column("__label").to_numpy()
            self._parts[part] = to_matrix(rows, self.feature_names), y, rows.column("__at").to_numpy()
        return self._parts[part]
