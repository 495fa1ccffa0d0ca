"""The control process: whoever holds the lease does everything that is due, again and again; and the admin API.

Run as `python -m flyball.node.control --project P --fd N`. The surprise: it comes up without its database. Workers go
on serving the last table, the API says what is missing, and the project is opened again and again until it works.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flyball.adapters.local.ipc import Call, Server
from flyball.adapters.local.process import Beats, die_with_parent, failed, log
from flyball.errors import FenceLost, FlyballError, InputError, Refused, Unavailable
from flyball.serving.shared.mapclock import MapClock
from flyball.serving.shared.slots import SharedMap
from flyball.units import to_micros

if TYPE_CHECKING:
    from flyball.adapters.local.routes import NodeRoutes
    from flyball.config import Config
    from flyball.control.types import Lease
    from flyball.layout import Layout
    from flyball.project import Project
    from flyball.settings import Settings

__all__ = ["ControlProcess", "main"]

_T = TypeVar("_T")
_LEASE = "control"
_END = 7_258_118_400_000_000  # µs of 1 January 2200: sums of times and spans must stay within the calendar
_PASSES = 1000  # passes in one clock step at most


class ControlProcess:
    """Open the project, hold the lease, run the passes; one pass at a time, all on one thread.

    Args:
        layout: The project's paths.
        settings: Its settings.
        open_project: Opens it; tried again while it raises.
        routes: Makes the object whose `ensure()` has this node follow the database's routing table.
    """

    def __init__(
        self,
        layout: Layout,
        settings: Settings,
        *,
        open_project: Callable[[], Project],
        routes: Callable[[Project], NodeRoutes],
    ) -> None:
        self._layout = layout
        self._settings = settings
        self._open = open_project
        self._routes_of = routes
        self._map = SharedMap.open(layout.map)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="control")
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="lease")
        self._passing = asyncio.Lock()
        self._project: Project | None = None
        self._routes: NodeRoutes | None = None
        self._lease: Lease | None = None
        self._renewed = 0.0
        self._trouble = ""
        self._tell("the project is being opened")
        self._passes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.clock = MapClock(self._map)
        node = f"{socket.gethostname()}:{layout.state.resolve()}"
        self._owner = f"{socket.gethostname()}:{hashlib.sha256(node.encode()).hexdigest()[:12]}"

    @property
    def layout(self) -> Layout:
        """The project's paths."""
        return self._layout

    @property
    def project(self) -> Project:
        """The open project.

        Raises:
            Unavailable: it is not open (yet); says why.
        """
        if self._project is None:
            raise Unavailable(f"control cannot answer yet: {self._trouble}")
        return self._project

    @property
    def acting(self) -> bool:
        """Whether this process holds the lease, as far as it can know by its own monotonic clock."""
        return self._lease is not None and time.monotonic() - self._renewed < self._ttl * 0.8

    def health(self) -> dict[str, Any]:
        """Say how things stand."""
        return {
            "status": "ok" if self._project is not None and not self._trouble else "degraded",
            "trouble": self._trouble,
            "acting": self.acting,
            "fence": self._lease.fence if self._lease is not None else None,
            "now": self.clock.now().isoformat(),
            "clock": self._settings.clock.domain,
            "table_version": self._map.table_version,
            "passes": self._passes,
            "pid": os.getpid(),
        }

    def _tell(self, trouble: str) -> None:
        """Keep what is wrong, nothing when all is well, and have the workers' health say that something is."""
        self._trouble = trouble
        self._map.degraded = bool(trouble)

    async def start(self) -> None:
        """Open the project once (or learn why not), then keep everything going in the background."""
        await self._try_open()
        await self._keep_lease_once()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep_lease()), loop.create_task(self._pass_for_ever())]

    async def close(self) -> None:
        """Stop acting and let go of the lease."""
        for task in self._tasks:
            task.cancel()
        async with self._passing:
            lease, self._lease = self._lease, None
        if lease is not None and self._project is not None:
            try:
                await self._on(self._keeper, self._project.database.leases.release, lease)
            except Exception as error:  # it expires by itself
                failed("lease not released", error)

    async def work(self, call: Callable[[], _T]) -> _T:
        """Run something of the project beside the passes, off the event loop."""
        return await asyncio.to_thread(call)

    async def order(self, call: Callable[[], _T]) -> _T:
        """Run something that changes things, between two passes."""
        async with self._passing:
            return await self._on(self._thread, call)

    async def repository(self, body: Any, _: Call) -> dict[str, Any]:
        """Take a model into service or out of it for a worker: [action, model, who asked]."""
        from flyball.project.repository import change_service

        action, model, actor = body
        project = self.project
        return await self.order(lambda: change_service(project, action, model, actor=actor))

    async def set_clock(self, to: datetime) -> dict[str, Any]:
        """Step simulated domain time and do everything that is due; return what was done.

        Raises:
            Refused: domain time is the machine's.
            InputError: `to` lies before the present.
            Unavailable: the project is not open, or another process holds the lease.
        """
        if self._settings.clock.domain != "simulated":
            raise Refused("domain time is the machine's here; set clock.domain to simulated to step it")
        if to_micros(to) >= _END:
            raise InputError(f"domain time may not be stepped to {to.isoformat()}; it ends with the year 2199")
        project = self.project
        async with self._passing:
            if self._map.domain_time and to_micros(to) < self._map.domain_time:
                raise InputError(
                    f"domain time stands at {self.clock.now().isoformat()} and may not go back to {to.isoformat()}"
                )
            await self._hold_lease()
            self._map.domain_time = to_micros(to)
            did = await self._step(project, until_done=True)
        return {"now": self.clock.now().isoformat(), "did": did}

    async def _hold_lease(self) -> None:
        until = time.monotonic() + self._ttl + 1
        while not self.acting:
            await self._keep_lease_once()
            if self.acting:
                return
            if time.monotonic() > until:
                raise Unavailable("another process holds the control lease; step its clock instead, or end it")
            await asyncio.sleep(0.1)

    async def _pass_for_ever(self) -> None:
        every = self._settings.control.interval.total_seconds()
        while True:
            started = time.monotonic()
            async with self._passing:
                if self._project is None:
                    await self._try_open()
                elif self._settings.clock.domain == "simulated":
                    await self._follow_routes()  # passes are run by POST /v1/clock
                else:
                    await self._pass()
            await asyncio.sleep(max(0.01, every - (time.monotonic() - started)))

    async def _pass(self) -> None:
        try:
            if self.acting:
                await self._step(self.project, until_done=False)
            else:
                await self._follow_routes()
            self._tell("")
        except FenceLost as error:
            self._lease = None
            failed("fence lost", error)
        except Exception as error:
            self._tell(f"the last pass failed: {error or type(error).__name__}")
            failed("pass failed", error)

    async def _step(self, project: Project, *, until_done: bool) -> list[str]:
        did: list[str] = []
        for _ in range(_PASSES):
            if self._lease is None:
                raise Unavailable("the control lease was lost during the pass; try again")
            done = await self._on(self._thread, self._act, project, self._lease.fence)
            self._passes += 1
            did += done or []
            if not until_done or not done:
                break
        return did

    def _act(self, project: Project, fence: int) -> list[str]:
        self._follow()
        return list(project.control_step(self.clock.now(), fence))

    def _follow(self) -> None:
        """Have this node follow the database's routing table."""
        if self._routes is not None:
            self._routes.ensure()

    async def _follow_routes(self) -> None:
        try:
            await self._on(self._thread, self._follow)
            self._tell("")
        except Exception as error:
            self._tell(f"the routing table cannot be followed: {error}")
            failed("routes not followed", error)

    async def _try_open(self) -> None:
        try:
            self._project = await self._on(self._thread, self._open)
            self._routes = self._routes_of(self._project)
            await self._on(self._thread, self._follow)
            self._tell("")
            log("project opened")
        except Exception as error:
            self._tell(f"{error or type(error).__name__}")
            failed("project not opened", error)
            self._project = None

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self._ttl / 4 if self.acting else min(1.0, self._ttl / 4))
            await self._keep_lease_once()

    async def _keep_lease_once(self) -> None:
        if self._project is None:
            return
        leases = self._project.database.leases
        asked = time.monotonic()
        try:
            if self._lease is None:
                self._lease = await self._on(
                    self._keeper, leases.acquire, _LEASE, self._owner, timedelta(seconds=self._ttl)
                )
                if self._lease is not None:
                    log("lease acquired", fence=self._lease.fence)
            else:
                self._lease = await self._on(self._keeper, leases.renew, self._lease)
            self._renewed = asked
        except FenceLost as error:
            self._lease = None
            failed("lease lost", error)
        except Exception as error:
            failed("lease not renewed", error)

    @property
    def _ttl(self) -> float:
        return self._settings.control.lease.total_seconds()

    @staticmethod
    async def _on(thread: ThreadPoolExecutor, call: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(thread, call, *arguments)


async def run(control: ControlProcess, sock: socket.socket, *, key: bytes | None) -> None:
    """Serve the admin API until SIGTERM."""
    from flyball.api.app import create_app
    from flyball.node.http import GracefulServer
    from flyball.serving.http.access import AccessFile

    beats = Beats()
    beats.start()
    server = GracefulServer(create_app(control, key=key, access=AccessFile(control.layout.access)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.end)
    asked = Server(control.layout.socket("control"), {"repository": control.repository}, failed=failed)
    await control.start()
    await asked.start()
    server.when_started(beats.ready)
    await server.run(sock)
    await asked.close()
    await control.close()


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line of `python -m flyball.node.control`."""
    parser = argparse.ArgumentParser(prog="flyball.node.control")
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--environment")
    parser.add_argument("--fd", type=int, required=True)
    given = parser.parse_args(arguments)
    die_with_parent("control")
    from flyball.config import load

    config = load(given.project, environment=given.environment)
    sock = socket.socket(fileno=given.fd)
    sock.setblocking(False)
    key = config.secret(config.settings.control.key).encode() if config.settings.control.key else None
    try:
        asyncio.run(_main(config, given.project, given.environment, sock, key))
    except FlyballError as error:
        failed("control failed", error)
        return error.exit_code
    # A stage child may run on a thread that nobody can interrupt; its journal resumes it.
    os._exit(0)


async def _main(config: Config, path: Path, environment: str | None, sock: socket.socket, key: bytes | None) -> None:
    def open_project() -> Project:
        from flyball.project import Project

        return Project.open(path, environment=environment)

    def routes(project: Project) -> NodeRoutes:
        from flyball.adapters.local.routes import NodeRoutes

        return NodeRoutes(config.layout, project.database.routing, told=lambda event, fields: log(event, **fields))

    await run(ControlProcess(config.layout, config.settings, open_project=open_project, routes=routes), sock, key=key)


if __name__ == "__main__":
    sys.exit(main())
