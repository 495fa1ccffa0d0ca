"""A real project over the bench's models: artifacts, routing tables, online features, the product's own processes.

Two ways to serve it. `up` is what users run: supervisor, workers, ingest, control, a host for each candidate. `alone`
is one real worker process (`flyball.node.worker`) on the same files, with nobody beside it: the row that compares with
a peer's one worker process; its candidate runs inside of it. The surprise: nothing here composes a gateway, so a bench
measures what the product composes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from flyball.features import definitions as fb
from flyball.features.service import compile_service
from flyball.features.spec import FeatureService
from flyball.rollout.routing import BUCKETS, ModelRoute, RoutingTable, VersionRef

KEY = "bench-key-of-this-run-only"
SPANS = ("3h", "6h", "24h", "7d", "30d")  # an event per entity every 72 minutes: no window is empty
MINUTE = 60_000_000
ENTITIES = 1_000
TOML = """
[project]
name = "bench"
[server]
port = 0
workers = {workers}
deadline = "3s"
key = "file:key.txt"
{more}[log]
mode = "{log}"
[control]
port = 0
[online]
store = "{store}"
url = "{url}"
"""


def source() -> fb.ParquetSource:
    return fb.ParquetSource("events", "events.parquet", event_time="at")


def views() -> tuple[fb.FeatureView, fb.FeatureView]:
    """Return ten features of the newest row, and ten of windows (two statistics over five windows): 20 in all."""
    thing = fb.Entity("thing", keys={"thing": int})
    newest = fb.FeatureView("newest", entity=thing, source=source(),
                            features=[fb.Feature(f"f{i}", float) for i in range(10)])  # fmt: skip
    windows = fb.FeatureView(
        "windows", entity=thing, source=source(),
        features=[*fb.windows(fb.count, "n", windows=SPANS), *fb.windows(fb.mean, "mean", of="f0", windows=SPANS)],
    )  # fmt: skip
    return newest, windows


def plain_service(model: str) -> FeatureService:
    """Return the service of 30 numbers that all come with the request."""
    return compile_service(model, "at", [fb.Field(f"x{i}", float) for i in range(30)], source().spec)


def enriched_service(model: str) -> FeatureService:
    """Return the service of 20 features of one entity and ten numbers of the request."""
    return compile_service(model, "at", [*views(), *(fb.Field(f"g{i}", float) for i in range(10))], source().spec)


class Project:
    """One project below a folder.

    Args:
        root: Its folder, made here.
        workers: Of `up`.
        log: Mode of the prediction log; "off" for a worker alone without one.
        store: "lmdb" or "redis"; `url` is where Redis is.
        grpc_port: Of `server`; 0 opens none.
    """

    def __init__(
        self, root: Path, *, workers: int = 1, log: str = "durable", store: str = "lmdb", url: str = "",
        grpc_port: int = 0,
    ) -> None:  # fmt: skip
        from flyball.adapters.local.views import write_views
        from flyball.config import load
        from flyball.control import connect
        from flyball.serving.http.access import Access

        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.no_log = log == "off"
        (root / "key.txt").write_text(KEY)
        (root / "url.txt").write_text(url)
        toml = TOML.format(
            workers=workers, log="durable" if self.no_log else log, store=store, url="file:url.txt" if url else "",
            more=f"grpc_port = {grpc_port}\n" if grpc_port else "",
        )  # fmt: skip
        (root / "flyball.toml").write_text(toml)
        (root / "definitions.py").write_text('"""The bench commits its routing tables itself."""\n')
        _events(root / "events.parquet")
        self.config = load(root / "flyball.toml")
        self.layout = self.config.layout
        self.layout.state.mkdir(exist_ok=True)
        write_views(self.layout, [view.spec for view in views()])
        self.layout.access.write_bytes(msgspec.json.encode(Access()))
        self.database = connect(f"sqlite:///{self.layout.state / 'control.db'}")
        self.port, self.grpc_port, self.worker = 0, grpc_port, 0
        self.forms: dict[str, str] = {}  # what answers for each model

    # -- versions and tables ------------------------------------------------------------------------------------------

    def artifact(
        self, model: str, version: str, estimator: Any, service: FeatureService, sample: np.ndarray,
        *, trusted: bool = True, code: str = "", lower: bool = True,
    ) -> VersionRef:  # fmt: skip
        """Write a version as a real artifact, as registration does: lowered where that is equal and faster.

        Args:
            model: Its model.
            version: Its name.
            estimator: The fitted model, or the bytes of an ONNX file.
            service: What it reads.
            sample: Rows to warm up with, and to prove a lowering on.
            trusted: Whether workers load it themselves.
            code: Digest of the code snapshot that a pickle needs.
            lower: False keeps the library's own call.
        """
        import io

        from flyball.registry.artifacts import write_artifact
        from flyball.registry.formats import FILE_NAMES, ensure_signing_key, serialize, sign
        from flyball.registry.types import Manifest

        kind, data = ("onnx", estimator) if isinstance(estimator, bytes) else serialize(estimator)[:2]
        signature = sign(data, ensure_signing_key(self.layout)) if kind == "pickle" else ""
        rows = io.BytesIO()
        np.save(rows, sample)
        classes = (False, True) if isinstance(estimator, bytes) else _classes(estimator)  # a graph does not say
        manifest = Manifest(
            model, version, "bench", kind, {}, service, "d", code, datetime.now(UTC), signature=signature,
            classes=classes,
        )  # fmt: skip
        files = {FILE_NAMES[kind]: data, "sample.npy": rows.getvalue()}
        if lower and not isinstance(estimator, bytes):
            manifest, more = _lowered(manifest, estimator, sample)
            files |= more
        folder = self.layout.artifacts / model / version
        _, digest = write_artifact(folder, manifest, files)
        self.forms[model] = manifest.lowered.kind if manifest.lowered is not None else kind
        return VersionRef(version, str(folder), digest, trusted)

    def commit(self, routes: Mapping[str, ModelRoute], *, cause: str = "apply") -> float:
        """Put a routing table in force; return the seconds until every worker served it."""
        from flyball.adapters.local.routes import NodeRoutes

        lease = self.database.leases.acquire("routes", "bench", timedelta(seconds=600))
        nodes = NodeRoutes(self.layout, self.database.routing)
        version = nodes.current().version
        table = RoutingTable(version + 1, lease.fence, 0, dict(routes), cause=cause)  # type: ignore[arg-type]
        began = time.monotonic()
        nodes.commit(table, expected=version, fence=lease.fence)
        return time.monotonic() - began

    # -- online features ----------------------------------------------------------------------------------------------

    def fill(self, *, entities: int = ENTITIES, per_entity: int = 20) -> int:
        """Push events into the online store before anything serves; return the last arrival in µs."""
        import random

        from flyball.adapters.ingest_files import FileIngestLog
        from flyball.adapters.stores import open_store
        from flyball.clock import SystemClock
        from flyball.features.ingest import Ingest

        store = open_store(self.config.settings, self.layout, readonly=False, secret=self.config.secret)
        ingest = Ingest(store, FileIngestLog(self.layout.ingest), [v.spec for v in views()], clock=SystemClock())
        rng = random.Random(1)
        begin = int(time.time() * 1e6) - 24 * 60 * MINUTE
        step, total = 24 * 60 * MINUTE // (entities * per_entity), entities * per_entity
        for done in range(0, total, 5_000):
            rows = [
                {"at": begin + k * step, "thing": k % entities} | {f"f{i}": rng.random() for i in range(10)}
                for k in range(done, min(done + 5_000, total))
            ]
            ingest.push("events", rows, rows[-1]["at"])
        ingest.close()
        store.close()
        return begin + total * step

    # -- processes ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def up(self) -> Iterator[Any]:
        """Run the node as `flyball up` does; yields what runs (pids, port)."""
        from flyball.adapters.local.running import start, stop

        running = start(self.root / "flyball.toml", self.layout, timeout=90)
        self.port = running.port
        try:
            yield running
        finally:
            stop(self.layout)

    @contextlib.contextmanager
    def alone(self, routes: Mapping[str, ModelRoute]) -> Iterator[int]:
        """Run one worker process and nothing else; yields its pid.

        The routes are written as table 1 and every version runs inside of the worker, as nobody keeps hosts.
        """
        from flyball.disk import write_atomically
        from flyball.serving.shared.slots import SharedMap

        table = RoutingTable(1, 1, 0, {name: _trusting(route) for name, route in routes.items()})
        self.layout.routing.mkdir(exist_ok=True)
        write_atomically(self.layout.table(1), table.to_json())
        self._make_store()
        shared = SharedMap.create(self.layout.map, slots=1)
        shared.table_version = 1
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        self.port = int(listener.getsockname()[1])
        process = self._start_worker(listener)
        self.worker = process.pid
        listener.close()
        try:
            self._await(process, shared)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start_worker(self, listener: socket.socket) -> subprocess.Popen[bytes]:
        from flyball.adapters.local.process import PARENT

        os.set_inheritable(listener.fileno(), True)
        module = [str(Path(__file__).parent / "worker_no_log.py")] if self.no_log else ["-m", "flyball.node.worker"]
        command = [sys.executable, *module, "--project", str(self.root / "flyball.toml"), "--slot", "0",
                   "--fd", str(listener.fileno())]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", PARENT: str(os.getpid())}
        with (self.root / "worker.txt").open("wb") as output:
            return subprocess.Popen(command, pass_fds=(listener.fileno(),), env=environment, stderr=output)

    def _await(self, process: subprocess.Popen[bytes], shared: Any) -> None:
        until = time.monotonic() + 60
        while shared.slot(0).acknowledged != 1 or not _answers(self.port):
            if process.poll() is not None or time.monotonic() > until:
                words = (self.root / "worker.txt").read_text()[-1500:]
                raise SystemExit(f"the worker did not serve its table: {words}")
            time.sleep(0.02)

    def _make_store(self) -> None:
        from flyball.adapters.stores import open_store

        open_store(self.config.settings, self.layout, readonly=False, secret=self.config.secret).close()

    def close(self) -> None:
        self.database.close()


def _classes(estimator: Any) -> Any:
    from flyball.registry.formats import labels

    return labels(getattr(estimator, "classes_", None)) if hasattr(estimator, "predict_proba") else None


def _lowered(manifest: Any, estimator: Any, sample: np.ndarray) -> tuple[Any, dict[str, bytes]]:
    """Return the manifest and the files of an equal, faster form, if there is one."""
    from flyball.registry.lowering import find_lowering
    from flyball.registry.predictor import Predictor

    with np.errstate(all="ignore"), warnings.catch_warnings():  # its edge rows hold the largest of numbers
        warnings.simplefilter("ignore")
        found = find_lowering(Predictor(estimator, manifest.service.names, classes=manifest.classes), sample)
    more = {found.chosen.file: found.data} if found.chosen is not None else {}
    return replace(manifest, lowered=found.chosen), more


def split(model: str, champion: VersionRef, candidate: VersionRef | None, *, share: float = 0.1) -> ModelRoute:
    """Return a route with the candidate at `share` and a control cohort of the same size; no pair, no shadow."""
    cut = int(share * BUCKETS) if candidate is not None else 0
    return ModelRoute(model, "salt", champion, candidate, cut, cut, 2 * cut, pair=False, deadline=3.0, rollout="r")


def _trusting(route: ModelRoute) -> ModelRoute:
    candidate = replace(route.candidate, trusted=True) if route.candidate is not None else None
    return replace(route, candidate=candidate)


def _answers(port: int) -> bool:
    import http.client

    link = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        link.request("GET", "/v2/health/live")
        return link.getresponse().status == 200
    except OSError:
        return False
    finally:
        link.close()


def _events(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    at = pa.array([datetime(2020, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"thing": [1], "at": at} | {f"f{i}": [0.0] for i in range(10)}), path)


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor seconds that live processes took so far."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> float:
    """Return a process's proportional set size in MB."""
    return _memory(pid, "smaps_rollup", "Pss:")


def rss_mb(pid: int) -> float:
    """Return a process's resident set size in MB."""
    return _memory(pid, "status", "VmRSS:")


def _memory(pid: int, file: str, name: str) -> float:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
