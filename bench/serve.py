"""Measure the gateway beside a bare uvicorn hello and beside other model servers, on the same machine in the same run.

"product" is one real worker process with everything on: key, router with a candidate at 10 %, metrics, durable log;
"node" is what `flyball up` runs (supervisor, ingest and control beside it, the candidate in a host). Load comes from a
process of its own (wrk where the machine has it, else bench/load.py); server and client share the machine, so compare
ratios, not rates. A peer runs in an environment of its own, one worker process, the same model file; each is measured
in turn with the product (A B A B), so its ratio is of the same minutes. What surprises: a peer that cannot be installed
or started is a row of the table with the reason.

    python bench/serve.py --quick                       # about a minute, no peers
    python bench/serve.py                               # about 5 minutes, no peers
    python bench/serve.py --peer                        # all peers: about 35 minutes, environments installed before
    python bench/serve.py --peer mlserver fastapi --models lr --clients 1,32 --seconds 2
    python bench/serve.py --peer --resume               # goes on where the last run was ended
    python bench/serve.py --only start                  # own | peers | fairness | start | shadow | grpc, any of them
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import peers
from kit import asks, h2, models
from kit.product import BAD, Product, bad_row, near, probe, product, routes, rows
from kit.project import Project, cpu_s, plain_service, pss_mb, rss_mb, split
from load import WARM, Result, Spec, drive, start_hello

SECTIONS = ("own", "peers", "fairness", "start", "shadow", "grpc")
TARGETS = {
    "lr_share_of_hello_32": 0.25, "added_latency_ms_p50": 0.15, "log_cost_share_32": 0.10,
    "lr_times_mlserver_32": 6.0, "lr_times_fastapi_32": 3.0, "onnx_times_mlserver_lr_32": 9.0,
    "hgb_times_best_batching_32": 4.0, "hgb_times_best_batching_128": 7.0, "start_to_ready_s": 3.0,
    "worker_rss_mb": 150.0, "shadow_p99_ratio": 1.10, "innocent_failed_share": 0.0, "grpc_times_mlserver_32": 2.0,
}  # fmt: skip
AT_MOST = {"added_latency_ms_p50", "log_cost_share_32", "start_to_ready_s", "worker_rss_mb", "shadow_p99_ratio",
           "innocent_failed_share"}  # fmt: skip


@dataclass
class Run:
    """What was asked for, and the cells measured so far, which `--resume` reads again."""

    quick: bool = False
    seconds: float = 2.0
    rounds: int = 2
    clients: tuple[int, ...] = (1, 32, 128)
    kinds: tuple[str, ...] = models.KINDS
    peers: tuple[str, ...] = ()
    cells: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def kept(self, name: str, measure: Any) -> Any:
        """Return a cell measured before, or measure and keep it."""
        if name not in self.cells:
            self.cells[name] = measure()
            (peers.cache() / "serve-cells.json").write_text(json.dumps(self.cells))
        return self.cells[name]


# -- own figures ------------------------------------------------------------------------------------------------------


def own(run: Run, folder: Path, files: dict[str, Path]) -> None:
    """Measure hello, each model, the log's share, one input per field with enrichment, and the whole node."""
    runs: dict[tuple[str, int], list[Result]] = {}
    bare = bare_call_ms()
    hello, port = start_hello()
    node = Project(folder / "node")
    node.commit(routes(node, files))
    try:
        with product(folder / "p", files) as on, product(folder / "n", files, log="off") as off, node.up():
            whole = Product(node, on.kinds, on.form)
            print(f"shape of the request: {on.form}; enriched: 1 key, 10 fields, 20 features of 2 views from LMDB")
            print("answered by: " + ", ".join(f"{kind} {form}" for kind, form in on.project.forms.items()))
            table: list[tuple[str, Spec]] = [("hello", Spec(port, "/"))]
            table += [(kind, on.spec(kind)) for kind in on.kinds if kind in {*run.kinds, "enriched", "lr-native"}]
            table += [("lr, no log", off.spec("lr")), ("lr, node", whole.spec("lr"))]
            for _ in range(run.rounds):
                for clients in run.clients:
                    for row, spec in table:
                        got = drive(spec, clients=clients, seconds=run.seconds)
                        runs.setdefault((row, clients), []).append(got)
    finally:
        hello.terminate()
        hello.wait(10)
        node.close()
    own_table(run, runs, bare)


def own_table(run: Run, runs: dict[tuple[str, int], list[Result]], bare: float) -> None:
    figures = run.figures
    print(f"{'what':<14}{'clients':>8}{'requests/s':>12}{'of hello':>10}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}")
    for (row, clients), got in runs.items():
        rps, p50, p99 = medians(got)
        share = rps / medians(runs["hello", clients])[0]
        failed = sum(g.failed for g in got)
        print(f"{row:<14}{clients:>8}{rps:>12,.0f}{share:>10.1%}{p50:>9.3f}{p99:>9.3f}{failed:>8}")
        key = row.replace(", ", "_").replace(" ", "_")
        figures |= {f"{key}_rps_{clients}": round(rps), f"{key}_share_of_hello_{clients}": round(share, 4),
                    f"{key}_p50_ms_{clients}": round(p50, 4), f"{key}_p99_ms_{clients}": round(p99, 4)}  # fmt: skip
    figures["bare_model_call_ms"] = round(bare, 4)
    if ("lr", 1) in runs:
        figures["added_latency_ms_p50"] = round(figures["lr_p50_ms_1"] - bare, 4)
        print(f"bare model call {bare:.3f} ms; the product adds {figures['added_latency_ms_p50']:.3f} ms at 1 client")
    if ("lr", 32) in runs:
        figures["log_cost_share_32"] = round(1 - figures["lr_rps_32"] / figures["lr_no_log_rps_32"], 4)


def medians(got: list[Result]) -> tuple[float, float, float]:
    """Return the medians of requests/s, p50 and p99 over runs."""
    return (statistics.median(g.rps for g in got), statistics.median(g.p50_ms for g in got),
            statistics.median(g.p99_ms for g in got))  # fmt: skip


def bare_call_ms() -> float:
    """Return the median of the model's own call on one row: the price that no server can take away."""
    model, X, times = models.fit()["lr"], models.data()[0], []
    for i in range(500):
        begin = time.perf_counter_ns()
        model.predict_proba(X[i : i + 1])
        times.append((time.perf_counter_ns() - begin) / 1e6)
    return statistics.median(times)


# -- peers ------------------------------------------------------------------------------------------------------------


def beside_peers(run: Run, folder: Path, files: dict[str, Path]) -> None:
    """Measure every peer in turn with the product, in pairs."""
    with product(folder / "beside", files) as ours:
        kinds = [k for k in run.kinds if k in files]
        for kind in kinds:
            for name in run.peers:
                for setting in peers.peer(name).SETTINGS:
                    cell = run.kept(
                        f"{name}|{setting}|{kind}",
                        lambda n=name, s=setting, k=kind: measured(run, folder, files[k], ours, n, s, k),
                    )
                    peer_rows(name, setting, kind, cell)
    ratios(run)


def measured(run: Run, folder: Path, model: Path, ours: Product, name: str, setting: str, kind: str) -> dict[str, Any]:
    """Return what one peer does in one setting with one model, or why it cannot be measured."""
    place = folder / "peers" / f"{name}-{kind}-{peers.peer(name).SETTINGS.index(setting)}"
    what = peers.peer(name)
    try:
        with peers.running(name, kind, model, place, setting) as server:
            spec = Spec(server.port, what.PATH, [what.body([row], kind).decode() for row in rows()])
            k, truth = probe()
            answer = peers.ask(server.port, what.PATH, spec.bodies[k].encode())
            if not near(what.value(answer.body, kind), truth[kind]):
                return {"reason": f"answers {what.value(answer.body, kind):.6g}, the model says {truth[kind]:.6g}"}
            cell: dict[str, Any] = {"ready_s": round(server.ready_s, 1), "mb": round(memory(server.pid))}
            cell |= in_pairs(
                run, spec, ours.spec(kind) if kind in ours.kinds else None, server.pid, ours.project.worker
            )
            if kind == "lr":
                cell["fairness"] = fairness(
                    run, replace(spec, bad=()), [what.body([bad_row(b)], kind).decode() for b in BAD]
                )
            return cell
    except (peers.Unavailable, RuntimeError, OSError) as error:
        return {"reason": str(error)}


def in_pairs(run: Run, spec: Spec, ours: Spec | None, session: int, worker: int) -> dict[str, Any]:
    """Return medians by clients of the peer and of the product, taken in turn, and µs of processor time per request."""
    found: dict[str, Any] = {}
    for clients in run.clients:
        theirs, mine, cpu = [], [], {"peer": [0.0], "ours": [0.0]}
        for _ in range(run.rounds):
            theirs.append(charged(run, spec, clients, lambda: peers.of_session(session), cpu["peer"]))
            if ours is not None:
                mine.append(charged(run, ours, clients, lambda: [worker], cpu["ours"]))
        cell = {"peer": medians(theirs), "failed": sum(g.failed for g in theirs), "cpu_us": cost(cpu["peer"])}
        found[str(clients)] = cell | ({"ours": medians(mine), "ours_cpu_us": cost(cpu["ours"])} if mine else {})
    return found


def charged(run: Run, spec: Spec, clients: int, pids: Callable[[], list[int]], into: list[float]) -> Result:
    """Drive one load and append the µs of processor time that the server took for one answer, warm-up included."""
    before = cpu_s(pids())
    got = drive(spec, clients=clients, seconds=run.seconds)
    answers = (got.rps + got.failed / run.seconds) * (run.seconds + (0.0 if shutil.which("wrk") else WARM))
    into.append((cpu_s(pids()) - before) / max(answers, 1.0) * 1e6)
    return got


def cost(measured: list[float]) -> int:
    return round(statistics.median(measured[1:]))


def memory(session: int) -> float:
    """Return the PSS in MB of all processes of a server."""
    total = 0.0
    for pid in peers.of_session(session):
        with contextlib.suppress(OSError):
            total += pss_mb(pid)
    return total


def peer_rows(name: str, setting: str, kind: str, cell: dict[str, Any]) -> None:
    title = f"{kind:<6}{peers.peer(name).TITLE}, {setting}"
    if "reason" in cell:
        print(f"{title:<48} not measured: {cell['reason']}", flush=True)
        return
    for clients in (k for k in cell if k.isdigit()):
        (rps, p50, p99), mine = cell[clients]["peer"], cell[clients].get("ours")
        here = cell[clients]
        beside = f"{mine[0]:>11,.0f}{mine[0] / max(rps, 1e-9):>8.1f}x{mine[1]:>9.2f}" if mine else f"{'none':>11}"
        cpu = f"{here['cpu_us']:>9,}{here.get('ours_cpu_us', 0):>7,}"
        print(f"{title:<48}{clients:>5}{rps:>10,.0f}{p50:>9.2f}{p99:>9.2f}{here['failed']:>7}{beside}{cpu}", flush=True)


def ratios(run: Run) -> None:
    """Turn the cells into the figures that have targets; the peer's better setting counts."""
    figures = run.figures
    for kind in run.kinds:
        for name in run.peers:
            for clients in map(str, run.clients):
                found = [
                    cell[clients]["ours"][0] / max(cell[clients]["peer"][0], 1e-9)
                    for setting in peers.peer(name).SETTINGS
                    if "ours" in (cell := run.cells[f"{name}|{setting}|{kind}"]).get(clients, ())
                ]
                if found:
                    figures[f"{kind}_times_{name}_{clients}"] = round(min(found), 2)
    for clients in map(str, run.clients):
        batching = [
            cell[clients]["ours"][0] / max(cell[clients]["peer"][0], 1e-9)
            for name, cell in run.cells.items()
            if name.endswith("|hgb") and "|batching" in name and "ours" in cell.get(clients, ())
        ]
        if batching:
            figures[f"hgb_times_best_batching_{clients}"] = round(min(batching), 2)
    onnx, lr = run.cells.get("mlserver|no batching|onnx", {}), figures.get("lr_times_mlserver_32")
    if lr and "ours" in onnx.get("32", ()):  # our ONNX against their regression, over our regression of its own pair
        settings = peers.peer("mlserver").SETTINGS
        best = max(run.cells[f"mlserver|{s}|lr"]["32"]["peer"][0] for s in settings
                   if "32" in run.cells[f"mlserver|{s}|lr"])  # fmt: skip
        figures["onnx_times_mlserver_lr_32"] = round(onnx["32"]["ours"][0] / best, 2)
    for name, cell in run.cells.items():
        if "reason" in cell:
            figures["not measured|" + name] = cell["reason"]
        for clients in (k for k in cell if k.isdigit()):
            figures[f"cpu_us|{name}|{clients}"] = cell[clients]["cpu_us"]
        if "fairness" in cell:
            figures["fairness|" + name.removesuffix("|lr")] = cell["fairness"]


# -- one bad client among good ones -----------------------------------------------------------------------------------


def fairness(run: Run, spec: Spec, bad: list[str]) -> dict[str, Any]:
    """Return, by fault, the share of innocent requests that fail while one client of 33 sends bad rows.

    "none" is the same with nobody sending bad rows: what fails there is nobody's neighbour.
    """
    found: dict[str, Any] = {}
    for how, text in (("none", spec.bodies[0]), *zip(BAD, bad, strict=True)):
        got = drive(replace(spec, bad=(text,)), wrk=False, clients=32, bad_clients=1,
                    seconds=1.0 if run.quick else 2.0)  # fmt: skip
        total = got.answered + got.failed
        found[how] = {"innocent_failed": round(got.failed / total, 4) if total else 1.0, "answered": got.answered,
                      "p99_ms": round(got.p99_ms, 2), "bad": got.bad_statuses}  # fmt: skip
    return found


def own_fairness(run: Run, folder: Path, files: dict[str, Path]) -> None:
    with product(folder / "fair", files) as ours:
        bad = [asks.body(ours.form, bad_row(how)) for how in BAD]
        found = fairness(run, ours.spec("lr"), bad)
    run.figures["fairness|flyball"] = found
    run.figures["innocent_failed_share"] = max(f["innocent_failed"] for f in found.values())


def fairness_table(run: Run) -> None:
    shown = {k.removeprefix("fairness|"): v for k, v in run.figures.items() if k.startswith("fairness|")}
    if not shown:
        return
    heads = f"{'nobody bad':>12}{'too narrow':>12}{'null':>8}{'text':>8}"
    print(f"\n{'innocent requests that fail beside one bad client':<52}{heads}")
    for name, found in shown.items():
        shares = [f"{found[how]['innocent_failed']:.1%}" for how in ("none", *BAD)]
        print(f"{name:<52}{shares[0]:>12}{shares[1]:>12}{shares[2]:>8}{shares[3]:>8}")


# -- start, memory, shadow --------------------------------------------------------------------------------------------


def start_and_memory(run: Run, folder: Path, files: dict[str, Path]) -> None:
    """Measure `flyball up` with one scikit-learn model: seconds to ready, memory of the worker after traffic."""
    found = []
    for k in range(1 if run.quick else 3):
        project = Project(folder / f"start{k}")
        champion = project.artifact("lr", "v1", models.fit()["lr"], plain_service("lr"), models.data()[0][:256])
        project.commit({"lr": split("lr", champion, None)})
        began = time.monotonic()
        with project.up() as running:
            ready = time.monotonic() - began
            ours = Product(project, ("lr",), asks.form(project, "lr", rows(1)[0]))
            drive(ours.spec("lr"), clients=8, seconds=0.5)
            worker = running.children["w0"]
            pids = [running.pid, *running.children.values()]
            found.append((ready, rss_mb(worker), pss_mb(worker), sum(pss_mb(p) for p in pids)))
        project.close()
    names = ("start_to_ready_s", "worker_rss_mb", "worker_pss_mb", "node_pss_mb")
    values = [statistics.median(column) for column in zip(*found, strict=True)]
    run.figures |= {name: round(value, 2) for name, value in zip(names, values, strict=True)}
    print(f"\n`flyball up` with one scikit-learn model: ready after {values[0]:.2f} s; worker {values[1]:.0f} MB RSS, "
          f"{values[2]:.0f} MB PSS; all processes {values[3]:.0f} MB PSS")  # fmt: skip


def shadow(run: Run, folder: Path, files: dict[str, Path]) -> None:
    """Measure the champion's p99 with all its traffic mirrored to a candidate in a host, and without; open loop."""
    project = Project(folder / "shadow")
    fitted, X = models.fit(), models.data()[0]
    champion = project.artifact("lr", "v1", fitted["lr"], plain_service("lr"), X[:256])
    candidate = project.artifact("lr", "v2", fitted["lr"], plain_service("lr"), X[:256], trusted=False)
    alone = {"lr": split("lr", champion, None)}
    mirrored = {"lr": replace(split("lr", champion, candidate, share=0.0), shadow=1.0)}
    project.commit(alone)
    without, mirror = [], []
    with project.up():
        spec = Product(project, ("lr",), asks.form(project, "lr", rows(1)[0])).spec("lr")
        rate = drive(spec, clients=32, seconds=1.0).rps * 0.3  # of one core's saturation; the host needs the other
        for _ in range(1 if run.quick else 5):
            for table, into in ((alone, without), (mirrored, mirror)):
                project.commit(table)
                time.sleep(0.3)  # the host's start is no part of it
                into.append(drive(spec, how="open", rate=rate, seconds=run.seconds, clients=64))
    project.close()
    off, on = medians(without), medians(mirror)
    run.figures |= {"shadow_rate": round(rate), "shadow_off_p99_ms": round(off[2], 3),
                    "shadow_on_p99_ms": round(on[2], 3), "shadow_off_p50_ms": round(off[1], 3),
                    "shadow_on_p50_ms": round(on[1], 3), "shadow_p99_ratio": round(on[2] / off[2], 3)}  # fmt: skip
    print(f"\nshadow at 100 %, {rate:,.0f} requests/s by the open loop: champion p50 {off[1]:.3f} -> {on[1]:.3f} ms, "
          f"p99 {off[2]:.3f} -> {on[2]:.3f} ms ({on[2] / off[2]:.2f}x)")  # fmt: skip


# -- gRPC -------------------------------------------------------------------------------------------------------------


def over_grpc(run: Run, folder: Path, files: dict[str, Path]) -> None:
    """Measure one worker's gRPC beside MLServer's, in turn; raw contents, one client on bare sockets for both.

    `--quick` and a run without the peer measure ours alone; a flyball that opens no port says so.
    """
    row = rows(1)[0]
    with product(folder / "grpc", files, grpc=True) as ours, contextlib.ExitStack() as stack:
        servers: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        port = ours.project.grpc_port
        if not peers.listens(port):
            print(f"\ngRPC: not measured, no worker listens on server.grpc_port ({port})")
            return
        servers["flyball"] = (port, h2.infer("lr", row), dict(asks.HEADERS))
        for k, setting in enumerate(peers.peer("mlserver").SETTINGS if "mlserver" in run.peers else ()):
            place = folder / "peers" / f"mlserver-grpc-{k}"
            try:
                stack.enter_context(peers.running("mlserver", "lr", files["lr"], place, setting))
            except peers.Unavailable as error:
                print(f"\ngRPC of MLServer, {setting}: not measured: {error}")
                continue
            message = h2.infer("bench", row, output="predict_proba")
            servers[f"mlserver|{setting}"] = (int((place / "grpc-port").read_text()), message, {})
        grpc_table(run, servers)


def grpc_table(run: Run, servers: dict[str, tuple[int, bytes, dict[str, str]]]) -> None:
    """Measure the servers in turn and print them; the peer's better setting counts."""
    print(f"\n{'gRPC, logistic regression':<34}{'clients':>8}{'calls/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}")
    for clients in run.clients:
        runs: dict[str, list[dict[str, Any]]] = {}
        for _ in range(run.rounds):
            for name, (port, message, headers) in servers.items():
                got = h2.drive(port, message, headers=headers, clients=clients, seconds=run.seconds)
                runs.setdefault(name, []).append(got)
        rates = {}
        for name, found in runs.items():
            rates[name], p50, p99 = (statistics.median(r[key] for r in found) for key in ("rps", "p50_ms", "p99_ms"))
            failed = sum(r["failed"] for r in found)
            print(f"{name:<34}{clients:>8}{rates[name]:>11,.0f}{p50:>9.3f}{p99:>9.3f}{failed:>8}")
            run.figures |= {f"grpc_{name}_rps_{clients}": round(rates[name]),
                            f"grpc_{name}_p50_ms_{clients}": round(p50, 3)}  # fmt: skip
        mine = rates.pop("flyball")
        if rates:
            run.figures[f"grpc_times_mlserver_{clients}"] = round(mine / max(*rates.values(), 1e-9), 2)


# -- the whole --------------------------------------------------------------------------------------------------------


def main() -> None:
    args = arguments()
    run = Run(
        quick=args.quick, seconds=args.seconds or (0.8 if args.quick else 2.0), rounds=1 if args.quick else 2,
        clients=tuple(int(c) for c in (args.clients or ("1,32" if args.quick else "1,32,128")).split(",")),
        kinds=tuple(args.models.split(",")), peers=() if args.peer is None else tuple(args.peer or peers.names()),
    )  # fmt: skip
    kept = peers.cache() / "serve-cells.json"
    if args.resume and kept.exists():
        run.cells = json.loads(kept.read_text())
    sections = tuple(args.only or SECTIONS)
    run.figures["closed_loop_by"] = "wrk" if shutil.which("wrk") else "bench/load.py"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = models.write(folder / "models")
        if "own" in sections:
            own(run, folder, files)
        if "peers" in sections and run.peers:
            print(f"\n{'model, peer':<48}{'cl.':>5}{'req/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'failed':>7}"
                  f"{'ours':>11}{'times':>9}{'p50 ms':>9}{'cpu µs':>9}{'ours':>7}")  # fmt: skip
            beside_peers(run, folder, files)
        if "fairness" in sections:
            own_fairness(run, folder, files)
        if "start" in sections:
            start_and_memory(run, folder, files)
        if "shadow" in sections:
            shadow(run, folder, files)
        if "grpc" in sections:
            over_grpc(run, folder, files)
    fairness_table(run)
    met = {n: run.figures[n] <= limit if n in AT_MOST else run.figures[n] >= limit
           for n, limit in TARGETS.items() if n in run.figures}  # fmt: skip
    print(json.dumps({"bench": "serve", "figures": run.figures, "targets": TARGETS, "met": met}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute, without peers")
    parser.add_argument("--peer", nargs="*", metavar="NAME", help=f"all, or some of {', '.join(peers.names())}")
    parser.add_argument("--models", default=",".join(models.KINDS))
    parser.add_argument("--clients", default="", help="1,32,128")
    parser.add_argument("--seconds", type=float, default=0.0, help="of each run")
    parser.add_argument("--resume", action="store_true", help="keep the cells of the run that was ended")
    parser.add_argument("--only", nargs="+", choices=SECTIONS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
