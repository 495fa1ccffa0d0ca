"""What the prediction log costs and what it loses, by mode: async, durable, sync, and off.

Three measurements: the writer alone (records a second, in batches of 32 as a busy turn of the event loop makes them,
beside an append and fdatasync of the same bytes); a worker under a closed and an open loop with each mode, in turn; and
a worker killed with SIGKILL under load, whose acknowledged predictions are then looked for in its log. What surprises:
`async` may lose what it acknowledged, and the table says how much; only the other two promise.

    python bench/log.py [--quick]     # about 2 minutes; 40 s
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kit import asks, models
from kit.project import Project, plain_service, split
from load import Result, Spec, closed, drive

from flyball.records.log import follow
from flyball.records.types import Prediction, encode
from flyball.serving.log.writer import LogWriter

TARGETS = {"durable_cost_share": 0.10, "durable_lost": 0, "sync_lost": 0}
MODES = ("off", "async", "durable", "sync")
BATCH = 32


def record(k: int) -> Prediction:
    return Prediction(f"01j0pfcpjdor{k:07x}", "lr", "v1", "champion", 1, f"unit{k}", 1_700_000_000_000_000 + k,
                      {f"x{i}": 0.5 for i in range(30)}, [0.5] * 30, b"\0" * 30, [0.25, 0.75], total=400)  # fmt: skip


# -- the writer alone -------------------------------------------------------------------------------------------------


async def written(folder: Path, mode: str, seconds: float) -> float:
    """Return records a second through the writer, each turn's batch awaited as its callers would."""
    writer = LogWriter(folder, mode=mode)  # type: ignore[arg-type]
    batch, done = [record(k) for k in range(BATCH)], 0
    until = time.perf_counter() + seconds
    began = time.perf_counter()
    while time.perf_counter() < until:
        waited = writer.put(list(batch))
        if waited is not None:
            await waited
        else:
            await asyncio.sleep(0)
        done += BATCH
    took = time.perf_counter() - began
    writer.close()
    return done / took


def raw(folder: Path, seconds: float, *, sync: bool) -> float:
    """Return records a second of encoding and appending alone, with or without an fdatasync for each batch."""
    batch, done = [record(k) for k in range(BATCH)], 0
    with (folder / f"raw-{sync}").open("ab", buffering=0) as file:
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            file.write(encode(batch))
            if sync:
                os.fdatasync(file.fileno())
            done += BATCH
        return done / (time.perf_counter() - began)


def writer_alone(folder: Path, seconds: float) -> dict[str, Any]:
    figures: dict[str, Any] = {"raw_records_s": round(raw(folder, seconds, sync=False)),
                               "raw_fdatasync_records_s": round(raw(folder, seconds, sync=True))}  # fmt: skip
    print(f"{'the writer alone, batches of 32':<34}{'records/s':>12}")
    for mode in MODES[1:]:
        figures[f"{mode}_records_s"] = round(asyncio.run(written(folder / mode, mode, seconds)))
        print(f"{mode:<34}{figures[f'{mode}_records_s']:>12,}")
    print(f"{'raw append of the same bytes':<34}{figures['raw_records_s']:>12,}")
    print(f"{'raw append, fdatasync each batch':<34}{figures['raw_fdatasync_records_s']:>12,}\n")
    return figures


# -- in a worker ------------------------------------------------------------------------------------------------------


def served(root: Path, mode: str) -> tuple[Project, dict[str, Any]]:
    project = Project(root, log=mode)
    version = project.artifact("lr", "v1", models.fit()["lr"], plain_service("lr"), models.data()[0][:256])
    return project, {"lr": split("lr", version, None)}


def spec_of(project: Project) -> Spec:
    rows = models.data()[0][:64].round(6).tolist()
    form = asks.form(project, "lr", rows[0])
    return Spec(project.port, asks.path("lr"), [asks.body(form, row) for row in rows], asks.HEADERS)


def cost(folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure throughput and p99 of one worker by mode, in turn; all four workers wait while one is asked."""
    import contextlib

    figures: dict[str, Any] = {}
    full: dict[str, list[Result]] = {m: [] for m in MODES}
    paced: dict[str, list[Result]] = {m: [] for m in MODES}
    with contextlib.ExitStack() as stack:
        specs = {}
        for mode in MODES:
            project, routes = served(folder / f"cost-{mode}", mode)
            stack.callback(project.close)
            stack.enter_context(project.alone(routes))
            specs[mode] = spec_of(project)
        rate = drive(specs["durable"], clients=32, seconds=1.0).rps / 2
        for k in range(rounds):
            for mode in MODES if k % 2 == 0 else reversed(MODES):
                full[mode].append(drive(specs[mode], clients=32, seconds=seconds))
                paced[mode].append(drive(specs[mode], how="open", rate=rate, seconds=seconds, clients=64))
    off = statistics.median(r.rps for r in full["off"])
    off99 = statistics.median(r.p99_ms for r in paced["off"])
    print(f"{'one worker':<10}{'requests/s':>12}{'cost':>8}{'p50 ms':>9}{'p99 ms':>9}   at {rate:,.0f}/s, open loop:"
          f"{'p50 ms':>9}{'p99 ms':>9}{'added':>8}")  # fmt: skip
    for mode in MODES:
        rps, p50, p99 = (statistics.median(getattr(r, f) for r in full[mode]) for f in ("rps", "p50_ms", "p99_ms"))
        half50, half99 = (statistics.median(getattr(r, f) for r in paced[mode]) for f in ("p50_ms", "p99_ms"))
        figures |= {f"{mode}_rps": round(rps), f"{mode}_cost_share": round(1 - rps / off, 4)}
        figures |= {f"{mode}_half_p99_ms": round(half99, 3), f"{mode}_p99_added_ms": round(half99 - off99, 3)}
        print(f"{mode:<10}{rps:>12,.0f}{1 - rps / off:>8.1%}{p50:>9.3f}{p99:>9.3f}{'':>28}{half50:>9.3f}{half99:>9.3f}"
              f"{half99 - off99:>8.3f}")  # fmt: skip
    return figures


# -- killed -----------------------------------------------------------------------------------------------------------


def killed(folder: Path, mode: str, times: int, rng: random.Random) -> dict[str, Any]:
    """Kill a loaded worker at random moments; return how many acknowledged predictions its log does not have."""
    acknowledged, lost = 0, 0
    for k in range(times):
        project, routes = served(folder / f"kill-{mode}-{k}", mode)
        ids = folder / f"ids-{mode}-{k}"
        with project.alone(routes) as pid:
            command = [sys.executable, __file__, "--client", str(project.port), "--ids", str(ids)]
            client = subprocess.Popen(command)
            while not ids.exists() or ids.stat().st_size < 2000:  # the load runs
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.5))
            os.kill(pid, signal.SIGKILL)
            client.wait(30)
        told = {line for line in ids.read_text().split("\n") if len(line) == 18}
        kept = {r.id for b in follow(project.layout.log, {}) for r in b.records if isinstance(r, Prediction)}
        acknowledged += len(told)
        lost += len(told - kept)
        project.close()
    print(f"{mode:<10} killed {times} times: {acknowledged:,} acknowledged predictions, {lost} not in the log")
    return {f"{mode}_acknowledged": acknowledged, f"{mode}_lost": lost}


def client(port: int, ids: Path) -> None:
    """Ask with 32 connections until the server is gone; write every prediction id as soon as it is acknowledged."""
    rows = models.data()[0][:64].round(6).tolist()
    spec = Spec(port, asks.path("lr"), [asks.body("fields", row) for row in rows], asks.HEADERS)
    with ids.open("wb", buffering=0) as file:

        def told(_: bytes, answer: bytes) -> None:
            if answer[9:12] == b"200":
                at = answer.find(b'"prediction_id":"') + 17
                file.write(answer[at : answer.find(b'"', at)] + b"\n")

        try:
            closed(spec, 32, 60.0, warm=0.0, on_answer=told, stop=lambda out: out.broken > 0)
        except OSError:
            return  # nobody listens any more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--client", type=int, default=0)
    parser.add_argument("--ids", type=Path)
    args = parser.parse_args()
    if args.client:
        client(args.client, args.ids)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        figures = writer_alone(folder, 0.5 if args.quick else 2.0)
        figures |= cost(folder, 0.8 if args.quick else 3.0, 1 if args.quick else 4)
        print()
        for mode in MODES[1:]:
            figures |= killed(folder, mode, 1 if args.quick else 5, random.Random(11))
    met = {name: figures[name] <= limit for name, limit in TARGETS.items()}
    print(json.dumps({"bench": "log", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
