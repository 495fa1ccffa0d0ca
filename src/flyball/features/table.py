"""The answer of `history`: the request's rows with features beside them, and a status for every value.

The surprise: whatever the requests came as, they are Arrow inside; what pandas needs to get its index back travels
in the schema's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flyball.errors import InputError, MissingExtra, UnknownName, first_line

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["Table", "to_requests", "to_rows"]


class Table:
    """Requests with features, in the order of the requests."""

    def __init__(
        self, requests: pa.Table, features: Mapping[str, pa.Array], statuses: Mapping[str, npt.NDArray[np.uint8]]
    ) -> None:
        self._requests = requests
        self._features = dict(features)
        self._statuses = dict(statuses)

    def __len__(self) -> int:
        return int(self._requests.num_rows)

    def __repr__(self) -> str:
        return f"Table({len(self)} rows, features: {', '.join(self._features)})"

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names in order."""
        return tuple(self._features)

    def to_arrow(self) -> pa.Table:
        """Return the request's columns, then the features."""
        table = self._requests
        for name, values in self._features.items():
            table = table.append_column(name, values)
        return table

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with the index of the requests; int features are Int64, where null is not NaN."""
        pandas = _pandas()
        frame: pd.DataFrame = self._requests.to_pandas()
        nullable: dict[Any, Any] = {
            pa.int64(): pandas.Int64Dtype(), pa.bool_(): pandas.BooleanDtype(), pa.string(): pandas.StringDtype(),
        }  # fmt: skip
        for name, values in self._features.items():
            series = pa.chunked_array([values]).to_pandas(types_mapper=nullable.get)
            series.index = frame.index
            frame[name] = series
        return frame

    def to_polars(self) -> pl.DataFrame:
        """Return a polars frame; raises MissingExtra where polars is not installed."""
        try:
            import polars
        except ImportError as error:
            raise MissingExtra("a polars frame needs polars; pip install polars, or use to_arrow()") from error
        frame = polars.from_arrow(self.to_arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def to_parquet(self, path: Path | str, *, statuses: bool = False) -> Path:
        """Write the request's columns, then the features; with `statuses` also `__status_NAME` (uint8) for each."""
        import pyarrow.parquet as pq

        table = self.to_arrow()
        for name, status in self._statuses.items() if statuses else ():
            table = table.append_column(f"__status_{name}", pa.array(status, pa.uint8()))
        pq.write_table(table, path, compression="zstd")
        return Path(path)

    @overload
    def status(self, name: None = None) -> dict[str, npt.NDArray[np.uint8]]: ...
    @overload
    def status(self, name: str) -> npt.NDArray[np.uint8]: ...
    def status(self, name: str | None = None) -> dict[str, npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]:
        """Return what became of the values.

        Args:
            name: A feature.

        Returns:
            uint8 of `Status`, shape (rows,); without a name a dict of them by feature.

        Raises:
            UnknownName: there is no such feature.
        """
        if name is None:
            return dict(self._statuses)
        if name not in self._statuses:
            raise UnknownName.of("feature", name, self._statuses)
        return self._statuses[name]


def to_rows(rows: Any) -> list[dict[str, Any]]:
    """Return rows as dictionaries.

    Args:
        rows: A sequence of mappings, or what `to_requests` takes but paths: a pandas, polars or Arrow table.

    Raises:
        InputError: it is neither.
    """
    if isinstance(rows, Mapping):
        raise InputError("rows are one dictionary; give a list of dictionaries, one per row: [row]")
    if isinstance(rows, str | Path):
        raise InputError(f"rows are {str(rows)!r}; give a list of dictionaries, one per row, or a frame")
    if hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "to_arrow"):
        table: list[dict[str, Any]] = to_requests(rows).to_pylist()
        return table
    try:
        return [dict(row) for row in rows]
    except (TypeError, ValueError) as error:
        raise InputError(f"rows are a {type(rows).__name__} of no dictionaries; give one dictionary per row") from error


def to_requests(requests: Any) -> pa.Table:
    """Return requests as Arrow without touching them.

    Args:
        requests: A pandas or polars frame, an Arrow table or record batch, a list of dicts, or a path of a Parquet or
            CSV file.

    Raises:
        InputError: it is none of these, or cannot be read.
    """
    try:
        match requests:
            case pa.Table():
                return requests
            case pa.RecordBatch():
                return pa.Table.from_batches([requests])
            case str() | Path():
                return _read(Path(requests))
            case list():
                return pa.Table.from_pylist(requests)
            case _ if type(requests).__module__.startswith("pandas"):
                return pa.Table.from_pandas(requests)
            case _ if hasattr(requests, "to_arrow"):
                return _plain(requests.to_arrow())
            case _ if hasattr(requests, "__arrow_c_stream__"):
                return _plain(pa.table(requests))
            case _:
                raise InputError(
                    f"requests are a {type(requests).__name__}; give a pandas or polars frame, an Arrow table or a path"
                )
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the requests cannot be read: {first_line(error)}") from error


def _read(path: Path) -> pa.Table:
    if not path.exists():
        raise InputError(f"there is no file {path}; requests may be a Parquet or CSV file")
    if path.suffix == ".csv":
        from pyarrow import csv

        return csv.read_csv(path)
    import pyarrow.parquet as pq

    return pq.read_table(path)


def _plain(table: pa.Table) -> pa.Table:
    """Replace polars' string views and large strings by plain strings."""
    fields = [f.with_type(pa.string()) if _is_odd_text(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))


def _is_odd_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise MissingExtra.of("a data frame", "standard") from error
    return pandas
