"""Durable stream events into five windows, reads meanwhile, beside the bare limit and (with --peer) Feast.

Each group of events is checked, appended to the ingest log with one fdatasync, folded into the cells of five windows
(5 min to 7 days, three statistics each) of its entities and committed. A tenth of the events are late, some by days.
The bare limit appends the same rows to a segment with one fdatasync and puts one 64-byte record per event into LMDB.
Feast has no windows: its figure is `write_to_online_store` of the same events as rows of three features, SQLite.
Run: python bench/stream.py [--quick] [--peer]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.clock import SystemClock
from flyball.features import definitions as fb
from flyball.features.ingest import Batch, Ingest
from flyball.features.online import OnlineReader
from flyball.features.publication import LocalGate
from flyball.features.service import compile_service
from flyball.records.segment import SegmentWriter
from flyball.records.types import Event, encode

TARGETS = {"events_per_s": 30_000.0, "read_p50_us": 30.0}
WINDOWS = ("5m", "1h", "6h", "24h", "7d")
GROUP = 2_000
BURST = 50


def view() -> tuple[fb.FeatureView, fb.ParquetSource]:
    """Fifteen features over five windows."""
    card = fb.Entity("card", keys={"card": int})
    source = fb.ParquetSource("payments", "none/*.parquet", event_time="at")
    features = [
        stat(f"{name}_{window}", of="amount", window=window)
        for window in WINDOWS
        for name, stat in (("mean", fb.mean), ("sum", fb.sum), ("max", fb.max))
    ]
    return fb.FeatureView("spend", entity=card, source=source, features=features), source


def groups(events: int, cards: int, rng: random.Random) -> list[list[dict[str, Any]]]:
    """Events in the order of their arrival; one in ten is late."""
    now = time.time_ns() // 1000
    made = []
    for k in range(events):
        late = rng.choice((5, 600, 86_400, 500_000)) * 1_000_000 if rng.random() < 0.1 else 0
        row = {"id": f"e{k}", "at": now + k * 20 - late, "card": rng.randrange(cards), "amount": rng.random() * 90}
        made.append(row | {"shop": "corner"})
    return [made[i : i + GROUP] for i in range(0, events, GROUP)]


class Reads:
    """Time fifteen-feature reads of one entity in a process of their own, as a worker's: in bursts of fifty.

    The first of a burst finds caches cold after the pause; its time is told apart.
    """

    def __init__(self, folder: Path, cards: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_read, args=(str(folder), cards, there))
        self._process.start()
        self._here.recv()

    def end(self) -> np.ndarray:
        """Stop and return microseconds, shape (bursts, 50)."""
        self._here.send(None)
        spent = self._here.recv()
        self._process.join()
        return np.array(spent).reshape(-1, BURST) / 1000


def _read(folder: str, cards: int, pipe: Any) -> None:
    declared, source = view()
    store = LMDBStore(Path(folder), readonly=True)
    reader = OnlineReader(store, compile_service("bench", "at", [declared], source.spec))
    rng, spent = random.Random(2), []
    pipe.send(None)
    while not pipe.poll(0.005):
        for _ in range(BURST):
            inputs = {"card": [rng.randrange(cards)]}
            at = time.time_ns() // 1000
            begin = time.perf_counter_ns()
            reader.read(inputs, 1, at)
            spent.append(time.perf_counter_ns() - begin)
    pipe.send(spent)
    store.close()


def ours(folder: Path, batches: list[list[dict[str, Any]]], cards: int, *, ids: bool) -> dict[str, float]:
    """Return events/s, publication lag and read times."""
    spec = view()[0].spec
    spec = replace(spec, source=replace(spec.source, event_id="id" if ids else None))
    plain = view()[0].spec
    store = LMDBStore(folder / "online", 256_000_000)
    gate = LocalGate()
    ingest = Ingest(store, FileIngestLog(folder / "log"), [spec if ids else plain], clock=SystemClock(), gate=gate)
    warm = max(1, len(batches) // 10)
    for rows in batches[:warm]:
        ingest.push_many([Batch("payments", rows)])
    reads = None if ids else Reads(folder / "online", cards)
    lags = []
    began = time.perf_counter()
    for rows in batches[warm:]:
        sent = time.time_ns() // 1000
        (result,) = ingest.push_many([Batch("payments", rows)])
        lags.append(max(result.published, time.time_ns() // 1000) - sent)  # type: ignore[union-attr]
    seconds = time.perf_counter() - began
    events = sum(map(len, batches[warm:]))
    found = {"events_per_s": round(events / seconds), "lag_p50_ms": round(float(np.median(lags)) / 1000, 2),
             "lag_p99_ms": round(float(np.quantile(lags, 0.99)) / 1000, 2)}  # fmt: skip
    if reads is not None:
        spent = reads.end()
        found |= {
            "read_p50_us": round(float(np.median(spent)), 1),
            "read_p99_us": round(float(np.quantile(spent, 0.99)), 1),
            "read_first_p50_us": round(float(np.median(spent[:, 0])), 1),
        }
    ingest.close()
    store.close()
    return found


def bare(folder: Path, batches: list[list[dict[str, Any]]]) -> float:
    """Return events/s of a raw log append with one sync and an LMDB put of 64 bytes per event."""
    writer = SegmentWriter(folder / "raw")
    env = lmdb.open(str(folder / "bare"), map_size=1 << 30, metasync=False)
    began = time.perf_counter()
    for rows in batches:
        writer.append(encode([Event("payments", 1, 0, rows)]))
        writer.sync()
        with env.begin(write=True) as txn:
            for row in rows:
                txn.put(row["card"].to_bytes(8, "big"), bytes(64))
    seconds = time.perf_counter() - began
    writer.close()
    env.close()
    return sum(map(len, batches)) / seconds


_FEAST = """
import json, sys, time
from datetime import timedelta
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, Int64, String
root, rows, group = sys.argv[1], json.load(open(sys.argv[2])), int(sys.argv[3])
frame = pd.DataFrame(rows)
frame["at"] = pd.to_datetime(frame["at"], unit="us", utc=True)
frame.to_parquet(root + "/p.parquet")
card = Entity(name="card", join_keys=["card"], value_type=ValueType.INT64)
view = FeatureView(name="spend", entities=[card], ttl=timedelta(days=7), online=True,
    schema=[Field(name="card", dtype=Int64), Field(name="amount", dtype=Float64), Field(name="shop", dtype=String),
            Field(name="id", dtype=String)],
    source=FileSource(path=root + "/p.parquet", timestamp_field="at"))
store = FeatureStore(config=RepoConfig(project="p", registry=root + "/r.db", provider="local",
    online_store={"type": "sqlite", "path": root + "/o.db"}, entity_key_serialization_version=3))
store.apply([card, view])
began = time.perf_counter()
for i in range(0, len(frame), group):
    store.write_to_online_store("spend", frame.iloc[i : i + group])
print(json.dumps(len(frame) / (time.perf_counter() - began)))
"""


def feast(folder: Path, batches: list[list[dict[str, Any]]]) -> float | str:
    """Return events/s of Feast's write_to_online_store, or why there is no figure."""
    python = folder / "venv" / "bin" / "python"
    rows, script, root = folder / "rows.json", folder / "peer.py", folder / "feast"
    root.mkdir()
    script.write_text(_FEAST)
    rows.write_text(json.dumps([row for batch in batches[: max(1, 20_000 // GROUP)] for row in batch]))
    steps = (
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [str(python), "-m", "pip", "install", "-q", "feast==0.67.0"],
        [str(python), str(script), str(root), str(rows), str(GROUP)],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["failed"])[-1][:200]
            return f"{' '.join(Path(word).name for word in step[1:4])}: {why}"
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 60 s")
    parser.add_argument("--peer", action="store_true", help="install Feast 0.67 into a temporary folder and measure it")
    given = parser.parse_args()
    events, cards = (100_000, 2_000) if given.quick else (600_000, 10_000)
    batches = groups(events, cards, random.Random(1))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("plain", "ids", "bare", "peer"):
            (folder / part).mkdir()
        figures |= ours(folder / "plain", batches, cards, ids=False)
        figures["events_with_ids_per_s"] = ours(folder / "ids", batches, cards, ids=True)["events_per_s"]
        figures["bare_events_per_s"] = round(bare(folder / "bare", batches))
        if given.peer:
            figures["feast_rows_per_s"] = feast(folder / "peer", batches)
    print(f"{events:,} events, {cards:,} entities, groups of {GROUP:,}, 10 % late")
    for what, key in (("flyball, 5 windows, 15 features, durable", "events_per_s"),
                      ("  the same with event ids", "events_with_ids_per_s"),
                      ("log append + LMDB put, nothing else", "bare_events_per_s")):  # fmt: skip
        print(f"{what:<44}{figures[key]:>12,.0f} events/s")
    if given.peer:
        peer = figures["feast_rows_per_s"]
        shown = f"{peer:>12,.0f} rows/s" if isinstance(peer, float) else f"  none: {peer}"
        print(f"{'Feast 0.67 write_to_online_store, no windows':<44}{shown}")
    print(f"{'read of 15 features meanwhile, other process':<44}{figures['read_p50_us']:>9.1f} µs p50"
          f"{figures['read_p99_us']:>9.1f} µs p99")  # fmt: skip
    print(f"{'sent to readable':<44}{figures['lag_p50_ms']:>9.2f} ms p50{figures['lag_p99_ms']:>9.2f} ms p99")
    met = {"events_per_s": figures["events_per_s"] >= TARGETS["events_per_s"],
           "read_p50_us": figures["read_p50_us"] <= TARGETS["read_p50_us"]}  # fmt: skip
    print(json.dumps({"bench": "stream", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
