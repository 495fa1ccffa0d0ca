"""The laws of offline engines, on DuckDB and on the kernel over files read whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flyball.adapters.duckdb import DuckDBEngine
from flyball.features import reading, types
from flyball.features.answers import answer_by_scan
from flyball.features.kernel.timeline import row_order
from flyball.features.reading.files import FIRST_SEQUENCE, check_file, file_types, parquet_shape, read_pin, reference
from flyball.testing.laws_offline import OfflineEngineLaws
from flyball.units import to_micros


class PlainEngine(DuckDBEngine):
    """Every row through `reading.accept`, every answer by one call of the kernel: no SQL, no buckets."""

    def scan(
        self, source: Any, *, columns: Any, start: datetime | None = None, end: datetime | None = None,
        files: Any = None, pushed: bool = True, published: Any = None,
    ) -> pa.Table:  # fmt: skip
        outputs = self.types(source)
        for name in columns:
            if name not in outputs:
                return super().scan(source, columns=columns)
        listed = reading.source_files(self._root, source)
        shapes = {f.name: parquet_shape(source, f) for f in listed}
        ref = reference(source, shapes, read_pin(self._root, source))
        kinds = file_types(self._root, source)
        tables = []
        for file in listed:
            check_file(source, file.name, shapes[file.name], ref, reading.needed(source))
            if files is None or file.name in files:
                raw = pq.read_table(file.place, partitioning=None)
                number = FIRST_SEQUENCE + (file.index << 32) + np.arange(raw.num_rows)
                tables.append(self._taken(source, raw.append_column("__sequence", pa.array(number)), kinds))
                at = (published or {}).get(file.name)
                if at is not None:
                    known = np.maximum(tables[-1]["__known"].to_numpy(), at)
                    place = tables[-1].schema.get_field_index("__known")
                    tables[-1] = tables[-1].set_column(place, "__known", pa.array(known))
        raw = self._log.read(source.name) if pushed and self._log is not None else None
        if raw is not None and raw.num_rows:
            tables.append(self._taken(source, raw, kinds))
        names = [*columns, "__event", "__created", "__known", "__sequence"]
        schema = pa.schema([(n, types.to_arrow(outputs[n]) if n in outputs else pa.int64()) for n in names])
        table = pa.concat_tables([schema.empty_table(), *(t.select(names).cast(schema) for t in tables)])
        event = table["__event"].to_numpy()
        keep = np.ones(len(event), bool) if start is None else event >= to_micros(start)
        keep = keep if end is None else keep & (event < to_micros(end))
        table = table.filter(pa.array(keep))
        order = row_order(*(table[n].to_numpy() for n in ("__event", "__created", "__sequence")))
        return table if order is None else table.take(pa.array(order))

    def _taken(self, source: Any, raw: pa.Table, kinds: Any) -> pa.Table:
        return reading.accept(source, raw, kinds)[0]

    def batches(self, source: Any, **more: Any) -> Iterator[pa.Table]:
        yield self.scan(source, **more)

    def answer(self, requests: pa.Table, view: Any, features: Any, *, join: Any) -> pa.Table:
        return answer_by_scan(self, requests, view, features, join=join)


class TestPlainKernel(OfflineEngineLaws):
    seeds = (21, 22)

    def make_engine(self, root: Path, log: Any) -> PlainEngine:
        return PlainEngine(root, log)


class TestDuckDB(OfflineEngineLaws):
    seeds = (1, 2, 3, 4)

    def make_engine(self, root: Path, log: Any) -> DuckDBEngine:
        return DuckDBEngine(root, log)

    def other_engines(self, root: Path, log: Any) -> Iterator[Any]:
        yield DuckDBEngine(root, log, threads=3)
        yield _Bucketed(root, log)


class _Bucketed(DuckDBEngine):
    """Deals entities into buckets on disk, as for rows beyond memory."""

    def answer(self, requests: pa.Table, view: Any, features: Any, *, join: Any) -> pa.Table:
        from flyball.adapters import duckdb

        before = duckdb.buckets_for
        duckdb.buckets_for = lambda rows, asked: 5
        try:
            return pa.concat_tables(
                self.answers(iter([requests]), view, features, join=join, expected=requests.num_rows)
            )
        finally:
            duckdb.buckets_for = before
