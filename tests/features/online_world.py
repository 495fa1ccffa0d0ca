"""A small world for the online tests: one source of trips, a row view and a window view, stores in a folder."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flyball.adapters.duckdb import DuckDBEngine
from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.clock import ManualClock
from flyball.features import definitions as fb
from flyball.features.ingest import Ingest
from flyball.features.lookup import lookup
from flyball.features.offline import history
from flyball.features.spec import Status, ViewSpec

START = 1_600_000_000_000_000
MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000


def views(*, where: str | None = None) -> tuple[ViewSpec, ViewSpec]:
    zone = fb.Entity("zone", keys={"zone": int})
    trips = fb.ParquetSource(
        "trips", "trips/*.parquet", event_time="at", created_time="made", where=where, derive={"half": "v / 2"},
        delay="10m",
    )  # fmt: skip
    newest = fb.FeatureView(
        "newest", entity=zone, source=trips, ttl="6h",
        features=[fb.Feature("v", float), fb.Feature("n", int, default=-1), fb.Feature("word", str),
                  fb.Feature("flag", bool), fb.Feature("halved", float, of="half")],
    )  # fmt: skip
    windows = fb.FeatureView(
        "windows", entity=zone, source=trips,
        features=[fb.count("n_1h", window="1h"), fb.count("n_24h", window="24h"), fb.mean("mean_24h", of="v", window="24h"),
                  fb.std("std_24h", of="v", window="24h"), fb.sum("sum_1h", of="n", window="1h"),
                  fb.min("min_1h", of="v", window="1h", default=-7.0), fb.max("max_24h", of="n", window="24h"),
                  fb.count("valued_1h", of="v", window="1h")],
    )  # fmt: skip
    return newest.spec, windows.spec


def row(rng: random.Random, arrival: int) -> dict[str, Any]:
    """A trip that is on time, late, early (its event is in the future), or learned of later."""
    event = arrival - rng.choice([0, 1, 30, 59, 60, 61, 600, 3600, 3601, 80_000, 86_400, 200_000, -600]) * 1_000_000
    made = rng.choice([None, event, event + 5_000_000, arrival + 120_000_000])
    return {
        "at": event, "made": made, "zone": rng.choice([1, 2, 3, None]), "v": rng.choice([None, rng.random() * 50]),
        "n": rng.choice([None, rng.randrange(9)]), "word": rng.choice([None, "", "föhn", "x" * 40]),
        "flag": rng.choice([None, True, False]),
    }  # fmt: skip


def write_file(folder: Path, rows: list[dict[str, Any]], name: str = "a") -> None:
    """Write rows as a file of the source."""
    (folder / "trips").mkdir(parents=True, exist_ok=True)
    moment = pa.timestamp("us")
    schema = pa.schema([("at", moment), ("made", moment), ("zone", pa.int64()), ("v", pa.float64()),
                        ("n", pa.int64()), ("word", pa.string()), ("flag", pa.bool_())])  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "trips" / f"{name}.parquet")


@dataclass
class World:
    folder: Path
    views: tuple[ViewSpec, ...]
    store: LMDBStore
    log: FileIngestLog
    ingest: Ingest
    engine: DuckDBEngine
    clock: ManualClock

    @classmethod
    def open(cls, folder: Path, *, where: str | None = None, rotate: int = 8_000_000) -> World:
        log = FileIngestLog(folder / "log", rotate_bytes=rotate)
        store = LMDBStore(folder / "online", 1_000_000)
        clock = ManualClock(datetime.fromtimestamp(START / 1e6, UTC))
        specs = views(where=where)
        ingest = Ingest(store, log, specs, clock=clock, root=folder)
        return cls(folder, specs, store, log, ingest, DuckDBEngine(folder, FileIngestLog(folder / "log")), clock)

    def close(self) -> None:
        self.ingest.close()
        self.store.close()

    def reopened(self) -> World:
        self.close()
        return World.open(self.folder)

    def online(self, at: int, zones: tuple[int, ...] = (1, 2, 3, 4)) -> tuple[list[Any], list[Any]]:
        found = lookup(self.store, [{"zone": z} for z in zones], self.views, None, at)
        return found.to_dicts(), found.status()

    def batch(self, at: int, zones: tuple[int, ...] = (1, 2, 3, 4)) -> tuple[list[Any], list[Any]]:
        requests = pa.table(
            {"zone": pa.array(zones, pa.int64()), "T": pa.array([at] * len(zones)).cast(pa.timestamp("us", "UTC"))}
        )
        table = history(self.engine, requests, self.views, None, at="T")
        statuses = {name: table.status(name).tolist() for name in table.names}
        rows = table.to_arrow().select(list(table.names)).to_pylist()
        return rows, [{n: Status(s[i]) for n, s in statuses.items()} for i in range(len(zones))]

    def check(self, at: int) -> None:
        """Online and batch say the same at T."""
        (mine, my_status), (theirs, their_status) = self.online(at), self.batch(at)
        assert my_status == their_status, at - START
        for ours, other in zip(mine, theirs, strict=True):
            for name, value in ours.items():
                assert same(name, value, other[name], other), (name, value, other[name], at - START)


def same(name: str, mine: Any, other: Any, rest: dict[str, Any]) -> bool:
    if name not in {"mean_24h", "std_24h"} or mine is None or other is None:
        return bool(mine == other)
    scale = max(abs(rest["mean_24h"] or 0.0), rest["std_24h"] or 0.0)
    return bool(abs(mine - other) <= 1e-12 * max(scale, 1e-300) or mine == other)
