"""A real node over a hand-made project, and clients that keep asking it while its processes are killed."""

import http.client
import importlib
import json
import os
import pickle
import signal
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.local.routes import NodeRoutes
from flyball.adapters.local.running import Running, read_running, start, stop
from flyball.adapters.local.views import write_views
from flyball.config import load
from flyball.control import connect
from flyball.features.spec import (
    ColumnSpec,
    EntitySpec,
    FeatureService,
    FeatureSpec,
    InputSpec,
    ServiceColumn,
    SourceSpec,
    Stat,
    ViewSpec,
)  # fmt: skip
from flyball.records.log import follow
from flyball.records.types import Prediction
from flyball.registry.artifacts import write_artifact
from flyball.registry.code import install_code, snapshot_code
from flyball.registry.formats import ensure_signing_key, sign
from flyball.registry.types import Manifest
from flyball.rollout.routing import BUCKETS, ModelRoute, RoutingTable, VersionRef
from flyball.serving.http.access import Access

TOML = """
[project]
name = "faults"
[server]
port = 0
workers = {workers}
deadline = "3s"
[control]
port = 0
interval = "100ms"
"""
MODELS = '''
import os, time


class Scale:
    def __init__(self, by):
        self.by = by

    def predict(self, matrix):
        return matrix[:, 0] * self.by


class Hang(Scale):
    """Hangs where the first column says so."""

    def predict(self, matrix):
        if (matrix[:, 0] > 1e6).any():
            time.sleep(600)
        return super().predict(matrix)
'''
HOUR = 3_600_000_000
VIEW = ViewSpec(
    "zone_traffic",
    EntitySpec("zone", (ColumnSpec("zone", "int64"),)),
    SourceSpec("trips", "trips.parquet", "at", None, "UTC", (), None, 0),
    None,
    (FeatureSpec("trips_1h", "int64", None, Stat.COUNT, HOUR, 60_000_000),),
)
SERVICE = FeatureService("eta", "at", (ServiceColumn("miles", "field"),), (InputSpec("miles", "float64"),))


def until(claim, seconds=20.0, what="the claim"):
    end = time.monotonic() + seconds
    while not (found := claim()):
        assert time.monotonic() < end, f"{what} did not come true within {seconds} s"
        time.sleep(0.005)
    return found


class Node:
    """One project with versions v1 (times 2, trusted) and v2 (times 3, in a host)."""

    def __init__(self, root: Path, *, workers: int = 2, models: str = "", settings: str = "") -> None:
        self.root = root
        (root / "flyball.toml").write_text(TOML.format(workers=workers) + settings)
        (root / "definitions.py").write_text(MODELS + models)
        at = pa.array([datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC"))
        pq.write_table(pa.table({"zone": [1], "at": at, "id": [0]}), root / "trips.parquet")
        self.layout = load(root / "flyball.toml").layout
        self.layout.state.mkdir()
        write_views(self.layout, [VIEW])
        self.layout.access.write_bytes(msgspec.json.encode(Access()))  # as apply leaves it where no key was made
        self.database = connect(f"sqlite:///{self.layout.state / 'control.db'}")
        self.code = snapshot_code(root, self.layout)
        self.module = importlib.import_module(f"{install_code(self.layout.code / self.code)}.definitions")
        self.champion = self.artifact("v1", self.module.Scale(2.0), trusted=True)

    def artifact(self, version: str, model: object, *, trusted: bool = False) -> VersionRef:
        data = pickle.dumps(model)
        signature = sign(data, ensure_signing_key(self.layout))
        manifest = Manifest(
            "eta", version, "run", "pickle", {}, SERVICE, "dataset", self.code, datetime.now(UTC), signature
        )
        folder = self.layout.artifacts / "eta" / version
        sample = Path(self.root / "sample.npy")
        np.save(sample, np.ones((4, 1)))
        _, digest = write_artifact(folder, manifest, {"model.pkl": data, "sample.npy": sample.read_bytes()})
        return VersionRef(version, str(folder), digest, trusted)

    def up(self) -> Running:
        self.running = start(self.root / "flyball.toml", self.layout, timeout=40)
        return self.running

    def down(self) -> None:
        stop(self.layout)
        self.database.close()

    def route(self, candidate: VersionRef | None = None, *, share: float = 0.0, **fields: object) -> float:
        """Commit a table; return the seconds until all workers served it."""
        lease = self.database.leases.acquire("routes", "test", timedelta(seconds=60))
        routes = NodeRoutes(self.layout, self.database.routing)
        version = routes.current().version
        route = ModelRoute("eta", "salt", self.champion, candidate, int(share * BUCKETS))
        route = replace(route, **{"pair": False, "deadline": 3.0, **fields})
        started = time.monotonic()
        routes.commit(RoutingTable(version + 1, lease.fence, 0, {"eta": route}), expected=version, fence=lease.fence)
        return time.monotonic() - started

    def pid(self, name: str) -> int:
        """Return the process of that name as soon as there is one: a signal to pid 0 would go to ourselves."""
        return until(lambda: self.now().children.get(name, 0), what=f"a process {name}")

    def now(self) -> Running:
        return until(lambda: read_running(self.layout), what="a running node")

    def kill(self, name: str) -> None:
        """Kill a process and wait until its successor is ready."""
        pid = self.pid(name)
        log = self.layout.state / "logs" / f"{name}.log"
        before = log.read_text().count('"event": "ready"')
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.now().children.get(name, 0) not in {0, pid}, what=f"a new {name}")
        until(lambda: log.read_text().count('"event": "ready"') > before, what=f"a ready {name}")

    def logged(self) -> dict[str, Prediction]:
        batches = follow(self.layout.log, {})
        return {r.id: r for b in batches for r in b.records if isinstance(r, Prediction)}

    def ingested(self) -> set[int]:
        table = FileIngestLog(self.layout.ingest).read("trips")
        return set(table["id"].to_pylist()) if "id" in table.column_names else set()


@dataclass
class Load:
    """Clients on keep-alive connections, each asking one thing after another."""

    node: Node
    predictors: int = 4
    pushers: int = 2
    answered: dict[str, float] = field(default_factory=dict)
    pushed: set[int] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    broken: int = 0
    slowest: float = 0.0

    def __enter__(self):
        self._ending = threading.Event()
        self._next = iter(range(1, 10**9))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(self._predict,)) for _ in range(self.predictors)]
        self._threads += [threading.Thread(target=self._run, args=(self._push,)) for _ in range(self.pushers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 100) -> None:
        """Wait for that many more answers and, with pushers, at least one more push."""
        answers, pushes = len(self.answered) + count, len(self.pushed) + bool(self.pushers)
        until(lambda: len(self.answered) >= answers and len(self.pushed) >= pushes, what=f"{count} more answers")

    def _run(self, ask):
        connection = None
        while not self._ending.is_set():
            if connection is None:
                running = self.node.running
                connection = http.client.HTTPConnection(running.host, running.port, timeout=15)
            try:
                ask(connection)
            except (http.client.HTTPException, OSError):
                connection.close()
                connection = None
                with self._lock:
                    self.broken += 1
        if connection is not None:
            connection.close()

    def _post(self, connection, path, body):
        started = time.monotonic()
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        self.slowest = max(self.slowest, time.monotonic() - started)
        return answer.status, data

    def _predict(self, connection):
        with self._lock:
            number = next(self._next)
        body = {
            "inputs": [{"name": "miles", "shape": [1], "datatype": "FP64", "data": [float(number)]}],
            "parameters": {"unit": f"u{number}"},
        }
        status, data = self._post(connection, "/v2/models/eta/infer", body)
        if status != 200:
            self.refused.append(f"predict {status}: {data.decode()}")
            return
        answer = json.loads(data)
        self.answered[answer["parameters"]["prediction_id"]] = answer["outputs"][0]["data"][0] / number

    def _push(self, connection):
        with self._lock:
            number = next(self._next)
        rows = [{"zone": 1, "at": datetime.now(UTC).isoformat(), "id": number}]
        status, data = self._post(connection, "/v1/sources/trips/events", rows)
        if status == 200:
            self.pushed.add(number)
        elif status != 503 or b"send them again" not in data:
            self.refused.append(f"push {status}: {data.decode()}")
