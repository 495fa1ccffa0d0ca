"""The gateway on the real reader, the real store and the real ingest."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from serving_kit import Kit, table

from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.clock import ManualClock
from flyball.features import definitions as fb
from flyball.features.ingest import Ingest
from flyball.features.online import OnlineReader
from flyball.features.service import compile_service
from flyball.features.spec import FeatureService, InputSpec, ServiceColumn
from flyball.records.types import Prediction, Shadow
from flyball.serving.gateway import Gateway
from flyball.serving.log.writer import LogWriter
from flyball.serving.routing.plan import unite
from flyball.testing.in_process import client
from flyball.units import to_micros

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
INFER = "/v2/models/eta/infer"


def definitions():
    zone = fb.Entity("zone", keys={"zone": int})
    trips = fb.ParquetSource("trips", "none/*.parquet", event_time="at")
    traffic = fb.FeatureView("traffic", entity=zone, source=trips, features=[fb.count("trips_1h", window="1h")])
    speed = fb.FeatureView("speed", entity=zone, source=trips, ttl="6h", features=[fb.Feature("minutes", float)])
    return trips, traffic, speed


def body(zone: object = 74, miles: float = 2.0, rows: int = 1) -> dict:
    return {
        "inputs": [
            {"name": "zone", "shape": [rows], "datatype": "INT64", "data": [zone] * rows},
            {"name": "miles", "shape": [rows], "datatype": "FP64", "data": [miles] * rows},
        ],
        "parameters": {"unit": "u"},
    }


class World:
    def __init__(self, tmp_path: Path) -> None:
        trips, traffic, speed = definitions()
        miles = fb.Field("miles", float)
        self.one = compile_service("eta", "at", [traffic, miles, fb.hour_of_day("at")], trips.spec)
        self.two = compile_service("eta", "at", [speed, miles, traffic], trips.spec)
        clock = ManualClock(NOON)
        self.store = LMDBStore(tmp_path / "online")
        views = [traffic.spec, speed.spec]
        self.ingest = Ingest(self.store, FileIngestLog(tmp_path / "ingest"), views, clock=clock)
        self.kit = Kit(tmp_path, v1=lambda m: m[:, 0], v2=lambda m: np.nan_to_num(m[:, 0]) + 100 * m[:, 2])
        self.reads = 0
        self.gateway = Gateway(
            self.kit.cache(), store=self.store, push=self.push, log=LogWriter(tmp_path / "log" / "w0"),
            read_with=self.reader,
        )  # fmt: skip
        self.gateway.shared.domain_time = to_micros(NOON)

    async def push(self, source: str, rows: list[dict]) -> dict:
        return {"accepted": self.ingest.push(source, rows).accepted}

    def reader(self, service):
        world, inner = self, OnlineReader(self.store, service)

        class Counting:
            def read(self, inputs, n, at):
                world.reads += 1
                return inner.read(inputs, n, at)

        return Counting()

    def close(self) -> None:
        self.ingest.close()
        self.store.close()


def test_pushed_events_are_in_the_next_answer(tmp_path: Path) -> None:
    world = World(tmp_path)
    with client(world.gateway) as http:
        http.call(world.gateway.swap(table(1, world.kit.ref("v1", service=world.one))))
        before = http.post(INFER, json=body()).json()["outputs"][0]["data"]
        events = [{"at": to_micros(NOON) - k * 60_000_000, "zone": 74, "minutes": 5.0} for k in (1, 2, 3)]
        assert http.post("/v1/sources/trips/events", json=events).json() == {"accepted": 3}
        after = http.post(INFER, json=body(rows=2)).json()["outputs"][0]["data"]
        wrong = http.post(INFER, json=body(zone=1.5))
        unknown = http.post("/v1/sources/tripz/events", json=events)
    world.close()
    assert (before, after) == ([0.0], [3.0, 3.0])
    assert (wrong.status_code, unknown.status_code // 100) == (400, 4)
    last = [r for r in world.kit.records() if isinstance(r, Prediction)][-1]
    assert (last.features[1:], last.statuses) == ([2.0, 12.0], bytes(3))


def test_both_arms_are_served_by_one_read_and_get_their_own_columns(tmp_path: Path) -> None:
    world = World(tmp_path)
    with client(world.gateway) as http:
        event = {"at": to_micros(NOON) - 60_000_000, "zone": 74, "minutes": 5.0}
        http.post("/v1/sources/trips/events", json=[event])
        one, two = world.kit.ref("v1", service=world.one), world.kit.ref("v2", service=world.two)
        http.call(world.gateway.swap(table(1, one, two, share=1.0)))
        answer = http.post(INFER, json=body()).json()
    world.close()
    assert (answer["model_version"], answer["outputs"][0]["data"]) == ("v2", [105.0])
    assert world.reads == 1
    prediction, shadow = world.kit.records()
    assert prediction.features == [5.0, 2.0, 1.0]
    assert isinstance(shadow, Shadow)
    assert (shadow.version, shadow.value) == ("v1", 1.0)


def test_services_that_disagree_on_a_view_are_read_apart(tmp_path: Path) -> None:
    trips, traffic, _ = definitions()
    zone = fb.Entity("zone", keys={"zone": int})
    other = fb.FeatureView("traffic", entity=zone, source=trips, features=[fb.count("trips_1h", window="2h")])
    a = compile_service("eta", "at", [traffic], trips.spec)
    b = compile_service("eta", "at", [other], trips.spec)
    assert unite(a, b) is None
    assert unite(a, a) == (a, None, None)


def test_an_artifact_that_changed_is_not_served(tmp_path: Path) -> None:
    world = World(tmp_path)
    ref = world.kit.ref("v1", service=world.one)
    (Path(ref.path) / "manifest.json").write_bytes(b"{}")
    assert hashlib.sha256(b"{}").hexdigest() != ref.digest
    with client(world.gateway) as http:
        try:
            http.call(world.gateway.swap(table(1, ref)))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
    world.close()
    assert text.startswith("IntegrityError")


@pytest.mark.parametrize("inputs", ["bac", "abc"])  # in the order of the columns, and not
def test_numbers_sent_as_one_matrix_are_the_features_that_one_input_each_would_be(tmp_path: Path, inputs: str) -> None:
    names = ("b", "a", "c")
    service = FeatureService(
        "eta", "at", tuple(ServiceColumn(n, "field") for n in names), tuple(InputSpec(n, "float64") for n in inputs)
    )
    kit = Kit(tmp_path, v1=lambda m: m[:, 0] + 10 * m[:, 1] + 100 * m[:, 2])
    writer = LogWriter(tmp_path / "log" / "w0")
    rows = [[0.1, 0.2, 0.3], [-0.0, 5e-324, 1e300], [1.0, 2.0, 3.0]]
    with client(Gateway(kit.cache(), log=writer)) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1", service=service))))
        plan = http.gateway.plans["eta"]
        assert plan.champion.fields == names
        assert plan.inputs.columns == tuple(inputs)
        for some in (rows[:1], rows):
            whole = {"name": "x", "shape": [len(some), 3], "datatype": "FP64", "data": some}
            each = [
                {"name": n, "shape": [len(some)], "datatype": "FP64", "data": [row[j] for row in some]}
                for j, n in enumerate(inputs)
            ]
            packed = np.array(some).tobytes()
            head = json.dumps({"inputs": [{k: v for k, v in whole.items() if k != "data"}
                                          | {"parameters": {"binary_data_size": len(packed)}}]}).encode()  # fmt: skip
            kind = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
            answers = [
                http.post("/v2/models/eta/infer", json={"inputs": [whole]}),
                http.post("/v2/models/eta/infer", json={"inputs": each}),
                http.post("/v2/models/eta/infer", content=head + packed, headers=kind),
            ]
            assert len({str(answer.json()["outputs"]) for answer in answers}) == 1
    seen = [(r.inputs, r.features, r.statuses) for r in kit.records() if isinstance(r, Prediction)]
    assert len(seen) == 12
    assert seen[0] == seen[1] == seen[2]
    first = dict(zip(inputs, rows[0], strict=True))
    assert seen[0] == (first, [first[n] for n in names], b"\0\0\0")
    assert seen[3:6] == seen[6:9] == seen[9:]


def test_a_model_that_reads_more_than_numbers_of_the_request_has_no_matrix_form(tmp_path: Path) -> None:
    service = FeatureService(
        "eta", "at", (ServiceColumn("a", "field"), ServiceColumn("v", "field", width=2)),
        (InputSpec("a", "float64"), InputSpec("v", "vector[2]")),
    )  # fmt: skip
    assert OnlineReader(None, service).fields == ()  # type: ignore[arg-type]
