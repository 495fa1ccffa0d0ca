"""Keep a node's processes alive: workers, ingest, control, and a host per version that is not yet trusted.

Run as `python -m flyball.node.supervisor --project PATH`. It imports no user code and nothing heavy, owns the two
listening sockets and the lock, and knows nothing about models but the routing table's version references.
The surprise: it holds no state worth saving. kill -9 takes its children along (they asked the kernel for that), and
the next one starts from the same files.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import ipaddress
import os
import select
import signal
import socket
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from flyball.adapters.local.process import PARENT, die_with_parent, log, log_to
from flyball.adapters.local.running import Running, bind, lock
from flyball.adapters.local.tables import (
    CLAIM,
    WANTED,
    explain_name,
    host_name,
    newest_table,
    read_table,
    untrusted,
    versions,
)
from flyball.disk import write_atomically
from flyball.errors import ConfigError, FlyballError
from flyball.layout import Layout
from flyball.node.child import Child
from flyball.node.grpc import reserve
from flyball.serving.shared.slots import SharedMap
from flyball.units import to_micros

if TYPE_CHECKING:
    from flyball.rollout.routing import VersionRef
    from flyball.settings import Settings

__all__ = ["Supervisor", "main", "serve"]

_TICK = 0.05
_SLOTS = 32
_DRAIN = 10.0
_HOST_SILENCE = 10.0
_HOST_GRACE = 3.0
_LOOK = 0.1  # seconds between two looks for processes that are wanted on demand
_IDLE = 300.0  # seconds after the last question until such a process ends
_CLAIMED = 60.0  # seconds that the claim on a host's death is kept


def serve(project: Path, environment: str | None = None) -> NoReturn:
    """Turn this process into a node's supervisor, in the foreground until SIGTERM or SIGINT.

    The process is replaced, not grown: what applied definitions or trained a first model has loaded user code and half
    the scientific stack, and a supervisor has neither. The exit code is 0, or that of the error it prints.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ.pop(PARENT, None)
    arguments = ["--project", str(project), *(["--environment", environment] if environment else [])]
    os.execv(sys.executable, [sys.executable, "-m", "flyball.node.supervisor", *arguments])


class Supervisor:
    """The loop that keeps children alive; `run` returns when it was asked to end.

    Args:
        file: The project's flyball.toml.
        layout: Its paths.
        settings: Its settings.
        environment: Handed to the children, which read the settings themselves.
    """

    def __init__(self, file: Path, layout: Layout, settings: Settings, *, environment: str | None = None) -> None:
        self._layout = layout
        self._settings = settings
        self._arguments = ["--project", str(file), *(["--environment", environment] if environment else [])]
        self._hosts: dict[str, Child] = {}
        self._unneeded: dict[str, float] = {}
        self._leaving: list[tuple[Child, float]] = []
        self._explaining: dict[str, Child] = {}
        self._versions: dict[str, VersionRef] = {}  # by the name of the process that would explain them
        self._looked = 0.0
        self._table = -1
        self._ending = False
        self._started = time.time()
        self._last: Running | None = None

    def run(self) -> int:
        """Start everything, keep it alive, drain on SIGTERM or SIGINT, return 0."""
        held = lock(self._layout)
        log_to(self._layout.state / "logs" / "supervisor.log")
        wake = self._signals()
        server, control = self._settings.server, self._settings.control
        gate = bind(server.host, server.port, setting="server.port")
        admin = bind(control.host, control.port, setting="control.port")
        held_for_grpc = reserve(server.host, server.grpc_port) if server.grpc_port else None
        self._private = self._layout.socket("any").parent
        self._map = SharedMap.create(self._layout.map, slots=max(server.workers, _SLOTS))
        for slot in self._map:
            slot.release()
        self._map.domain_time = self._domain_time()
        self._map.table_version = max(self._map.table_version, newest_table(self._layout))
        self._addresses = (gate.getsockname()[:2], admin.getsockname()[:2])
        for warning in unguarded(self._settings, self._layout):
            log("unguarded", warning=warning)
            sys.stderr.write(f"warning: {warning}\n")
        logs = self._layout.state / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        (self._layout.state / "run.json").unlink(missing_ok=True)
        self._workers = [self._worker(slot, gate) for slot in range(server.workers)]
        self._control = self._child("control", "flyball.node.control", "--fd", str(admin.fileno()), keep=admin)
        self._ingest = self._child("ingest", "flyball.node.ingest")
        self._shipper = self._child("shipper", "flyball.node.shipper")
        log("supervisor started", pid=os.getpid(), gateway=self._addresses[0], control=self._addresses[1])
        gc.freeze()
        try:
            while not self._ending:
                self._turn()
                select.select([wake], [], [], _TICK)
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
            self._drain((gate, admin))
        finally:
            (self._layout.state / "run.json").unlink(missing_ok=True)
            os.close(held)
            if held_for_grpc is not None:
                held_for_grpc.close()
        return 0

    def _turn(self) -> None:
        now = time.monotonic()
        self._watch_table(now)
        if now - self._looked >= _LOOK:
            self._looked = now
            self._on_demand()
        for child in self._children():
            child.step(now)
        self._let_go(now)
        self._publish()

    def _let_go(self, now: float) -> None:
        for child, since in list(self._leaving):
            if child.gone():
                child.close()
                self._leaving.remove((child, since))
            elif now - since > _DRAIN:
                child.kill()

    def _children(self) -> list[Child]:
        return [
            *self._workers,
            self._control,
            self._ingest,
            self._shipper,
            *self._hosts.values(),
            *self._explaining.values(),
        ]

    def _watch_table(self, now: float) -> None:
        version = self._map.table_version
        if version != self._table:
            self._table = version
            self._follow_table(version, now)
        for name in [n for n, since in self._unneeded.items() if now - since > _HOST_GRACE and self._acknowledged()]:
            del self._unneeded[name]
            self._retire(self._hosts.pop(name))

    def _follow_table(self, version: int, now: float) -> None:
        try:
            table = read_table(self._layout, version)
        except FlyballError as error:
            log("routing table unreadable", version=version, error=str(error))
            return
        wanted = {host_name(r.digest): r for r in untrusted(table)}
        self._versions = {explain_name(r.digest): r for r in versions(table)}
        for name, ref in wanted.items():
            self._unneeded.pop(name, None)
            if name not in self._hosts:
                self._hosts[name] = self._host(name, ref)
        self._unneeded.update({name: now for name in self._hosts if name not in wanted})
        log("routing table followed", version=version, hosts=sorted(wanted))

    def _acknowledged(self) -> bool:
        slots = [self._map.slot(i) for i in range(len(self._workers))]
        return all(s.acknowledged == self._map.table_version and s.pid for s in slots)

    def _retire(self, host: Child) -> None:
        host.leave()
        self._leaving.append((host, time.monotonic()))

    def _on_demand(self) -> None:
        """Start what workers asked for, end what nobody has asked for lately, forget old claims on deaths."""
        now, wanted = time.time(), set()
        for file in self._private.iterdir():
            with contextlib.suppress(FileNotFoundError):
                age = now - file.stat().st_mtime
                if file.suffix == WANTED and age <= _IDLE and file.stem in self._versions:
                    wanted.add(file.stem)
                elif file.suffix == WANTED or (file.suffix == CLAIM and age > _CLAIMED):
                    file.unlink()
        for name in wanted - self._explaining.keys():
            self._explaining[name] = self._host(name, self._versions[name], "--explain")
        for name in self._explaining.keys() - wanted:
            self._retire(self._explaining.pop(name))

    def _publish(self) -> None:
        if self._last is None and not self._all_ready():
            return
        children = {child.name: child.pid for child in self._children()}
        restarts = {child.name: child.restarts for child in self._children() if child.restarts}
        (host, port), (control_host, control_port) = self._addresses
        running = Running(
            os.getpid(), host, port, control_host, control_port, self._started, len(self._workers), children, restarts,
            tls=bool(self._settings.server.tls_certificate),
        )  # fmt: skip
        if running != self._last:
            write_atomically(self._layout.state / "run.json", msgspec.json.encode(running))
            if self._last is None:
                log("node ready", after_s=round(time.time() - self._started, 2))
                sys.stderr.write(f"serving on {running.url}, control on {running.control_url}; Ctrl-C ends it\n")
            self._last = running

    def _all_ready(self) -> bool:
        ready = all(child.ready for child in (*self._workers, self._control, self._ingest))
        return ready and self._acknowledged()

    def _drain(self, sockets: tuple[socket.socket, ...]) -> None:
        log("supervisor ends", pid=os.getpid())
        for sock in sockets:
            sock.close()
        first, then = self._workers, [self._control, self._shipper, *self._hosts.values(), self._ingest]
        then += [*self._explaining.values(), *(child for child, _ in self._leaving)]
        for group in (first, then):  # workers still need ingest and hosts while they finish
            for child in group:
                child.leave()
            until = time.monotonic() + _DRAIN
            while not all(child.gone() for child in group) and time.monotonic() < until:
                time.sleep(0.01)
            for child in group:
                if not child.gone():
                    log("child did not leave in time", child=child.name)
                    child.kill()
                child.close()

    def _worker(self, slot: int, gate: socket.socket) -> Child:
        arguments = ("--slot", str(slot), "--fd", str(gate.fileno()))
        return self._child(f"w{slot}", "flyball.node.worker", *arguments, keep=gate)

    def _host(self, name: str, ref: VersionRef, *more: str) -> Child:
        arguments = ("--path", ref.path, "--digest", ref.digest, *more)
        return self._child(name, "flyball.node.host", *arguments, silence=_HOST_SILENCE)

    def _child(
        self, name: str, module: str, *arguments: str, keep: socket.socket | None = None, silence: float = 30.0
    ) -> Child:
        return Child(
            name, module, [*self._arguments, *arguments], logs=self._layout.state / "logs",
            keep=() if keep is None else (keep.fileno(),), silence=silence,
        )  # fmt: skip

    def _domain_time(self) -> int:
        """Go on where simulated time stood, or begin at clock.start; 0 for the machine's time."""
        clock = self._settings.clock
        if clock.domain == "system":
            return 0
        try:
            start = to_micros(datetime.fromisoformat(clock.start)) if clock.start else 0
        except ValueError as error:
            raise ConfigError(
                f"clock.start is {clock.start!r}; write ISO 8601, such as 2020-03-11T04:00:00Z"
            ) from error
        return max(self._map.domain_time, start)

    def _signals(self) -> int:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        os.set_blocking(theirs, False)
        signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        return ours

    def _end(self, *_: object) -> None:
        self._ending = True


def unguarded(settings: Settings, layout: Layout) -> list[str]:
    """Say, a sentence each, which ports others than this machine reach without a key."""
    from flyball.serving.http.access import AccessFile

    access = AccessFile(layout.access).current
    keyed = access.closed or bool(access.keys)
    ports = (("server", settings.server.host, settings.server.key), ("control", settings.control.host,
             settings.control.key))  # fmt: skip
    return [
        f"{name}.host is {host}: whoever reaches that port may call without a key; "
        f"set {name}.key, or make keys: flyball key create --role ROLE"
        for name, host, key in ports
        if not key and not keyed and not _is_loopback(host)
    ]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line of `python -m flyball.node.supervisor`."""
    parser = argparse.ArgumentParser(prog="flyball.node.supervisor", description=__doc__)
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--environment")
    given = parser.parse_args(arguments)
    die_with_parent("supervisor")
    try:
        return _serve(given.project, given.environment)
    except FlyballError as error:
        sys.stderr.write(f"flyball: {error}\n")
        return error.exit_code


def _serve(project: Path, environment: str | None) -> int:
    from flyball.config import load

    file = (project / "flyball.toml" if project.is_dir() else project).absolute()
    config = load(file, environment=environment)
    return Supervisor(file, config.layout, config.settings, environment=environment).run()


if __name__ == "__main__":
    sys.exit(main())
