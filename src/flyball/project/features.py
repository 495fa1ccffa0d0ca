"""`project.features`: history, online look-up, push, materialization.

Whoever writes the online store does it alone: the ingest process when the project is up, else this process, which then
holds the writer's lock until `close`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import msgspec

from flyball.features.materialize import MaterializeResult, Step
from flyball.units import micros, to_micros

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.erase import Stored
    from flyball.features.ingest import Ingest, PushResult
    from flyball.features.lookup import Vectors
    from flyball.features.ports import OnlineStore
    from flyball.features.spec import Join, SourceSpec, ViewSpec
    from flyball.features.table import Table
    from flyball.project.catalog import Catalog
    from flyball.project.proof import Erasure
    from flyball.project.root import Project
    from flyball.project.skew import SkewReport

__all__ = ["FeatureHandle"]

Progress = Callable[[int, int], None]
Detail = Callable[[Step], None]


class FeatureHandle:
    """Read and write features of the applied definitions."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def close(self) -> None:
        """Let go of the online store and of the writer's lock."""
        writer = self.__dict__.pop("_writer", None)
        if writer is not None:
            writer.close()
        for name in ("_reader", "_writable"):
            store = self.__dict__.pop(name, None)
            if store is not None:
                store.close()

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog: views, show, search, versions and lineage of the applied views."""
        from flyball.project.catalog import Catalog

        return Catalog(self._project)

    def views(self) -> list[ViewSpec]:
        """Return the applied views in order of their names."""
        return list(self._project.applied.view_specs)

    @overload
    def history(
        self, requests: Any, names: Sequence[str], *, at: str, join: Join = "as_known",
        out: None = None, progress: Progress | None = None,
    ) -> Table: ...  # fmt: skip
    @overload
    def history(
        self, requests: Any, names: Sequence[str], *, at: str, join: Join = "as_known",
        out: Path | str, progress: Progress | None = None,
    ) -> Path: ...  # fmt: skip
    def history(
        self,
        requests: Any,
        names: Sequence[str],
        *,
        at: str,
        join: Join = "as_known",
        out: Path | str | None = None,
        progress: Progress | None = None,
    ) -> Table | Path:
        """Return what online serving would have answered to past requests.

        Args:
            requests: pandas, polars or Arrow table, or a Parquet path; entity keys and the time column `at`.
            names: Views ("zone_traffic"), single features ("zone_traffic:trips_1h") and feature services by name.
            at: Column with each request's time; naive times count as UTC.
            join: "as_known" uses what had arrived by then, "as_corrected" also what came later.
            out: A Parquet file to write instead; then a path of requests (file or folder) of any size is read, answered
                and written in pieces, in bounded memory.
            progress: Told (done, total) in requests times views.
        """
        from flyball.features.history_file import write_history
        from flyball.features.offline import history
        from flyball.features.table import to_requests

        names = self._selected(names)
        views = self._views_of(names)
        engine = self._project.engine
        if out is not None:
            return write_history(engine, requests, views, list(names), at=at, out=out, join=join, progress=progress)
        return history(engine, to_requests(requests), views, list(names), at=at, join=join, progress=progress)

    def online(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, at: datetime | None = None) -> Vectors:
        """Return the newest values for some entities, as serving sees them now.

        `at` may set T back by a second at most: the store keeps what is newest, so the past is `history`'s to tell.
        """
        from flyball.features.lookup import lookup
        from flyball.features.table import to_rows

        names = self._selected(names)
        return lookup(self._store(), to_rows(rows), self._views_of(names), names, self._moment(at))

    async def aonline(
        self, rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, at: datetime | None = None
    ) -> Vectors:
        """Return what `online` returns; a remote store is awaited, the embedded one answers without waiting."""
        from flyball.features.lookup import compiled
        from flyball.features.table import to_rows

        names = self._selected(names)
        asked = compiled(self._views_of(names), names)
        return await asked.aread(self._store(), to_rows(rows), self._moment(at))

    def _moment(self, at: datetime | None) -> int:
        moment = to_micros(at or self._project.clock.now())
        writer = self.__dict__.get("_writer")
        if at is None and writer is not None:  # rows that another thread is publishing are not asked for yet
            moment = writer.gate.limit(moment)
        return moment

    def push(self, source: str, rows: Sequence[Mapping[str, Any]]) -> PushResult:
        """Append rows to a source: logged durably first, then folded into its views.

        Args:
            source: The source's name.
            rows: A dictionary per row, or a pandas, polars or Arrow table.

        Raises:
            UnknownName: no such source.
            SourceError: a row lacks a column or has a wrong type; nothing of the call is kept.
        """
        from flyball.adapters.local.ipc import call_sync
        from flyball.features.ingest import PushResult
        from flyball.features.table import to_rows

        self._project.applied.source(source)
        plain = to_rows(rows)
        if self._node_runs():
            answer = call_sync(self._project.layout.socket("ingest"), "push", [source, plain, None])
            return msgspec.convert(answer, PushResult)
        return self._writer.push(source, plain)

    def materialize(
        self,
        view: str,
        *,
        until: datetime | None = None,
        full: bool = False,
        start: datetime | None = None,
        end: datetime | None = None,
        progress: Progress | None = None,
        detail: Detail | None = None,
    ) -> MaterializeResult:
        """Bring a view's online rows up to `until` (now by default).

        What arrived since the last time is added, whatever its event time. `full` rebuilds everything; `start` and
        `end` (event time) rebuild only the entities with events in that range. `progress` gets (entities done, in
        all), `detail` a `Step` with rows, rows per second and the time to go.

        Raises:
            UnknownName: no such view.
            CheckFailed: a data check with policy "stop" failed; nothing changed online.
            ConflictError: another process is at this view; says who and since when.
        """
        spec = self._project.applied.view(view).spec
        return self.fill(spec, until=until, full=full, start=start, end=end, progress=progress, detail=detail)

    def fill(
        self,
        spec: ViewSpec,
        *,
        until: datetime | None = None,
        full: bool = False,
        start: datetime | None = None,
        end: datetime | None = None,
        progress: Progress | None = None,
        detail: Detail | None = None,
    ) -> MaterializeResult:
        """Materialize a view given by its spec, applied or about to be; `attach` it first."""
        from flyball.adapters.local.ipc import call_sync

        moment = until or self._project.clock.now()
        if self._node_runs():
            body = {"view": spec.name, "digest": spec.digest, "until": to_micros(moment), "full": full}
            body |= {n: to_micros(t) for n, t in (("start", start), ("end", end)) if t is not None}
            socket = self._project.layout.socket("ingest")
            answer = call_sync(socket, "materialize", body, progress=_teller(progress, detail))
            result = msgspec.convert(answer, MaterializeResult)
        else:
            result = self._writer.materialize(
                self._project.engine, spec, until=moment, full=full, start=start, end=end, progress=progress,
                detail=detail,
            )  # fmt: skip
        self._project.database.deployments.set_watermark(spec.digest, moment)
        self._note(spec, result)
        return result

    def _note(self, spec: ViewSpec, result: MaterializeResult) -> None:
        """Put into the audit trail what somebody may have to look at."""
        facts = {"rebuilt because": result.reason, "quarantined": result.quarantined, "failed checks": result.warnings,
                 "published late": result.overrun}  # fmt: skip
        found = {name: fact for name, fact in facts.items() if fact}
        if found and not self._project.is_temporary:
            now = self._project.clock.now()
            self._project.database.audit.record(now, "materialize", "materialized", spec.name, found)

    def quarantined(self, source: str) -> pa.Table | None:
        """Return the rows of a source that its checks keep out, with `__reason` and `__at` (µs), or None.

        Rows of files as the last materializations found them, and pushed rows as they lie in the log.

        Raises:
            UnknownName: no such source.
        """
        from flyball.adapters.upkeep import quarantined
        from flyball.features.history_rows import pushed_rejects

        spec = self._project.applied.source(source)
        return quarantined(self._project.layout.state, source, pushed_rejects(self._project.engine, spec))

    def erase(self, subject: Mapping[str, Any], *, dry_run: bool = False, rewrite_sources: bool = False) -> Erasure:
        """Take a subject out of everything that flyball keeps, and return the proof.

        Online rows of every digest, the ingest log, training sets (superseded), the prediction log, quarantine and
        frames. Files of yours are searched and named; with `rewrite_sources` they are written again without the
        subject's rows.

        Args:
            subject: Values of entity keys by name, such as {"user": 42}; entities with other keys beside count too.
            dry_run: Only say what would go.
            rewrite_sources: Take the rows out of the sources' own files, too.

        Raises:
            UnknownName: no entity has such a key.
            InputError: a value is null or of another type than its key.
        """
        from flyball.project.erase import erase

        return erase(self._project, subject, dry_run=dry_run, rewrite_sources=rewrite_sources)

    def skew(
        self,
        view: str | None = None,
        *,
        model: str | None = None,
        since: datetime | None = None,
        sample: float = 1.0,
    ) -> SkewReport:
        """Compare what was served (the prediction log) with history as known at each request's time.

        Args:
            view: Only this view's features.
            model: Only this model's versions.
            since: Only predictions from here on.
            sample: Share of the entities, in (0, 1], by a hash of what they sent.

        Raises:
            UnknownName: there is no such view or model.
        """
        from flyball.project.skew import skew

        return skew(self._project, view=view, model=model, since=since, sample=sample)

    def erase_stored(
        self,
        subject: Mapping[str, Any],
        views: Sequence[ViewSpec],
        sources: Sequence[SourceSpec],
        *,
        known: Mapping[str, Sequence[bytes]],
        dry_run: bool,
    ) -> Stored:
        """Erase from log and store only, through whoever writes them; a part of `erase`."""
        from flyball.adapters.ingest_files import FileIngestLog
        from flyball.adapters.local.ipc import call_sync
        from flyball.features.erase import Stored, erase_stored, subject_of

        ingest = self._project.layout.ingest
        if dry_run:
            typed, log = subject_of(subject, views), FileIngestLog(ingest)
            return erase_stored(self._store(), log, views, sources, typed, known=known, dry_run=True)
        if self._node_runs():
            body = {
                "subject": dict(subject), "known": dict(known), "views": msgspec.json.encode(list(views)),
                "sources": msgspec.json.encode(list(sources)),
            }  # fmt: skip
            found = msgspec.convert(call_sync(self._project.layout.socket("ingest"), "erase", body), Stored)
        else:
            found = self._writer.erase(subject, views, sources, known)
        (ingest / "erased").touch()  # engines of other processes read the log again
        return found

    def is_filled(self, spec: ViewSpec) -> bool:
        """Whether this definition's rows were ever built."""
        return self._project.database.deployments.watermark(spec.digest) is not None

    def is_lost(self, spec: ViewSpec) -> bool:
        """Whether the online store knows nothing of a build: it is new, was emptied, or holds pushes only."""
        from flyball.features.packing import Checkpoint, checkpoint_key

        return Checkpoint.from_bytes(self._store().get_many([checkpoint_key(spec.digest)])[0]).until is None

    def count_online(self, spec: ViewSpec) -> int:
        """Return how many entities have rows online."""
        from flyball.features.packing import namespace

        return len(self._store().keys(namespace(spec.digest)))

    def attach(self, views: Sequence[ViewSpec]) -> None:
        """Let pushes reach exactly these views from now on; what is stored for others goes."""
        from flyball.adapters.local.ipc import call_sync
        from flyball.adapters.local.views import read_views, write_views

        layout, kept = self._project.layout, {view.digest for view in views}
        before, running = read_views(layout), self._node_runs()
        if tuple(views) == before and not running:
            return
        gone = [view for view in before if view.digest not in kept]
        write_views(layout, views)
        for view in gone:
            self._project.database.deployments.set_watermark(view.digest, None)
        if running:
            body = msgspec.json.encode(list(views), order="deterministic")
            call_sync(layout.socket("ingest"), "attach", body)
            return
        for view in views:
            self._writer.attach(view)
        for view in gone:
            self._writer.detach(view.digest, drop=True)

    def _node_runs(self) -> bool:
        from flyball.adapters.local.running import read_running

        return not self._project.is_temporary and read_running(self._project.layout) is not None

    def _store(self) -> OnlineStore:
        return self._writable if "_writable" in self.__dict__ else self._reader

    def serving_store(self) -> OnlineStore:
        """Return a store for a gateway: to read, a remote one with budget, breaker and policy; the caller closes it."""
        from flyball.adapters.stores import guarded

        if self._project.settings.online.store == "lmdb":
            return self._store()
        return guarded(self._project.settings, self._project.layout, secret=self._project.config.secret)

    @cached_property
    def _reader(self) -> OnlineStore:
        if self._project.settings.online.store == "lmdb" and not self._project.layout.online.exists():
            self._open_store(readonly=False).close()
        return self._open_store(readonly=True)

    @cached_property
    def _writable(self) -> OnlineStore:
        return self._open_store(readonly=False)

    def _open_store(self, *, readonly: bool) -> OnlineStore:
        from flyball.adapters.stores import open_store

        project = self._project
        return open_store(project.settings, project.layout, readonly=readonly, secret=project.config.secret)

    @cached_property
    def _writer(self) -> Ingest:
        from flyball.adapters.ingest_files import FileIngestLog
        from flyball.adapters.local.views import read_views
        from flyball.adapters.upkeep import FolderUpkeep
        from flyball.features.ingest import Ingest

        project = self._project
        log = FileIngestLog(project.layout.ingest, dedup=micros(project.settings.ingest.dedup))
        upkeep = FolderUpkeep(project.layout.state)
        views = read_views(project.layout)
        state = project.layout.state
        return Ingest(self._writable, log, views, clock=project.clock, root=project.root, upkeep=upkeep, state=state)

    def _selected(self, names: Sequence[str]) -> list[str]:
        """Return names with services replaced by what they read; a single text is one name."""
        return self._project.applied.selected([names] if isinstance(names, str) else names)

    def _views_of(self, names: Sequence[str]) -> list[ViewSpec]:
        """Return the views that "view" and "view:feature" name; services are replaced by what they read before."""
        wanted = dict.fromkeys(name.partition(":")[0] for name in names)
        return [self._project.applied.view(name).spec for name in wanted]


def _teller(progress: Progress | None, detail: Detail | None) -> Callable[[Any], None] | None:
    """Return what turns the ingest process's steps into calls here."""
    if progress is None and detail is None:
        return None

    def tell(values: Any) -> None:
        step = Step(*values)
        if progress is not None:
            progress(step.keys, step.all_keys)
        if detail is not None:
            detail(step)

    return tell
