"""The prediction log as training reads it: answered requests with the outcomes that were known by a time.

The surprise: outcomes that came after the end of the stretch are as if they had never come, so a run that is resumed
weeks later makes the same training set.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.errors import UnknownName
from flyball.project.readers import service_of
from flyball.project.skew import assigned_version
from flyball.units import to_micros

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import FeatureService
    from flyball.project.root import Project

__all__ = ["AnsweredLog"]

_KEPT = (
    "id", "unit", "arm", "version", "table", "read", "protected", "fallback", "features", "inputs", "inputs_exact",
)  # fmt: skip


class AnsweredLog:
    """datasets.ports.ServedLog on a project's log."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._services: dict[tuple[str, str], FeatureService | None] = {}

    def service(self, model: str, version: str) -> FeatureService | None:
        """Return what a version reads, None when it or its artifact is gone."""
        if (model, version) not in self._services:
            try:
                found = service_of(self._project, self._project.database.versions.get(model, version))
            except UnknownName:
                found = None
            self._services[model, version] = found
        return self._services[model, version]

    def answered(self, model: str, *, start: datetime, until: datetime) -> pa.Table:
        """Return a model's answered requests of a stretch, see `datasets.ports.ServedLog`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self._project.audit.log_read("trained on", model)
        parts = list(self._predictions(model, start, until))
        table = pa.concat_tables(parts, promote_options="default") if parts else _empty()
        table = table.sort_by([("at", "ascending"), ("id", "ascending")])
        first = np.unique(
            np.asarray(table.column("id").to_numpy(zero_copy_only=False), dtype=object), return_index=True
        )
        table = table.take(np.sort(first[1]))  # a request that was sent again is there twice under one id
        assigned = pa.array(self._assigned(model, table), pa.string())
        found = table.append_column("assigned", assigned)
        for name, column in self._truth(pc.cast(table.column("id"), pa.string()), start, until).items():
            found = found.append_column(name, column)
        return found

    def _predictions(self, model: str, start: datetime, until: datetime) -> Iterator[pa.Table]:
        """Yield the answered rows of each file, in one schema."""
        import pyarrow as pa
        import pyarrow.compute as pc

        first, last = (pa.scalar(to_micros(t), pa.int64()) for t in (start, until))
        for part in self._project.log.parts("predictions", model, start):
            at = part.column("at").cast(pa.int64())
            mine = pc.and_(pc.equal(part.column("model"), model), _between(at, first, last))
            answered = pc.or_(part.column("value").is_valid(), part.column("values").is_valid())
            whole = pc.or_(part.column("error").is_null(), part.column("fallback"))
            keep = pc.and_(mine, pc.and_(answered, whole))
            columns = {n: _plain(part.column(n)) for n in _KEPT}
            yield pa.table({**columns, "at": at, "prediction": part.column("value")}).filter(keep)

    def _assigned(self, model: str, table: pa.Table) -> list[str]:
        """Return whose features were read: who answered, or, where another stepped in, who was asked first."""
        found: list[str] = table.column("version").to_pylist()
        fallen = np.flatnonzero(np.asarray(table.column("fallback")))
        some = table.select(["id", "arm", "version", "table", "at"]).take(fallen)
        known: dict[tuple[Any, ...], str] = {}
        for place, row in zip(fallen.tolist(), some.to_pylist(), strict=True):
            key = row["table"], row["arm"], row["version"]
            if key not in known:
                known[key] = self._asked(model, row)
            found[place] = known[key]
        return found

    def _asked(self, model: str, row: dict[str, Any]) -> str:
        from flyball.records.types import Prediction

        record = Prediction(
            row["id"], model, row["version"], row["arm"], row["table"], "", row["at"], {}, [], b"", None, fallback=True
        )
        asked = assigned_version(self._project, record)
        return "" if asked == row["version"] else asked  # its table is gone: nobody knows whose features they are

    def _truth(self, ids: Any, start: datetime, until: datetime) -> dict[str, pa.Array]:
        """Return outcome, event and receipt of each prediction: of the highest revision, the first that came."""
        import pyarrow as pa
        import pyarrow.compute as pc

        last, parts = to_micros(until), []
        for part in self._project.log.parts("outcomes", None, start):
            some = part.select(["id", "value", "event", "received", "revision"])
            place = pc.index_in(some.column("id"), value_set=ids.combine_chunks())
            keep = np.asarray(pc.and_(place.is_valid(), pc.less_equal(some.column("received").cast(pa.int64()), last)))
            chosen = some.filter(pa.array(keep))
            parts.append((
                np.asarray(place.filter(pa.array(keep)), dtype=np.int64),
                *(np.asarray(chosen.column(n).cast(pa.int64())) for n in ("revision", "received", "event")),
                np.asarray(chosen.column("value")),
            ))  # fmt: skip
        names, at = ("outcome", "event", "received"), {"outcome": 4, "event": 3, "received": 2}
        kinds = {"outcome": pa.float64(), "event": pa.int64(), "received": pa.int64()}
        if not parts:
            return {n: pa.nulls(len(ids), kinds[n]) for n in names}
        place, revision, received, *_ = every = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.lexsort((received, -revision, place))
        order = order[np.unique(place[order], return_index=True)[1]]
        where = np.full(len(ids), -1, dtype=np.int64)
        where[place[order]] = order
        chosen = pa.array(where, mask=where < 0)
        return {n: pa.array(every[at[n]], kinds[n]).take(chosen) for n in names}


def _between(at: Any, first: Any, last: Any) -> Any:
    import pyarrow.compute as pc

    return pc.and_(pc.greater_equal(at, first), pc.less(at, last))


def _plain(column: Any) -> Any:
    import pyarrow as pa

    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _empty() -> pa.Table:
    import pyarrow as pa

    from flyball.records.columnar import schema_of

    schema = schema_of("predictions")
    columns = {n: _plain(pa.chunked_array([], schema.field(n).type)) for n in _KEPT}
    return pa.table({**columns, "at": pa.array([], pa.int64()), "prediction": pa.array([], pa.float64())})
