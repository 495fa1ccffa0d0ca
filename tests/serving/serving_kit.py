"""What the serving tests share: artifacts without a real model, fake hosts, a reader of fields."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from flyball.features.spec import FeatureService, InputSpec, ServiceColumn
from flyball.records.log import follow
from flyball.records.types import Record
from flyball.registry.types import Manifest
from flyball.rollout.routing import BUCKETS, ModelRoute, RoutingTable, VersionRef, cut
from flyball.serving.gateway import Gateway
from flyball.serving.log.writer import LogWriter
from flyball.serving.models.loading import ModelCache

Predict = Callable[[np.ndarray], np.ndarray]
SERVICE = FeatureService(
    "eta", "pickup_at", (ServiceColumn("distance", "field"), ServiceColumn("zone", "field")),
    (InputSpec("distance", "float64"), InputSpec("zone", "int64")),
)  # fmt: skip


class FieldReader:
    """Read fields only; the same answer as OnlineReader for a service without views."""

    def __init__(self, service: FeatureService) -> None:
        self.names = service.names
        self.calls = 0

    def read(self, inputs, n, at):
        self.calls += 1
        matrix = np.column_stack([np.asarray(inputs[name], dtype=np.float64) for name in self.names])
        return matrix, np.zeros(matrix.shape, dtype=np.uint8)


class FakeModel:
    def __init__(self, predict: Predict) -> None:
        self.predict = predict


class FakeHost:
    """A host in this process; `gone` makes it unreachable, `hang` makes it silent; `left` is the time it was given."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.gone = self.hang = False
        self.calls, self.left = 0, 0.0

    async def predict(self, matrix, deadline):
        from flyball.errors import Unavailable

        self.calls += 1
        self.left = deadline - time.monotonic()
        if self.gone:
            raise self.gone if isinstance(self.gone, Unavailable) else Unavailable("the host is gone")
        if self.hang:
            await asyncio.sleep(60)
        return self._predict(matrix)

    def close(self) -> None:
        pass


class Kit:
    """A gateway on fake models; `models` maps a version to its predict."""

    def __init__(self, folder: Path, **models: Predict) -> None:
        self.folder = folder
        self.models = dict(models)
        self.hosts: dict[str, FakeHost] = {}
        self.loads: list[str] = []

    def ref(self, version: str, *, trusted: bool = True, service: FeatureService = SERVICE) -> VersionRef:
        path = self.folder / "artifacts" / version
        path.mkdir(parents=True, exist_ok=True)
        made = datetime(2026, 1, 1, tzinfo=UTC)
        data = Manifest("eta", version, "r", "skops", {}, service, "d", "c", made).to_json()
        (path / "manifest.json").write_bytes(data)
        np.save(path / "sample.npy", np.ones((2, len(service.columns))))
        return VersionRef(version, str(path), hashlib.sha256(data).hexdigest(), trusted)

    def cache(self, **options) -> ModelCache:
        return ModelCache(self.load, self.host, **options)

    def load(self, ref: VersionRef) -> FakeModel:
        self.loads.append(ref.version)
        return FakeModel(self.models[ref.version])

    def host(self, ref: VersionRef) -> FakeHost:
        return self.hosts.setdefault(ref.version, FakeHost(self.models[ref.version]))

    def gateway(self, **options) -> Gateway:
        options.setdefault("log", LogWriter(self.folder / "log" / "w0"))
        return Gateway(self.cache(patience=0.2), read_with=FieldReader, **options)

    def records(self) -> list[Record]:
        return [r for batch in follow(self.folder / "log", {}) for r in batch.records]


def table(version: int, champion: VersionRef, candidate: VersionRef | None = None, *, share: float = 0.0, **route):
    c = cut(share)
    control = (c, min(2 * c, BUCKETS)) if c else (0, 0)
    made = ModelRoute("eta", "salt", champion, candidate, c, *control, rollout="r1" if candidate else None, **route)
    return RoutingTable(version, 1, 0, {"eta": made})


def infer_body(distance=2.0, zone=74, *, unit=None, rows: int = 1) -> dict:
    body: dict = {
        "inputs": [
            {"name": "distance", "shape": [rows], "datatype": "FP64", "data": [distance] * rows},
            {"name": "zone", "shape": [rows], "datatype": "INT64", "data": [zone] * rows},
        ]
    }
    if unit is not None:
        body["parameters"] = {"unit": unit}
    return body


async def until(condition: Callable[[], bool], *, within: float = 5.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.001)


def double(matrix: np.ndarray) -> np.ndarray:
    return matrix[:, 0] * 2.0


def triple(matrix: np.ndarray) -> np.ndarray:
    return matrix[:, 0] * 3.0


def broken(matrix: np.ndarray) -> np.ndarray:
    if (matrix[:, 1] > 1).any():
        raise RuntimeError("zone not known")
    return matrix[:, 0] * 9.0
