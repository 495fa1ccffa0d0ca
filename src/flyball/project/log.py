"""`project.log`: the prediction log as tables, shipped and live parts together, each record once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from flyball.errors import UnknownName
from flyball.units import to_micros

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from flyball.adapters.log_files import ShippedFiles
    from flyball.project.root import Project
    from flyball.records.shipping import Part
    from flyball.records.types import Record

__all__ = ["LogHandle", "needed_since", "wanted"]

Kind = Literal["predictions", "shadows", "outcomes", "exposures"]
_KINDS = ("predictions", "shadows", "outcomes", "exposures")
_OF_NO_MODEL = frozenset({"outcomes", "exposures"})
_DRIFT = 60_000_000  # µs a clock may have been set back
_SLACK = timedelta(days=1)  # for late outcomes and a control process that was away


class LogHandle:
    """Read what was predicted and what became of it."""

    def __init__(self, project: Project) -> None:
        self._project = project

    @property
    def files(self) -> ShippedFiles:
        """Where shipped Parquet lies."""
        from flyball.adapters.log_files import ShippedFiles

        return ShippedFiles(self._project.settings.log.ship_to or str(self._project.layout.shipped))

    def table(
        self,
        kind: Kind = "predictions",
        *,
        model: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> pa.Table:
        """Return the records of one kind as Arrow, oldest first.

        Args:
            kind: "predictions", "shadows", "outcomes" or "exposures".
            model: Only of this model; outcomes and exposures belong to none and all come.
            since: From this T on; of outcomes, from this receipt on.
            until: Before this T.

        Raises:
            UnknownName: there is no such kind.
            Unavailable: the shipped part cannot be reached.
        """
        import pyarrow as pa

        from flyball.records.columnar import schema_of

        if kind not in _KINDS:
            raise UnknownName.of("kind of record", kind, _KINDS)
        self._project.audit.log_read(kind, model or "all models")
        schema = schema_of(kind)
        plain = pa.schema([f.with_type(pa.string()) if pa.types.is_dictionary(f.type) else f for f in schema])
        parts = [t.select(schema.names).cast(plain) for t in self.parts(kind, model, since)]
        table = pa.concat_tables([plain.empty_table(), *parts])
        return _within(table, kind, model, since, until)

    def to_pandas(self, kind: Kind = "predictions", **choice: Any) -> pd.DataFrame:
        """Return the same as a pandas frame."""
        frame: pd.DataFrame = self.table(kind, **choice).to_pandas()
        return frame

    def records(self, *, since: datetime | None = None) -> Iterator[Record]:
        """Yield all records, shipped ones first, each once; `since` spares files that end before, no single record."""
        from flyball.adapters.local.segments import read_shipped, segments_of
        from flyball.adapters.log_files import placed
        from flyball.records.columnar import records_of

        root = self._project.layout.log
        shipped, files = read_shipped(root), self.files
        for parts in shipped.segments.values():
            for part in parts:
                kind = part.path.partition("/")[0]
                if since is None or part.until >= to_micros(since) or kind == "outcomes":
                    yield from (each.record for each in records_of(kind, files.read(part.path)))
        for segment in segments_of(root):
            if segment.name not in shipped.segments:
                yield from (each.record for each in placed(root, segment.name))

    def shipped_records_of(self, prediction: str) -> Iterator[Record]:
        """Yield the shipped records of one prediction."""
        import pyarrow.compute as pc

        from flyball.adapters.local.segments import read_shipped
        from flyball.records.columnar import records_of
        from flyball.serving.log.ids import parts_of

        born = parts_of(prediction)
        files = self.files
        for parts in read_shipped(self._project.layout.log).segments.values():
            for part in parts:
                if born is None or self._project.settings.clock.domain == "simulated" or part.until >= born[0] - _DRIFT:
                    table = files.read(part.path)
                    mine = table.filter(pc.equal(table.column("id"), prediction))
                    yield from (each.record for each in records_of(part.path.partition("/")[0], mine))

    def parts(self, kind: Kind, model: str | None, since: datetime | None) -> Iterator[pa.Table]:
        """Yield what `table` returns file by file, before rows are filtered; nothing is written down about it."""
        from flyball.adapters.local.segments import read_shipped, segments_of
        from flyball.adapters.log_files import placed
        from flyball.records.columnar import tables_of

        root = self._project.layout.log
        shipped, files = read_shipped(root), self.files  # the journal first: what is shipped from here on is read live
        for parts in shipped.segments.values():
            yield from (files.read(part.path) for part in parts if wanted(part, kind, model, since))
        for segment in segments_of(root):
            if segment.name not in shipped.segments:
                found = tables_of(placed(root, segment.name)).get(kind)
                if found is not None:
                    yield found


def needed_since(project: Project, now: datetime) -> int:
    """Return from which time on (µs) readers of segments still need the log.

    That is the start of the oldest release under way and the oldest window of a monitor that may still be open, whose
    outcomes may still mature. Where domain time is simulated everything is needed, as segments carry the machine's.
    """
    if project.settings.clock.domain == "simulated":
        return 0
    starts = [status.created for _, status in project.database.rollouts.list(active=True)]
    for model in project.applied.models.values():
        spans = [monitor.window for monitor in model.monitors]
        starts.append(now - 2 * max(spans, default=timedelta(0)) - model.label.matures - _SLACK)
    return to_micros(min(starts, default=now))


def wanted(part: Part, kind: str, model: str | None, since: datetime | None) -> bool:
    """Say whether a shipped file may hold records of this kind and model from `since` on."""
    from flyball.records.shipping import model_of

    if not part.path.startswith(f"{kind}/") or (since is not None and part.until < to_micros(since)):
        return False
    return model is None or model_of(part.path) in {"", model}


def _within(table: pa.Table, kind: str, model: str | None, since: datetime | None, until: datetime | None) -> pa.Table:
    import pyarrow.compute as pc

    time = "received" if kind == "outcomes" else "at"
    if model is not None and kind not in _OF_NO_MODEL:
        table = table.filter(pc.equal(table.column("model"), model))
    if since is not None:
        table = table.filter(pc.greater_equal(table.column(time), since))
    if until is not None:
        table = table.filter(pc.less(table.column(time), until))
    return table.sort_by(
        [(time, "ascending"), ("segment", "ascending"), ("frame", "ascending"), ("place", "ascending")]
    )
