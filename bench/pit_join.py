"""Point-in-time join: 100k requests against three row views of 2M rows each, and against windows.

The bare limit is numpy's sort of the packed keys and one binary search per view over the same arrays, without reading
files. `--quick` takes a tenth of the rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import flyball as fb
from flyball.adapters.duckdb import DuckDBEngine
from flyball.features.offline import history

DAY = 86_400_000_000
START = 1_583_000_000_000_000
TARGETS = {"as_known_s": 2.0, "as_corrected_s": 1.0, "windows_s": 5.0, "peak_gib": 1.2}


def _write(root: Path, name: str, rows: int, entities: int, seed: int) -> fb.ParquetSource:
    rng = np.random.default_rng(seed)
    event = np.sort(rng.integers(START, START + 60 * DAY, rows))
    late = np.where(rng.random(rows) < 0.05, rng.integers(0, 2 * DAY, rows), 0)
    times = pa.timestamp("us", "UTC")
    table = pa.table({
        "user": rng.integers(0, entities, rows), "at": pa.array(event).cast(times),
        "learned": pa.array(event + late).cast(times), "value": rng.normal(size=rows),
    })  # fmt: skip
    pq.write_table(table, root / f"{name}.parquet")
    return fb.ParquetSource(name, f"{name}.parquet", event_time="at", created_time="learned")


def _seconds(call: Callable[[], object], times: int) -> float:
    """Return the best of several runs."""
    best = float("inf")
    for _ in range(times):
        started = perf_counter()
        call()
        best = min(best, perf_counter() - started)
    return best


def _bare(root: Path, names: list[str], users: np.ndarray, at: np.ndarray) -> Callable[[], None]:
    loaded = [pq.read_table(root / f"{n}.parquet", columns=["user", "at"]) for n in names]
    arrays = [(t["user"].to_numpy(), t["at"].cast(pa.int64()).to_numpy() - START) for t in loaded]
    wanted = (users << 43) | (at - START)

    def run() -> None:
        for user, event in arrays:
            keys = np.sort((user << 43) | event)
            np.searchsorted(keys, wanted)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    arguments = parser.parse_args()
    rows, requests = (200_000, 10_000) if arguments.quick else (2_000_000, 100_000)
    entities = rows // 40
    rng = np.random.default_rng(0)
    users, at = rng.integers(0, entities, requests), rng.integers(START, START + 60 * DAY, requests)
    table = pa.table({"user": users, "T": pa.array(at).cast(pa.timestamp("us", "UTC"))})
    user = fb.Entity("user", keys={"user": int})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sources = [_write(root, f"s{k}", rows, entities, k) for k in range(3)]
        views = [
            fb.FeatureView(
                f"v{k}", entity=user, source=s, ttl="7d", features=[fb.Feature(f"value{k}", float, of="value")]
            ).spec
            for k, s in enumerate(sources)
        ]
        windows = fb.FeatureView("w", entity=user, source=sources[0], features=[
            fb.count("count_1h", window="1h"), fb.mean("mean_24h", of="value", window="24h"),
            fb.sum("sum_7d", of="value", window="7d"), fb.max("max_7d", of="value", window="7d"),
        ]).spec  # fmt: skip
        engine = DuckDBEngine(root, threads=2)
        bare = _bare(root, [s.name for s in sources], users, at)
        figures = {
            "as_known_s": _seconds(lambda: history(engine, table, views, None, at="T"), 3),
            "as_corrected_s": _seconds(lambda: history(engine, table, views, None, at="T", join="as_corrected"), 3),
            "windows_s": _seconds(lambda: history(engine, table, [windows], None, at="T"), 2),
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "bare_s": _seconds(bare, 3),
        }
    met = {name: figures[name] <= limit for name, limit in TARGETS.items()}
    print(f"{requests:,} requests, {rows:,} rows a view, 5 % late")
    for name, value in figures.items():
        limit = f"<= {TARGETS[name]:g}" if name in TARGETS else "(the bare limit)"
        print(f"  {name:<16} {value:8.3f}  {limit}")
    figures = {name: round(value, 4) for name, value in figures.items()}
    print(json.dumps({"bench": "pit_join", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
