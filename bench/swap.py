"""Change versions under load and count what callers notice; kill a host and a worker; let a candidate fail.

A real node with two workers, and 64 keep-alive clients in a process of their own that compare every value with the
version the answer names. The surprise is in the last line: an HTTP server that is killed resets its connections, and no
server can answer on them; a prediction is safe to repeat, so a client that repeats a request whose connection died
before any byte of an answer (RFC 9110, 9.2.2) sees no failure. Both counts are printed.

    python bench/swap.py [--quick]      # about 40 s; 20 s
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from kit import asks
from kit.project import Project, plain_service, split
from load import Result, Spec, closed

from flyball.rollout.routing import ModelRoute, VersionRef
from flyball.serving.shared.slots import SharedMap, VetoReason

TARGETS = {"swap_failed": 0, "swap_wrong_values": 0, "swap_max_s": 1.0, "rollback_s": 1.0, "host_veto_ms": 10.0,
           "breaker_veto_ms": 10.0, "veto_failed": 0, "kill_failed_after_retry": 0}  # fmt: skip
CLIENTS = 64
SWAPS = 20
WORKERS = 2
DEFINITIONS = '''
class Scale:
    """Answers the first column times a number; may fail where the second column is not that of the sample."""

    def __init__(self, by, fails=False):
        self.by, self.fails = by, fails

    def predict(self, matrix):
        if self.fails and (matrix[:, 1] > 1.5).any():
            raise RuntimeError("the bench asked for this failure")
        return matrix[:, 0] * self.by
'''


class Served:
    """A node of two workers; v1 (times 2) and v2 (times 3) are trusted, v3 (times 5) and v4 (fails) live in hosts."""

    factors = {"v1": 2.0, "v2": 3.0, "v3": 5.0}

    def __init__(self, root: Path) -> None:
        self.project = Project(root, workers=WORKERS)
        (root / "definitions.py").write_text(DEFINITIONS)
        from flyball.registry.code import install_code, snapshot_code

        self.code = snapshot_code(root, self.project.layout)
        self.module = importlib.import_module(f"{install_code(self.project.layout.code / self.code)}.definitions")
        self.v1, self.v2 = self.version("v1", 2.0), self.version("v2", 3.0)
        self.v3, self.v4 = self.version("v3", 5.0, trusted=False), self.version("v4", 7.0, trusted=False, fails=True)

    def version(self, name: str, by: float, *, trusted: bool = True, fails: bool = False) -> VersionRef:
        model = self.module.Scale(by, fails)
        return self.project.artifact("m", name, model, plain_service("m"), np.ones((8, 30)), trusted=trusted,
                                     code=self.code)  # fmt: skip

    def route(self, champion: VersionRef, candidate: VersionRef | None = None, *, share: float = 0.5) -> ModelRoute:
        return split("m", champion, candidate, share=min(share, 0.5))

    def commit(self, champion: VersionRef, candidate: VersionRef | None = None, *, cause: str = "apply") -> float:
        return self.project.commit({"m": self.route(champion, candidate)}, cause=cause)


# -- clients ----------------------------------------------------------------------------------------------------------


def client(port: int, until: Path, least: int, retries: int) -> None:
    """Ask until the file is there and `least` answers came; print counts and how many values do not fit."""
    numbers = [round(1.0 + k / 7, 6) for k in range(64)]
    spec = Spec(port, asks.path("m"), [asks.body("fields", [x] + [2.0] * 29) for x in numbers], asks.HEADERS)
    known = dict(zip(spec.requests(spec.bodies), numbers, strict=True))
    wrong, by = 0, dict.fromkeys(Served.factors, 0)

    def check(request: bytes, answer: bytes) -> None:
        nonlocal wrong
        if answer[9:12] != b"200":
            return
        said = json.loads(answer[answer.find(b"\r\n\r\n") + 4 :])
        factor = Served.factors.get(said["model_version"], 0.0)
        by[said["model_version"]] = by.get(said["model_version"], 0) + 1
        wrong += abs(said["outputs"][0]["data"][0] - known[request] * factor) > 1e-9

    turns = 0

    def stop(out: Result) -> bool:
        nonlocal turns
        turns += 1
        return turns % 64 == 0 and out.answered >= least and until.exists()

    got = closed(spec, CLIENTS, 120.0, warm=0.0, retries=retries, on_answer=check, stop=stop)
    print(json.dumps(asdict(got) | {"wrong": wrong, "by": by}))


@contextmanager
def clients(port: int, folder: Path, *, least: int = 0, retries: int = 0) -> Any:
    """Run the clients beside the block; the dict that is yielded holds their counts afterwards."""
    until = folder / f"enough-{time.monotonic_ns()}"
    command = [sys.executable, __file__, "--client", str(port), "--until", str(until), "--least", str(least),
               "--retries", str(retries)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    counts: dict[str, Any] = {}
    try:
        time.sleep(0.7)  # its imports; the load begins then
        yield counts
    finally:
        until.touch()
        text, _ = process.communicate(timeout=180)
    counts.update(json.loads(text))


# -- what is measured -------------------------------------------------------------------------------------------------


def swaps(served: Served, folder: Path, requests: int) -> dict[str, Any]:
    """Swap the champion again and again under load (A, B, A, ...), each as soon as the last one is acknowledged."""
    times = []
    with clients(served.project.port, folder, least=requests) as counts:
        for k in range(SWAPS):
            times.append(served.commit(served.v2 if k % 2 == 0 else served.v1))
            time.sleep(0.1)
    print(f"{SWAPS} swaps under {counts['answered']:,} requests: {counts['failed']} failed, {counts['broken']} broken, "
          f"{counts['wrong']} values of another version than named; answers by version {counts['by']}")  # fmt: skip
    print(f"  commit to the last worker's acknowledgement: median {np.median(times) * 1e3:.1f} ms, longest "
          f"{max(times) * 1e3:.1f} ms; longest answer {counts['max_ms']:.1f} ms")  # fmt: skip
    return {"swap_requests": counts["answered"], "swap_failed": counts["failed"] + counts["broken"],
            "swap_wrong_values": counts["wrong"], "swap_median_s": round(float(np.median(times)), 4),
            "swap_max_s": round(max(times), 4), "swap_slowest_ms": round(counts["max_ms"], 1)}  # fmt: skip


def rollback(served: Served, folder: Path) -> dict[str, Any]:
    """Take a candidate at 50 % away under load."""
    with clients(served.project.port, folder, least=1000) as counts:
        served.commit(served.v1, served.v3)
        time.sleep(1.0)
        took = served.commit(served.v1, cause="rollback")
    print(f"rollback of a candidate at 50 %: {took * 1e3:.1f} ms until every worker served it; {counts['failed']} of "
          f"{counts['answered']:,} failed, by version {counts['by']}")  # fmt: skip
    return {"rollback_s": round(took, 4), "rollback_failed": counts["failed"] + counts["broken"]}


def watched(shared: SharedMap, reason: VetoReason, seconds: float) -> Callable[[], dict[int, tuple[float, float]]]:
    """Watch both workers from a thread; the function returned waits and says when each one acknowledged, and vetoed.

    The second time is of the first veto with that reason, inf when there was none; the first is that of the newest
    change of table before it, or of the beginning. Times are monotonic seconds, to about 0.3 ms.
    """
    acknowledged, vetoed, tables = {}, {}, {}

    def look() -> None:
        until = time.monotonic() + seconds
        while len(vetoed) < WORKERS and time.monotonic() < until:
            for k in set(range(WORKERS)) - vetoed.keys():
                slot, now = shared.slot(k), time.monotonic()
                if slot.acknowledged != tables.get(k):
                    tables[k], acknowledged[k] = slot.acknowledged, now
                veto = slot.veto
                if veto is not None and veto.reason is reason and veto.table == tables[k]:
                    vetoed[k] = now
            time.sleep(0.0002)

    thread = threading.Thread(target=look)
    thread.start()

    def result() -> dict[int, tuple[float, float]]:
        thread.join()
        return {k: (acknowledged[k], vetoed.get(k, float("inf"))) for k in range(WORKERS)}

    return result


def dead_host(served: Served, folder: Path) -> dict[str, Any]:
    """Kill the candidate's host under load; measure until both workers took its traffic away by themselves."""
    from flyball.adapters.local.running import read_running

    shared = SharedMap.open(served.project.layout.map)
    served.commit(served.v1, served.v3)
    time.sleep(2.0)
    with clients(served.project.port, folder, least=1000) as counts:
        settled(shared)
        running = read_running(served.project.layout)
        host = next(pid for name, pid in running.children.items() if name.startswith("host-") and pid)
        result = watched(shared, VetoReason.HOST_GONE, 5.0)
        killed = time.monotonic()
        os.kill(host, signal.SIGKILL)
        took = max(veto - killed for _, veto in result().values()) * 1e3
    served.commit(served.v1)
    print(f"the candidate's host killed: both workers' own veto after {took:.1f} ms; {counts['failed']} of "
          f"{counts['answered']:,} failed, by version {counts['by']}")  # fmt: skip
    return {"host_veto_ms": finite(took), "veto_failed": counts["failed"] + counts["broken"]}


def settled(shared: SharedMap, seconds: float = 15.0) -> None:
    """Wait until no worker has a veto any more: the candidate's host takes a moment to come up."""
    until, quiet = time.monotonic() + seconds, 0
    while quiet < 20:
        quiet = 0 if any(shared.slot(k).veto is not None for k in range(WORKERS)) else quiet + 1
        if time.monotonic() > until:
            raise SystemExit(f"the candidate's host did not come up within {seconds:.0f} s")
        time.sleep(0.025)


def failing_candidate(served: Served, folder: Path) -> dict[str, Any]:
    """Serve a candidate that fails on every row, under load; measure from a worker's new table to its own veto.

    The time contains the five failures that the breaker asks for. Its host runs before the table that uses it.
    """
    shared = SharedMap.open(served.project.layout.map)
    served.project.commit({"m": replace(served.route(served.v1), warm=(served.v4,))})
    time.sleep(2.0)
    with clients(served.project.port, folder, least=1000) as counts:
        result = watched(shared, VetoReason.FAILURES, 10.0)
        served.commit(served.v1, served.v4)
        took = max(veto - table for table, veto in result().values()) * 1e3
    served.commit(served.v1)
    print(f"a candidate that fails on every row: a worker's own veto {took:.1f} ms after it served the table (5 "
          f"failures); {counts['failed']} of {counts['answered']:,} callers noticed")  # fmt: skip
    return {"breaker_veto_ms": finite(took), "breaker_failed": counts["failed"]}


def finite(ms: float) -> float | None:
    return round(ms, 2) if ms < float("inf") else None


def dead_worker(served: Served, folder: Path, *, retries: int) -> dict[str, Any]:
    """Kill each worker under load and wait until its successor serves the table."""
    from flyball.adapters.local.running import read_running

    layout = served.project.layout
    shared = SharedMap.open(layout.map)
    back = 0.0
    with clients(served.project.port, folder, least=3000, retries=retries) as counts:
        for k in range(WORKERS):  # one after the other: the kernel may have given most connections to either
            before = read_running(layout).children[f"w{k}"]
            os.kill(before, signal.SIGKILL)
            began, slot = time.monotonic(), shared.slot(k)
            while slot.pid in {0, before} or slot.acknowledged != shared.table_version:
                time.sleep(0.01)
            back = max(back, time.monotonic() - began)
            time.sleep(1.0)
    how = f"clients that retry: {counts['retried']} repeated" if retries else "clients that do not retry"
    print(f"both workers killed, {how}: {counts['broken']} connections of {CLIENTS} reset, {counts['failed']} of "
          f"{counts['answered']:,} requests failed; its successor served after {back:.2f} s")  # fmt: skip
    name = "kill_failed_after_retry" if retries else "kill_failed_without_retry"
    return {name: counts["failed"], f"{name}_broken": counts["broken"], "kill_wrong_values": counts["wrong"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--client", type=int, default=0)
    parser.add_argument("--until", type=Path)
    parser.add_argument("--least", type=int, default=0)
    parser.add_argument("--retries", type=int, default=0)
    args = parser.parse_args()
    if args.client:
        client(args.client, args.until, args.least, args.retries)
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        served = Served(folder / "project")
        served.commit(served.v1)
        with served.project.up():
            figures |= swaps(served, folder, 10_000)
            figures |= rollback(served, folder)
            figures |= dead_host(served, folder)
            figures |= failing_candidate(served, folder)
            if not args.quick:
                figures |= dead_worker(served, folder, retries=0)
            figures |= dead_worker(served, folder, retries=3)
        served.project.close()
    met = {n: figures.get(n) is not None and figures[n] <= limit for n, limit in TARGETS.items()}
    print(json.dumps({"bench": "swap", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
