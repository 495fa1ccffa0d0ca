"""Serve predictions: one worker, one event loop, on the listening socket that all workers share.

Run as `python -m flyball.node.worker --project P --slot K --fd N`. It reads the routing table named by the shared map,
the online store and artifacts; it writes its log segments and its slot, and never touches the control database. The
surprise: a push that was sent but not acknowledged is not sent again from here. Only the caller knows whether rows
that may have arrived should come twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball.adapters.local.ipc import Client, PeerGone
from flyball.adapters.local.process import Beats, die_with_parent, failed, log
from flyball.adapters.local.tables import read_table
from flyball.errors import ConfigError, DeadlineExceeded, DefinitionError, FlyballError, MissingExtra, Unavailable

if TYPE_CHECKING:
    from flyball.config import Config
    from flyball.features.ports import OnlineStore
    from flyball.layout import Layout
    from flyball.node.connection import Limits
    from flyball.node.grpc import GrpcServer
    from flyball.rollout.routing import VersionRef
    from flyball.serving.gateway import Gateway
    from flyball.serving.http.front import Front
    from flyball.serving.log.personal import PersonalKeys
    from flyball.serving.shared.slots import Slot
    from flyball.settings import ServerSettings

__all__ = ["Pusher", "main", "run"]

_STORE_WAIT = 30.0
_LOAD_WAIT = 30.0
_PUSH = 5.0  # seconds at least that ingest may take: rows that are refused for time may have been logged all the same
_CONTROL_WAIT = 60.0  # a table is in force when every worker has loaded what it needs


class Pusher:
    """Hand pushed rows to the ingest process and return its acknowledgement."""

    def __init__(self, layout: Layout, *, deadline: float) -> None:
        self._client = Client(layout.socket("ingest"), name="ingest")
        self._deadline = deadline

    async def __call__(self, source: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return accepted, rejected, duplicates and the first row's sequence, or `errors` by row.

        While ingest restarts, the push waits for it; as long as nothing was sent that is safe.

        Raises:
            Unavailable: not acknowledged within the deadline; the caller should send the rows again.
        """
        until = time.monotonic() + self._deadline
        try:
            answer = await self._client.call(
                "events", [source, rows], timeout=self._deadline, wait=max(0.0, until - time.monotonic())
            )
        except (PeerGone, DeadlineExceeded) as error:
            raise Unavailable(
                f"{len(rows)} rows for {source!r} were not acknowledged ({error}); send them again"
            ) from error
        return dict(answer)


class Repository:
    """Have the control process take models into service and out of it."""

    def __init__(self, layout: Layout) -> None:
        self._client = Client(layout.socket("control"), name="control")

    async def __call__(self, action: str, model: str, actor: str) -> dict[str, Any]:
        """Return what control did; it answers when every worker serves the new table.

        Raises:
            Unavailable: control is not there.
        """
        return dict(await self._client.call("repository", [action, model, actor], timeout=_CONTROL_WAIT, wait=2.0))


async def run(config: Config, *, slot: int, sock: socket.socket) -> None:
    """Serve until SIGTERM, then finish the requests at hand."""
    from flyball.node.http import GracefulServer

    beats = Beats()
    beats.start()
    gateway = await _compose(config, slot)
    settings = config.settings.server
    drain = max(settings.deadline.total_seconds(), _PUSH) + 2.0
    endings: set[asyncio.Task[None]] = set()
    server = GracefulServer(gateway, drain=drain, limits=_limits(gateway, settings), tls=_tls(config))
    server.when_ending(gateway.drain)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.end)
    watch = loop.create_task(_watch(gateway, config.layout))
    await _loaded(gateway)
    speaking = await _grpc(gateway, config)
    if speaking is not None:
        server.when_ending(lambda: endings.add(loop.create_task(speaking.stop(drain))))
    serving = loop.create_task(server.run(sock))
    server.when_started(beats.ready)
    gc.collect()
    gc.freeze()
    await serving
    await asyncio.gather(*endings)
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch
    await gateway.close()


def _limits(gateway: Gateway, settings: ServerSettings) -> Limits:
    from flyball.node.connection import Limits
    from flyball.serving.shared.slots import Counter

    slot = gateway.slot
    return Limits(
        slow=settings.slow_client.total_seconds(),
        idle=settings.idle_client.total_seconds(),
        cancel=True,
        counted=lambda: slot.add(Counter.SLOW_CLIENTS),
        left=lambda: slot.add(Counter.DISCONNECTED),
    )


def _tls(config: Config) -> tuple[Path, Path] | None:
    """Return the files of TLS, relative to flyball.toml; None for plain HTTP."""
    server = config.settings.server
    if not server.tls_certificate and not server.tls_key:
        return None
    if not server.tls_certificate or not server.tls_key:
        raise ConfigError("TLS needs both server.tls_certificate and server.tls_key; set the other one too, or none")
    return config.root / server.tls_certificate, config.root / server.tls_key


async def _grpc(gateway: Gateway, config: Config) -> GrpcServer | None:
    """Listen for gRPC beside HTTP, where a port is set for it."""
    settings = config.settings.server
    if not settings.grpc_port:
        return None
    from flyball.node.grpc import GrpcServer

    server = GrpcServer(gateway, host=settings.host, port=settings.grpc_port, tls=_tls(config))
    await server.start()
    return server


async def _loaded(gateway: Gateway) -> None:
    """Wait until the table in force is served: who accepts before that would answer 404 for models that exist.

    A champion that cannot be loaded must not keep health and metrics away for ever, so the wait has an end.
    """
    until = time.monotonic() + _LOAD_WAIT
    while gateway.slot.acknowledged != gateway.shared.table_version:
        if time.monotonic() > until:
            log("serving without the table in force", table=gateway.shared.table_version)
            return
        await asyncio.sleep(0.005)


async def _watch(gateway: Gateway, layout: Layout) -> None:
    while True:
        try:
            await gateway.watch(lambda version: read_table(layout, version), interval=0.02)
        except FlyballError as error:
            failed("watch failed", error)
            await asyncio.sleep(0.2)


async def _compose(config: Config, slot: int) -> Gateway:
    from flyball.adapters.local.measures import read_measures
    from flyball.adapters.local.snapshots import find_in_snapshots
    from flyball.node.remote import ExplainHost, RemoteHost
    from flyball.serving.gateway import Gateway
    from flyball.serving.log.writer import LogWriter
    from flyball.serving.models.loading import ModelCache
    from flyball.serving.shared.slots import SharedMap

    layout, settings = config.layout, config.settings
    find_in_snapshots(layout)
    shared = SharedMap.open(layout.map)
    models = ModelCache(
        _loader(config), lambda ref: RemoteHost(layout, ref), root=config.root, memory=settings.server.model_memory
    )
    writer = LogWriter(
        layout.log / f"w{slot}", mode=settings.log.mode, full=settings.log.full, slot=shared.slot(slot),
        rotate_after=settings.log.ship_every.total_seconds(),
    )  # fmt: skip
    return Gateway(
        models,
        shared=shared,
        slot=slot,
        store=await _open_store(config),
        store_name=settings.online.store,
        measures=lambda: b"".join(read_measures(layout.state / f"{n}.prom") for n in ("ingest", "shipper", "kafka")),
        log=writer,
        front=_front(config, slot, shared.slot(slot)),
        personal=lambda: _personal_keys(config),
        max_body=settings.server.max_body,
        max_rows=settings.server.max_rows,
        max_depth=settings.server.max_depth,
        max_waiting=settings.server.max_waiting,
        cache_memory=settings.cache.memory,
        repository=Repository(layout),
        settings=_shown(settings.server),
        push=Pusher(layout, deadline=max(settings.server.deadline.total_seconds(), _PUSH)),
        explainers=lambda ref: ExplainHost(layout, ref),
    )


def _front(config: Config, slot: int, counters: Slot) -> Front:
    """Return who may call, how often, and what is noted about it."""
    from flyball.serving.http.access import AccessFile
    from flyball.serving.http.accesslog import AccessLog
    from flyball.serving.http.front import Front
    from flyball.serving.http.limits import Rates
    from flyball.serving.http.tracing import Tracer
    from flyball.serving.shared.slots import Counter

    layout, server = config.layout, config.settings.server
    path = layout.state / "logs" / f"access-w{slot}.log"
    return Front(
        key=config.secret(server.key).encode() if server.key else None,
        access=AccessFile(layout.access),
        rates=Rates.open(layout.rates, slots=server.workers, slot=slot),
        rate=server.rate,
        origins=server.origins.split(),
        access_log=AccessLog(path, lambda n: counters.add(Counter.ACCESS_LOG_DROPPED, n))
        if server.access_log
        else None,
        tracer=Tracer.from_environment(),
    )


def _personal_keys(config: Config) -> PersonalKeys:
    from flyball.serving.log.personal import PersonalKeys

    encryption = config.secret_if_set(config.settings.server.encryption_key)
    return PersonalKeys.load(config.layout.personal_key, encryption)


def _shown(server: ServerSettings) -> dict[str, Any]:
    """Return the server's settings for `/model_info`: no host, no files, and of secrets only whether there are any."""
    hidden = ("key", "encryption_key", "tls_certificate", "tls_key", "host")
    found = {f.name: getattr(server, f.name) for f in dataclasses.fields(server) if f.name not in hidden}
    return {**found, "key": "set" if server.key else "not set", "tls": bool(server.tls_certificate)}


def _loader(config: Config) -> Callable[[VersionRef], Any]:
    def load(ref: VersionRef) -> Any:
        from flyball.registry.artifacts import load_version
        from flyball.registry.formats.signing import known_signing_key

        path = Path(ref.path)
        return load_version(
            path if path.is_absolute() else config.root / path,
            ref.digest,
            signing_key=known_signing_key(config.layout),
        )

    return load


async def _open_store(config: Config) -> OnlineStore:
    """Open the online store for reading; ingest makes it, and both start at the same time."""
    from flyball.adapters.stores import guarded

    for pause in _pauses(_STORE_WAIT):
        try:
            store = guarded(config.settings, config.layout, secret=config.secret)
        except (DefinitionError, MissingExtra):
            raise
        except FlyballError as error:
            last = error
            await asyncio.sleep(pause)
        else:
            return store
    raise Unavailable(f"the online store did not appear within {_STORE_WAIT:.0f} s ({last}); look into ingest.log")


def _pauses(seconds: float) -> Iterator[float]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield 0.02


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line of `python -m flyball.node.worker`."""
    parser = argparse.ArgumentParser(prog="flyball.node.worker")
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--environment")
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--fd", type=int, required=True)
    given = parser.parse_args(arguments)
    die_with_parent(f"w{given.slot}")
    import uvloop

    from flyball.config import load

    config = load(given.project, environment=given.environment)
    sock = socket.socket(fileno=given.fd)
    sock.setblocking(False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(config, slot=given.slot, sock=sock))
    log("worker left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
