"""Embedded online read, beside the bare limit: a raw LMDB get of the same packed values.

Figures are p50 microseconds per request of the whole `OnlineReader.read` (keys, multi-get, unpack, matrix, statuses).
Run: python bench/online_read.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.clock import SystemClock
from flyball.features import definitions as fb
from flyball.features.ingest import Ingest
from flyball.features.online import OnlineReader
from flyball.features.packing import entity_key, namespace
from flyball.features.service import compile_service
from flyball.features.spec import FeatureService

TARGETS = {"row_1_us": 12.0, "row_100_us": 400.0, "window_1_us": 30.0, "window_100_us": 400.0}
SPANS = ("1h", "6h", "24h", "7d", "30d")
START = 1_600_000_000_000_000
MINUTE = 60_000_000


def views() -> tuple[fb.FeatureView, fb.FeatureView, fb.ParquetSource]:
    """Ten features of the newest row; fifteen of windows: three statistics over five windows each."""
    thing = fb.Entity("thing", keys={"thing": int})
    source = fb.ParquetSource("events", "none/*.parquet", event_time="at")
    newest = fb.FeatureView("newest", entity=thing, source=source, ttl="2d",
                            features=[fb.Feature(f"f{i}", float) for i in range(10)])  # fmt: skip
    windows = fb.FeatureView(
        "windows", entity=thing, source=source,
        features=[*fb.windows(fb.count, "n", windows=SPANS), *fb.windows(fb.mean, "mean", of="f0", windows=SPANS),
                  *fb.windows(fb.max, "max", of="f0", windows=SPANS)],
    )  # fmt: skip
    return newest, windows, source


def fill(ingest: Ingest, entities: int, per_entity: int) -> tuple[int, float]:
    """Push a day of events; return the last arrival and events per second."""
    rng = random.Random(1)
    total, at, pushed = entities * per_entity, START, 0
    started = time.perf_counter()
    while pushed < total:
        rows = []
        for _ in range(min(5000, total - pushed)):
            at += 24 * 60 * MINUTE // total
            rows.append({"at": at, "thing": rng.randrange(entities)} | {f"f{i}": rng.random() for i in range(10)})
        ingest.push("events", rows, at)
        pushed += len(rows)
    return at, total / (time.perf_counter() - started)


def p50(call: Callable[[], object], repeat: int) -> float:
    """Return the median microseconds of a call."""
    for _ in range(repeat // 10 + 1):
        call()
    spent = []
    for _ in range(repeat):
        begin = time.perf_counter_ns()
        call()
        spent.append(time.perf_counter_ns() - begin)
    return float(np.median(spent)) / 1000


def measure(store: LMDBStore, service: FeatureService, n: int, at: int, repeat: int) -> tuple[float, float]:
    """Return (our read, raw get) for requests of n entities."""
    reader = OnlineReader(store, service)
    inputs = {"thing": list(range(n))}
    view = service.views[0]
    keys = [namespace(view.digest) + (entity_key(view.entity, (i,)) or b"") for i in range(n)]
    env = store._shared.env  # the bare limit: the same environment without our store around it

    def raw() -> None:
        with env.begin() as txn:
            for key in keys:
                txn.get(key)

    return p50(lambda: reader.read(inputs, n, at), repeat), p50(raw, repeat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 60 s")
    quick = parser.parse_args().quick
    entities, per_entity, repeat = (1_000, 20, 2_000) if quick else (10_000, 30, 20_000)
    newest, windows, source = views()
    with tempfile.TemporaryDirectory() as folder:
        store = LMDBStore(Path(folder) / "online")
        log = FileIngestLog(Path(folder) / "log")
        ingest = Ingest(store, log, [newest.spec, windows.spec], clock=SystemClock())
        at, rate = fill(ingest, entities, per_entity)
        figures: dict[str, float] = {"push_events_per_s": round(rate)}
        print(f"{'read':<28}{'p50 µs':>10}{'raw get µs':>12}{'ratio':>8}")
        for name, view in (("row", newest), ("window", windows)):
            service = compile_service("bench", "at", [view], source.spec)
            for n in (1, 100):
                ours, raw = measure(store, service, n, at + 2_000_000, max(200, repeat // n))
                figures |= {f"{name}_{n}_us": round(ours, 2), f"{name}_{n}_raw_us": round(raw, 2)}
                what = f"{len(service.columns)} {name} features, {n} entit{'y' if n == 1 else 'ies'}"
                print(f"{what:<32}{ours:>6.1f}{raw:>12.1f}{ours / raw:>8.1f}")
        print(f"{'push, two views, durable':<28}{rate:>10,.0f} events/s")
        ingest.close()
        store.close()
    met = {name: figures[name] <= limit for name, limit in TARGETS.items()}
    print(json.dumps({"bench": "online_read", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
