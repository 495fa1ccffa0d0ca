"""The process that is the only writer of the local online store and of the ingest log.

Run as `python -m flyball.node.ingest --project P`. Pushes that arrive while one commit runs are committed together by
the next; each is acknowledged after the log has it and the cells are written. It serves `push`, `attach`,
`materialize`, `flush` and `info` on its socket. The surprise: it needs neither user code nor the control database.
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
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.adapters.local.ipc import Call, Server
from flyball.adapters.local.measures import Measures
from flyball.adapters.local.process import Beats, die_with_parent, failed, log
from flyball.adapters.local.views import read_views
from flyball.errors import FlyballError, Unavailable, UnknownName
from flyball.features.spec import ViewSpec
from flyball.units import from_micros

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyball.config import Config
    from flyball.layout import Layout

__all__ = ["IngestProcess", "main"]

_GROUP = 256  # pushes in one commit at most
_MEASURE_EVERY = 1.0  # seconds between two writes of the numbers that /metrics shows
_COMPACT_EVERY = 30.0  # seconds between two looks at the log's closed segments


@dataclass(slots=True)
class _Push:
    source: str
    rows: list[dict[str, Any]]
    arrival: int | None  # None: stamped when it is committed, as near as can be to when readers see it
    answer: asyncio.Future[dict[str, Any]]


class IngestProcess:
    """Put concurrent pushes into groups and run everything that writes on one thread.

    Args:
        layout: The project's paths.
        open_ingest: Makes the `Ingest` from the applied views; called on the writing thread.
        engine: Makes the offline engine when something is materialized for the first time.
        now: Domain time in µs, which stamps arrivals.
        measures: Where its numbers go.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        open_ingest: Callable[[tuple[ViewSpec, ...]], Any],
        engine: Callable[[], Any],
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
        measures: Measures | None = None,
    ) -> None:
        self._layout = layout
        self.measures = measures or Measures(layout.state / "ingest.prom")
        self._open = open_ingest
        self._make_engine = engine
        self._engine: Any = None
        self._now = now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._filler = ThreadPoolExecutor(1, thread_name_prefix="materialize")  # its chunks let pushes in between
        self._views: dict[str, ViewSpec] = {}  # by digest, the applied one of a name last
        self._queue: list[_Push] = []
        self._wake = asyncio.Event()
        self.pushes = 0
        self.groups = 0

    async def start(self) -> None:
        """Open log and store, replay what the cells miss, begin to accept."""
        views = read_views(self._layout)
        self._views = {v.digest: v for v in views}
        self._ingest = await self._write(self._open, views)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._commit_for_ever()), loop.create_task(self._compact_for_ever()),
                       loop.create_task(self._measure_for_ever())]  # fmt: skip

    async def close(self) -> None:
        """Write what is queued, then close."""
        while self._queue:
            await asyncio.sleep(0.001)
        for task in self._tasks:
            task.cancel()
        await self._write(getattr(self._ingest, "close", lambda: None))

    def handlers(self) -> dict[str, Any]:
        """Return the methods of the socket."""
        return {
            "push": self.push, "attach": self.attach, "materialize": self.materialize, "flush": self.flush,
            "info": self.info,
        }  # fmt: skip

    async def push(self, body: list[Any], _: Call) -> dict[str, Any]:
        """Accept rows: [source, rows, arrival µs or None] -> accepted, rejected, sequence of the first row."""
        source, rows, arrival = body
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Push(source, rows, arrival, answer))
        self._wake.set()
        return await answer

    async def attach(self, body: bytes, _: Call) -> list[str]:
        """Apply exactly these views (JSON) from now on, and drop what is stored for others; return their names."""
        views = msgspec.json.decode(body, type=tuple[ViewSpec, ...])
        for view in views:
            await self._write(self._ingest.attach, view)
        gone = self._views.keys() - {view.digest for view in views}
        for digest in gone:
            await self._write(lambda digest=digest: self._ingest.detach(digest, drop=True))
        self._views = {view.digest: view for view in views}
        log("views attached", views=[f"{v.name}:{v.digest}" for v in views], dropped=sorted(gone))
        return sorted(v.name for v in views)

    async def materialize(self, body: dict[str, Any], call: Call) -> dict[str, Any]:
        """Bring a view's online rows up to `until` (µs): {view, digest?, until, full} -> the result as a dict."""
        view = self._view(body["view"], body.get("digest"))
        loop = asyncio.get_running_loop()

        def progress(*done: Any) -> None:
            loop.call_soon_threadsafe(call.progress, [_plain(d) for d in done])

        started = time.monotonic()
        result = await asyncio.get_running_loop().run_in_executor(
            self._filler, self._materialize, view, body.get("until"), body.get("full", False), progress
        )
        log("view materialized", view=view.name, digest=view.digest, seconds=round(time.monotonic() - started, 3))
        return dict(_plain(result))

    def _view(self, name: str, digest: str | None) -> ViewSpec:
        """Return an attached view by digest, or the newest of a name."""
        found = [v for v in self._views.values() if v.name == name and digest in {None, v.digest}]
        if not found:
            raise UnknownName.of("feature view", name, {v.name for v in self._views.values()})
        return found[-1]

    async def flush(self, _: Any, __: Call) -> None:
        """Return when everything pushed so far is written."""
        while self._queue:
            await asyncio.sleep(0.001)
        await self._write(lambda: None)

    async def info(self, _: Any, __: Call) -> dict[str, Any]:
        """Say how it is."""
        return {
            "pid": os.getpid(),
            "views": sorted(v.name for v in self._views.values()),
            "pushes": self.pushes,
            "groups": self.groups,
        }

    def _materialize(self, view: ViewSpec, until: int | None, full: bool, progress: Callable[..., None]) -> Any:
        if self._engine is None:
            self._engine = self._make_engine()
        limit = from_micros(self._now() if until is None else until)
        return self._ingest.materialize(self._engine, view, until=limit, full=full, progress=progress)

    async def _write(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def _commit_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            group, self._queue = self._queue[:_GROUP], self._queue[_GROUP:]
            if not self._queue:
                self._wake.clear()
            if group:
                self.groups += 1
                self.pushes += len(group)
                results = await self._write(self._commit, group)
                for push, result in zip(group, results, strict=True):
                    _settle(push.answer, result)

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

    async def _measure_for_ever(self) -> None:
        while True:
            self.measures.set("flyball_ingest_pushes", self.pushes, "Pushes since this ingest process began.")
            self.measures.set("flyball_ingest_queue", len(self._queue), "Pushes that wait for a commit.")
            self.measures.write()
            await asyncio.sleep(_MEASURE_EVERY)

    def _commit(self, group: list[_Push]) -> list[Any]:
        """Commit a group; a bad push comes back as its own error and never fails its neighbours."""
        try:
            return list(self._ingest.push_many([(p.source, p.rows, p.arrival) for p in group]))
        except Exception as error:
            failed("group not committed", error)
            return [error] * len(group)


def _settle(answer: asyncio.Future[dict[str, Any]], result: Any) -> None:
    if answer.done():
        return
    if isinstance(result, FlyballError):
        answer.set_exception(result)
    elif isinstance(result, BaseException):
        answer.set_exception(Unavailable(f"the rows could not be stored: {result}"))
    else:
        answer.set_result(dict(_plain(result)))


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(asdict(value) if is_dataclass(value) and not isinstance(value, type) else value)


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
    from flyball.serving.slots import MapClock, SharedMap

    layout = config.layout
    find_in_snapshots(layout)
    clock = MapClock(SharedMap.open(layout.map))

    measures, kind = Measures(layout.state / "ingest.prom"), config.settings.online.store

    def observe(operation: str, seconds: float, failed: bool) -> None:
        measures.observe("flyball_store_write_seconds", seconds, "Time of one write to the online store.",
                         store=kind, operation=operation)  # fmt: skip
        if failed:
            measures.count("flyball_store_write_errors_total", 1, "Writes to the online store that failed.", store=kind)

    def open_ingest(views: tuple[ViewSpec, ...]) -> Any:
        from flyball.adapters.ingest_files import FileIngestLog
        from flyball.adapters.stores import open_store
        from flyball.features.ingest import Ingest
        from flyball.features.metered import MeteredStore

        opened = open_store(config.settings, layout, readonly=False, secret=config.secret)
        store = MeteredStore(opened, observe)
        return Ingest(store, FileIngestLog(layout.ingest), views, clock=clock, root=config.root)

    def engine() -> Any:
        from flyball.adapters.duckdb import DuckDBEngine
        from flyball.adapters.ingest_files import FileIngestLog

        return DuckDBEngine(config.root, FileIngestLog(layout.ingest))

    return IngestProcess(layout, open_ingest=open_ingest, engine=engine, now=clock.micros, measures=measures)


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
