"""Point-in-time join: 100k requests against three row views of 2M rows each, and against windows.

The bare limit is numpy's sort of the packed keys and one binary search per view over the same arrays, without reading
files. `--quick` takes a tenth of the rows. `--curve` joins 1M, 5M, 10M and 50M rows with a fiftieth as many requests,
from Parquet to Parquet, each in a process of its own. `--peer` installs Feast into a folder that goes away, and joins
the same files with its default offline store and with DuckDB's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import flyball as fb
from flyball.adapters.duckdb import DuckDBEngine
from flyball.features.history_file import write_history
from flyball.features.offline import history

DAY = 86_400_000_000
START = 1_583_000_000_000_000
PEER = "feast[redis,duckdb]==0.67.*"
CURVE = (1_000_000, 5_000_000, 10_000_000, 50_000_000)
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


def _one_size(rows: int) -> None:
    """Join one size from Parquet to Parquet; print seconds and peak GiB as JSON. Runs in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root, requests = Path(folder), rows // 50
        source = _write(root, "s0", rows, rows // 40, 0)
        rng = np.random.default_rng(0)
        at = pa.array(rng.integers(START, START + 60 * DAY, requests)).cast(pa.timestamp("us", "UTC"))
        pq.write_table(pa.table({"user": rng.integers(0, rows // 40, requests), "T": at}), root / "requests.parquet")
        user = fb.Entity("user", keys={"user": int})
        view = fb.FeatureView("v", entity=user, source=source, ttl="7d", features=[fb.Feature("value", float)]).spec
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        started = perf_counter()
        write_history(
            DuckDBEngine(root, threads=2), root / "requests.parquet", [view], None, at="T", out=root / "out.parquet"
        )
        seconds = perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "peak_gib": peak, "writing_gib": before}))


def _curve(sizes: tuple[int, ...]) -> dict[str, float]:
    figures: dict[str, float] = {}
    print("\nrows           seconds   µs/row   peak GiB (of it making the data)")
    for rows in sizes:
        made = subprocess.run(
            [sys.executable, __file__, "--size", str(rows)], check=True, capture_output=True, text=True
        )
        found = json.loads(made.stdout.splitlines()[-1])
        figures[f"curve_{rows // 1_000_000}m_s"] = found["seconds"]
        figures[f"curve_{rows // 1_000_000}m_gib"] = found["peak_gib"]
        per_row = found["seconds"] / rows * 1e6
        print(
            f"{rows:>12,} {found['seconds']:9.2f} {per_row:8.3f} {found['peak_gib']:10.2f} ({found['writing_gib']:.2f})"
        )
    return figures


def _peer(root: Path, requests: pa.Table, corrected: pa.Table) -> dict[str, float]:
    """Join the same files with Feast, in an environment of its own."""
    pq.write_table(requests, root / "requests.parquet")
    columns = {n: corrected.column(n) for n in corrected.column_names if n.startswith("value")}
    pq.write_table(pa.table({"row": np.arange(requests.num_rows), **columns}), root / "corrected.parquet")
    python = root / "feast" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(root / "feast")], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PEER]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"\nFeast cannot be installed here: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
        return {}
    figures: dict[str, float] = {}
    script = str(Path(__file__).parent / "peers" / "feast_join.py")
    for engine in ("dask", "duckdb"):
        made = subprocess.run([str(python), script, str(root), engine], capture_output=True, text=True, check=False)
        if made.returncode:
            print(f"\nFeast on {engine} failed: {(made.stderr.strip().splitlines() or ['no message'])[-1]}")
            continue
        found = json.loads(made.stdout.splitlines()[-1])
        print(
            f"  Feast on {engine:<8} {found['seconds']:6.2f} s, {found['peak_gib']:.2f} GiB, {found['rows']:,} rows, "
            f"{found['differ']:,} of {found['answers']:,} answers differ from as-corrected"
        )
        figures |= {f"feast_{engine}_s": found["seconds"], f"feast_{engine}_gib": found["peak_gib"],
                    f"feast_{engine}_differ": found["differ"]}  # fmt: skip
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--curve", action="store_true", help="1M to 50M rows; with --quick up to 5M")
    parser.add_argument("--peer", action="store_true", help="Feast side by side")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.size:
        _one_size(arguments.size)
        return
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
        if arguments.peer:
            corrected = history(engine, table, views, None, at="T", join="as_corrected").to_arrow()
            figures |= _peer(root, table, corrected)
    if arguments.curve:
        figures |= _curve(CURVE[:2] if arguments.quick else CURVE)
    met = {name: figures[name] <= limit for name, limit in TARGETS.items()}
    print(f"{requests:,} requests, {rows:,} rows a view, 5 % late")
    for name, value in figures.items():
        limit = f"<= {TARGETS[name]:g}" if name in TARGETS else "(the bare limit)" if name == "bare_s" else ""
        print(f"  {name:<16} {value:8.3f}  {limit}")
    figures = {name: round(value, 4) for name, value in figures.items()}
    print(json.dumps({"bench": "pit_join", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
