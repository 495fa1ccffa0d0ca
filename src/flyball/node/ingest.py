"""The process that is the only writer of the local online store and of the ingest log.

Run as `python -m flyball.node.ingest --project P`. Pushes that arrive while one commit runs are committed together by
the next; each is acknowledged after the log has it, the cells are written and its publication has come. It serves
`push`, `events`, `attach`, `materialize`, `flush`, `dead` and `info` on its socket, and consumes the streams of the
applied views (`node/streams.py`). The surprise: it needs neither user code nor the control database.
`flyball apply` leaves the views as plain data in views.json, and that file is what a restart begins from.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flyball import units
from flyball.adapters.local.ipc import Call, Server
from flyball.adapters.local.measures import Measures
from flyball.adapters.local.process import Beats, die_with_parent, failed, log
from flyball.adapters.local.views import read_views
from flyball.errors import ConflictError, FlyballError, InputError, Unavailable, UnknownName
from flyball.features.pushes import Batch
from flyball.features.spec import SourceSpec, ViewSpec
from flyball.node.commits import Commits, plain
from flyball.node.streams import StreamTask, open_stream
from flyball.units import from_micros

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flyball.config import Config
    from flyball.features.ports import EventStream
    from flyball.layout import Layout

__all__ = ["IngestProcess", "main"]

_MEASURE_EVERY = 1.0  # seconds between two writes of the numbers that /metrics shows
_COMPACT_EVERY = 30.0  # seconds between two looks at the log's closed segments


class IngestProcess:
    """Run everything that writes on one thread, and answer on the socket.

    Args:
        layout: The project's paths.
        open_ingest: Makes the `Ingest` from the applied views; called on the writing thread.
        engine: Makes the offline engine when something is materialized for the first time.
        now: Domain time in µs, which stamps arrivals.
        measures: Where its numbers go.
        stream: Makes the connector of a stream source.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        open_ingest: Callable[[tuple[ViewSpec, ...]], Any],
        engine: Callable[[], Any],
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
        measures: Measures | None = None,
        stream: Callable[[SourceSpec], EventStream] | None = None,
    ) -> None:
        self._layout = layout
        self.measures = measures or Measures(layout.state / "ingest.prom")
        self._open = open_ingest
        self._make_engine = engine
        self._engine: Any = None
        self._filling: dict[str, datetime] = {}  # by digest, since when
        self._now = now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._filler = ThreadPoolExecutor(1, thread_name_prefix="materialize")  # its chunks let pushes in between
        self._looker = ThreadPoolExecutor(1, thread_name_prefix="late")  # a slow store must not hold the writer up
        self._views: dict[str, ViewSpec] = {}  # by digest, the applied one of a name last
        self._commits = Commits(self._commit, now=now, measures=self.measures)
        self._open_stream = stream
        self._streams: dict[SourceSpec, tuple[StreamTask, asyncio.Task[None]]] = {}

    async def start(self) -> None:
        """Open log and store, replay what the cells miss, begin to accept."""
        views = read_views(self._layout)
        self._views = {v.digest: v for v in views}
        self._ingest = await self._write(self._open, views)
        await self._write(_bring_code, views)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._commits.run()), loop.create_task(self._compact_for_ever()),
                       loop.create_task(self._measure_for_ever()), loop.create_task(self._look_for_ever()),
                       loop.create_task(self._recover_for_ever())]  # fmt: skip
        self._follow_streams()

    async def close(self) -> None:
        """Write what is queued, then close."""
        streams = [task for _, task in self._streams.values()]
        for task in streams:
            task.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        await self._commits.drained()
        for task in self._tasks:
            task.cancel()
        await self._write(getattr(self._ingest, "close", lambda: None))

    def handlers(self) -> dict[str, Any]:
        """Return the methods of the socket."""
        return {
            "push": self.push, "events": self.events, "dead": self.dead, "attach": self.attach,
            "materialize": self.materialize, "flush": self.flush, "info": self.info, "erase": self.erase,
        }  # fmt: skip

    async def push(self, body: list[Any], _: Call) -> dict[str, Any]:
        """Accept rows: [source, rows, arrival µs or None] -> accepted, rejected, sequence of the first row."""
        source, rows, arrival = body
        return await self.take(Batch(source, rows, arrival))

    async def events(self, body: list[Any], _: Call) -> dict[str, Any]:
        """Accept all rows of a request or none: [source, rows] -> as `push`, or {"errors": [[place, what], ...]}."""
        source, rows = body
        try:
            return await self.take(Batch(source, rows))
        except InputError as error:
            wrong = await self.on_writer(self._ingest.explain, source, rows)
            if not wrong:
                raise
            return {"errors": sorted(wrong.items()), "error": str(error)}

    async def take(self, batch: Batch) -> dict[str, Any]:
        """Log and apply rows; return when they are readable.

        Raises:
            Busy: too much waits already.
        """
        return await self._commits.take(batch)

    async def room(self) -> None:
        """Return when few rows wait; streams are not polled before."""
        await self._commits.room()

    async def on_writer(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run something on the writing thread."""
        return await self._write(work, *arguments)

    @property
    def ingest(self) -> Any:
        """The Ingest; to be used on the writing thread."""
        return self._ingest

    async def dead(self, body: Any, _: Call) -> list[dict[str, Any]]:
        """Return the newest messages that were no rows, at most 1,000: [source or None] -> rows of a table."""
        letters = await self._write(lambda: self._ingest.dead(body[0] if body else None))
        return [row | {"payload": row["payload"][:2000].decode("utf-8", "replace")} for row in letters[-1000:]]

    async def attach(self, body: bytes, _: Call) -> list[str]:
        """Apply exactly these views (JSON) from now on, and drop what is stored for others; return their names."""
        views = msgspec.json.decode(body, type=tuple[ViewSpec, ...])
        await self._write(_bring_code, views)
        for view in views:
            await self._write(self._ingest.attach, view)
        gone = self._views.keys() - {view.digest for view in views}
        for digest in gone:
            await self._write(lambda digest=digest: self._ingest.detach(digest, drop=True))
        self._views = {view.digest: view for view in views}
        self._follow_streams()
        log("views attached", views=[f"{v.name}:{v.digest}" for v in views], dropped=sorted(gone))
        return sorted(v.name for v in views)

    async def materialize(self, body: dict[str, Any], call: Call) -> dict[str, Any]:
        """Bring a view's online rows up to `until`: {view, digest?, until, full, start?, end?} -> the result as a dict.

        Times are µs; one at a time per view, a second caller is told.
        """
        view = self._view(body["view"], body.get("digest"))
        since = self._filling.get(view.digest)
        if since is not None:
            raise ConflictError(
                f"view {view.name!r} is being materialized by this project's ingest process since "
                f"{since:%Y-%m-%d %H:%M:%S} UTC; wait until it is done"
            )
        loop = asyncio.get_running_loop()

        def detail(step: Any) -> None:
            loop.call_soon_threadsafe(call.progress, list(step))

        started = time.monotonic()
        self._filling[view.digest] = datetime.now(UTC)
        try:
            result = await loop.run_in_executor(self._filler, self._materialize, view, body, detail)
        finally:
            del self._filling[view.digest]
        log("view materialized", view=view.name, digest=view.digest, seconds=round(time.monotonic() - started, 3))
        return plain(result)

    async def erase(self, body: dict[str, Any], _: Call) -> dict[str, Any]:
        """Erase a subject from log and store: {subject, views and sources as JSON, known} -> counts as `Stored`."""
        views = msgspec.json.decode(body["views"], type=tuple[ViewSpec, ...])
        sources = msgspec.json.decode(body["sources"], type=tuple[SourceSpec, ...])
        found = await self._write(self._ingest.erase, body["subject"], views, sources, body["known"])
        self._engine = None  # it may hold rows in memory
        log("subject erased", rows=sum(found.log.values()), keys=sum(found.online.values()))
        return plain(found)

    def _view(self, name: str, digest: str | None) -> ViewSpec:
        """Return an attached view by digest, or the newest of a name."""
        found = [v for v in self._views.values() if v.name == name and digest in {None, v.digest}]
        if not found:
            raise UnknownName.of("feature view", name, {v.name for v in self._views.values()})
        return found[-1]

    async def flush(self, _: Any, __: Call) -> None:
        """Return when everything pushed so far is written."""
        await self._commits.drained()
        await self._write(lambda: None)

    async def info(self, _: Any, __: Call) -> dict[str, Any]:
        """Say how it is."""
        return {
            "pid": os.getpid(),
            "views": sorted(v.name for v in self._views.values()),
            "pushes": self._commits.pushes,
            "groups": self._commits.groups,
            "waiting": self._commits.waiting,
            "streams": {
                source.name: {"up": task.up, "rows": task.rows, "dead": task.dead, "lag": task.lag}
                for source, (task, _) in self._streams.items()
            },
        }

    def _materialize(self, view: ViewSpec, body: dict[str, Any], detail: Callable[..., None]) -> Any:
        if self._engine is None:
            self._engine = self._make_engine()
        until = body.get("until")
        limit = from_micros(self._now() if until is None else until)
        bounds = {n: from_micros(body[n]) for n in ("start", "end") if body.get(n) is not None}
        full = body.get("full", False)
        return self._ingest.materialize(self._engine, view, until=limit, full=full, detail=detail, **bounds)

    async def _write(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def _commit(self, batches: Sequence[Batch]) -> list[Any]:
        """Commit a group; a bad push comes back as its own error and never fails its neighbours."""
        try:
            return list(await self._write(self._ingest.push_many, batches))
        except Exception as error:
            failed("group not committed", error)
            return [error] * len(batches)

    async def _recover_for_ever(self) -> None:
        """Bring a store that was away up to the log."""
        while True:
            await asyncio.sleep(1.0)
            try:
                if getattr(self._ingest, "behind", ""):
                    await self._write(self._ingest.recover)
            except Exception as error:
                failed("online store not caught up", error)

    def _show(self) -> None:
        m = self.measures
        m.set("flyball_ingest_pushes", self._commits.pushes, "Pushes since this ingest process began.")
        m.set("flyball_ingest_queue", len(self._commits), "Pushes that wait for a commit.")
        m.set("flyball_ingest_waiting_rows", self._commits.waiting, "Rows that wait for their commit.")
        behind = int(bool(getattr(self._ingest, "behind", "")))
        m.set("flyball_ingest_behind", behind, "Whether the store lacks rows that the log has.")
        for source, (task, _) in self._streams.items():
            name = source.name
            m.set("flyball_stream_up", int(task.up), "Whether the consumer is connected.", source=name)
            m.set("flyball_stream_rows", task.rows, "Rows taken since this process started.", source=name)
            m.set("flyball_stream_dead_letters", task.dead, "Messages since the start that were no rows.", source=name)
            m.set("flyball_stream_failures", task.failures, "Reconnections since the start.", source=name)
            since = time.monotonic() - task.newest
            m.set("flyball_stream_idle_seconds", since, "Seconds since the last batch was logged.", source=name)
            if task.lag is not None:
                m.set("flyball_stream_lag_messages", task.lag, "Messages the broker has beyond it.", source=name)

    def _follow_streams(self) -> None:
        """Have one consumer for each stream source of the views, and none for others."""
        wanted = {v.source.name: v.source for v in self._views.values() if v.source.stream}
        for source in [s for s in self._streams if wanted.get(s.name) != s]:
            self._streams.pop(source)[1].cancel()
        for source in wanted.values():
            if source in self._streams or self._open_stream is None:
                continue
            try:
                task = StreamTask(source, self._open_stream(source), self)
            except FlyballError as error:
                failed(f"stream {source.name} cannot be consumed", error)
                continue
            self._streams[source] = (task, asyncio.get_running_loop().create_task(task.run()))

    async def _compact_for_ever(self) -> None:
        """Turn closed segments of the log into Parquet now and then, on the writing thread."""
        while True:
            await asyncio.sleep(_COMPACT_EVERY)
            try:
                done = await self._write(self._ingest.compact)
            except Exception as error:
                failed("log not compacted", error)
            else:
                if done:
                    log("log compacted", segments=done)

    def _late(self) -> dict[str, float]:
        """Return by how many seconds each view with a refresh is late, the worst digest of a name."""
        from flyball.features.refresh import late

        now, found = from_micros(self._now()), dict[str, float]()
        for view in list(self._views.values()):
            if view.about.refresh:
                try:
                    until = self._ingest.checkpoint(view).until
                except Unavailable:  # the store is away; what was last written stands
                    continue
                last = None if until is None else from_micros(until)
                behind = late(view.about.refresh, last, now).total_seconds()
                found[view.name] = max(behind, found.get(view.name, 0.0))
        return found

    async def _look_for_ever(self) -> None:
        """Measure lateness on a thread of its own: a slow store delays this number and nothing else."""
        while True:
            try:
                late = await asyncio.get_running_loop().run_in_executor(self._looker, self._late)
            except Exception as error:
                failed("lateness of refreshes not measured", error)
            else:
                for name, behind in late.items():
                    self.measures.set("flyball_refresh_late_seconds", behind, "Time since a view's refresh fell due.",
                                      view=name)  # fmt: skip
            await asyncio.sleep(_MEASURE_EVERY)

    async def _measure_for_ever(self) -> None:
        while True:
            self._show()
            self.measures.write()
            await asyncio.sleep(_MEASURE_EVERY)


def _bring_code(views: Iterable[ViewSpec]) -> None:
    """Import what the views' Python functions need now, not while the first push waits."""
    from flyball.features.callables import bring, refs_of

    for ref in refs_of(views):
        try:
            bring(ref)
        except FlyballError as error:
            failed("functions not imported", error)


async def run(process: IngestProcess, socket: Path) -> None:
    """Serve until SIGTERM."""
    beats = Beats()
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    beats.start()
    await process.start()
    server = Server(socket, process.handlers(), failed=failed)
    await server.start()
    beats.ready()
    await ending.wait()
    await server.close()
    await process.close()


def _compose(config: Config) -> IngestProcess:
    from flyball.adapters.local.snapshots import find_in_snapshots
    from flyball.serving.shared.mapclock import MapClock, MapGate
    from flyball.serving.shared.slots import SharedMap

    layout = config.layout
    find_in_snapshots(layout)
    shared = SharedMap.open(layout.map)
    clock = MapClock(shared, gated=False)

    measures, kind = Measures(layout.state / "ingest.prom"), config.settings.online.store

    def observe(operation: str, seconds: float, failed: bool) -> None:
        measures.observe("flyball_store_write_seconds", seconds, "Time of one write to the online store.",
                         store=kind, operation=operation)  # fmt: skip
        if failed:
            measures.count("flyball_store_write_errors_total", 1, "Writes to the online store that failed.", store=kind)

    def open_ingest(views: tuple[ViewSpec, ...]) -> Any:
        from flyball.adapters.ingest_files import FileIngestLog
        from flyball.adapters.stores import open_store
        from flyball.adapters.upkeep import FolderUpkeep
        from flyball.features.ingest import Ingest
        from flyball.features.metered import MeteredStore

        opened = open_store(config.settings, layout, readonly=False, secret=config.secret)
        store = MeteredStore(opened, observe)
        log = FileIngestLog(layout.ingest, dedup=units.micros(config.settings.ingest.dedup))
        return Ingest(store, log, views, clock=clock, root=config.root, gate=MapGate(shared),
                      upkeep=FolderUpkeep(layout.state), state=layout.state)  # fmt: skip

    def engine() -> Any:
        from flyball.adapters.engines import open_engine

        return open_engine(config.settings, config.root, layout)

    return IngestProcess(layout, open_ingest=open_ingest, engine=engine, now=clock.micros, measures=measures,
                         stream=lambda source: open_stream(source, lambda text: _resolved(config, text)))  # fmt: skip


def _resolved(config: Config, text: str) -> str:
    """Return what env:NAME or file:PATH stands for; other text stands for itself."""
    return config.secret(text) if text.startswith(("env:", "file:")) else text


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line of `python -m flyball.node.ingest`."""
    parser = argparse.ArgumentParser(prog="flyball.node.ingest")
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--environment")
    given = parser.parse_args(arguments)
    die_with_parent("ingest")
    from flyball.config import load

    config = load(given.project, environment=given.environment)
    asyncio.run(run(_compose(config), config.layout.socket("ingest")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
