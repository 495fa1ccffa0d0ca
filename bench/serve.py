"""Measure the gateway: V2 JSON, one row a request, beside a bare uvicorn hello on the same machine in the same run.

Full product: key, router with a candidate at 10 %, features from fields, metrics, durable log. The load client is a
process of its own (raw keep-alive sockets under epoll), server and client share the machine: compare ratios, not rates.

    python bench/serve.py            # about two minutes
    python bench/serve.py --quick    # under one minute
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

KEY = "bench-key"
FEATURES = 4
ROWS = (
    ("hello", "hello", "hello"),
    ("lr", "product", "lr"),
    ("hgb", "product", "hgb"),
    ("lr, no log", "product, no log", "lr"),
)
TARGETS = {"lr_share_of_hello_32": 0.25, "added_latency_ms_p50": 0.15}


def body() -> bytes:
    inputs = [{"name": f"f{i}", "shape": [1], "datatype": "FP64", "data": [0.5 + i]} for i in range(FEATURES)]
    return json.dumps({"inputs": inputs}).encode()


def request_bytes(kind: str) -> bytes:
    if kind == "hello":
        return b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n"
    data = body()
    head = (
        f"POST /v2/models/{kind}/infer HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


# -- server -----------------------------------------------------------------------------------------------------------


async def hello(scope, receive, send) -> None:
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})


def make_versions(folder: Path):
    """Fit both models and write them as real artifacts; return a routing table."""
    import io

    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression

    from flyball.features.spec import FeatureService, InputSpec, ServiceColumn
    from flyball.registry.artifacts import write_artifact
    from flyball.registry.formats import FILE_NAMES, serialize, sign
    from flyball.registry.types import Manifest
    from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef

    rng = np.random.default_rng(7)
    X = rng.normal(size=(5000, FEATURES))
    score = X @ rng.normal(size=FEATURES) + rng.normal(size=5000)
    fitted = {
        "lr": LogisticRegression().fit(X, score > 0),
        "hgb": HistGradientBoostingRegressor(max_iter=100, random_state=1).fit(X, score),
    }
    sample = io.BytesIO()
    np.save(sample, X[:8])
    routes = {}
    for model, estimator in fitted.items():
        names = [f"f{i}" for i in range(FEATURES)]
        service = FeatureService(
            model, "at", tuple(ServiceColumn(n, "field") for n in names), tuple(InputSpec(n, "float64") for n in names)
        )
        kind, data = serialize(estimator)
        signature = sign(data, b"k" * 32) if kind == "pickle" else ""
        refs = []
        for version in ("v1", "v2"):
            manifest = Manifest(
                model, version, "bench", kind, {}, service, "d", "", datetime.now(UTC), signature=signature
            )
            path = folder / "artifacts" / model / version
            _, digest = write_artifact(path, manifest, {FILE_NAMES[kind]: data, "sample.npy": sample.getvalue()})
            refs.append(VersionRef(version, str(path), digest, True))
        routes[model] = ModelRoute(model, "s", refs[0], refs[1], 100_000, 100_000, 200_000, pair=False, rollout="r")
    return RoutingTable(1, 1, 0, routes), fitted, X


def serve(kind: str, port: int, folder: Path, mode: str) -> None:
    import uvicorn

    app = hello if kind == "hello" else asyncio.run(product(folder, mode))
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", ws="none", lifespan="off", access_log=False,
                log_level="error", server_header=False, date_header=False)  # fmt: skip


async def product(folder: Path, mode: str):
    import gc

    from flyball.registry.artifacts import load_version
    from flyball.serving.gateway import Gateway
    from flyball.serving.log import LogWriter
    from flyball.serving.models import ModelCache

    table, _, _ = make_versions(folder)
    models = ModelCache(lambda ref: load_version(Path(ref.path), ref.digest, signing_key=b"k" * 32))
    log = LogWriter(folder / "log" / "w0", mode=mode) if mode != "off" else None
    gateway = Gateway(models, log=log, key=KEY.encode(), read_with=reader_of)
    await gateway.swap(table)
    gc.collect()
    gc.freeze()
    return gateway


def reader_of(service):
    from flyball.features.online import OnlineReader

    return OnlineReader(None, service)


# -- load -------------------------------------------------------------------------------------------------------------


def complete(answer: bytes) -> bool:
    head = answer.find(b"\r\n\r\n")
    length = answer.find(b"content-length: ")
    return head >= 0 and len(answer) - head - 4 == int(answer[length + 16 : answer.find(b"\r", length)])


def load(kind: str, port: int, clients: int, seconds: float) -> dict[str, float]:
    request = request_bytes(kind)
    poll = select.epoll()
    peers: dict[int, socket.socket] = {}
    sent: dict[int, int] = {}
    for _ in range(clients):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setblocking(False)
        poll.register(peer.fileno(), select.EPOLLIN)
        peers[peer.fileno()] = peer
    clock = time.perf_counter_ns
    begin = clock()
    warm, end = begin + int(0.3e9), begin + int((0.3 + seconds) * 1e9)
    for fd, peer in peers.items():
        sent[fd] = clock()
        peer.send(request)
    latencies: list[int] = []
    parts: dict[int, bytes] = {}
    failed = 0
    now = begin
    while now < end:
        for fd, _ in poll.poll(1.0):
            peer = peers[fd]
            answer = parts.pop(fd, b"") + peer.recv(65536)
            if not answer:
                raise SystemExit("the server closed a connection")
            if not complete(answer):
                parts[fd] = answer
                continue
            now = clock()
            if answer[9:12] != b"200":
                failed += 1
            elif now > warm:
                latencies.append(now - sent[fd])
            sent[fd] = now
            peer.send(request)
    latencies.sort()
    n = len(latencies)
    return {"rps": n / seconds, "p50_ms": latencies[n // 2] / 1e6, "p99_ms": latencies[int(n * 0.99)] / 1e6,
            "failed": failed}  # fmt: skip


# -- bench ------------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(kind: str, folder: Path, mode: str) -> tuple[subprocess.Popen[bytes], int]:
    port = free_port()
    command = [sys.executable, __file__, "--serve", kind, "--port", str(port), "--folder", str(folder), "--log", mode]
    process = subprocess.Popen(command)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"the {kind} server ended with {process.returncode}") from None
            time.sleep(0.05)
        else:
            return process, port
    raise SystemExit(f"the {kind} server did not start within 60 s")


def drive(kind: str, port: int, clients: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, __file__, "--load", kind, "--port", str(port), "--clients", str(clients)]
    out = subprocess.run([*command, "--seconds", str(seconds)], check=True, capture_output=True)
    return dict(json.loads(out.stdout))


def bare_call_ms(folder: Path) -> float:
    """Median of the model's own call on one row, the price that no server can take away."""
    _, fitted, X = make_versions(folder)
    times = []
    for i in range(500):
        start_ns = time.perf_counter_ns()
        fitted["lr"].predict_proba(X[i : i + 1])
        times.append((time.perf_counter_ns() - start_ns) / 1e6)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", default="")
    parser.add_argument("--load", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--log", default="durable")
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.port, args.folder, args.log)
    elif args.load:
        print(json.dumps(load(args.load, args.port, args.clients, args.seconds)))
    else:
        bench(quick=args.quick)


def bench(*, quick: bool) -> None:
    seconds, rounds = (1.2, 1) if quick else (4.0, 2)
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bare = bare_call_ms(folder / "bare")
        servers = {"hello": start("hello", folder, "off"), "product": start("product", folder / "p", "durable"),
                   "product, no log": start("product", folder / "n", "off")}  # fmt: skip
        try:
            for _ in range(rounds):
                for clients in (1, 32, 128):
                    for row, server, kind in ROWS:
                        got = drive(kind, servers[server][1], clients, seconds)
                        runs.setdefault((row, clients), []).append(got)
        finally:
            for process, _ in servers.values():
                process.terminate()
                process.wait(10)
    report(runs, bare)


def report(runs: dict[tuple[str, int], list[dict[str, float]]], bare: float) -> None:
    figures: dict[str, float] = {"bare_model_call_ms": round(bare, 4)}
    print(f"{'what':<12}{'clients':>8}{'requests/s':>12}{'of hello':>10}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}")
    for (row, clients), got in runs.items():
        rps, p50, p99 = (statistics.median(g[k] for g in got) for k in ("rps", "p50_ms", "p99_ms"))
        share = rps / statistics.median(g["rps"] for g in runs["hello", clients])
        failed = sum(g["failed"] for g in got)
        print(f"{row:<12}{clients:>8}{rps:>12,.0f}{share:>10.1%}{p50:>9.3f}{p99:>9.3f}{failed:>8.0f}")
        key = row.replace(", ", "_").replace(" ", "_")
        figures[f"{key}_rps_{clients}"] = round(rps)
        figures[f"{key}_share_of_hello_{clients}"] = round(share, 4)
        figures[f"{key}_p50_ms_{clients}"] = round(p50, 4)
        figures[f"{key}_p99_ms_{clients}"] = round(p99, 4)
    figures["added_latency_ms_p50"] = round(figures["lr_p50_ms_1"] - bare, 4)
    figures["log_cost_share_32"] = round(1 - figures["lr_rps_32"] / figures["lr_no_log_rps_32"], 4)
    print(f"bare model call {bare:.3f} ms, added by the product at 1 client {figures['added_latency_ms_p50']:.3f} ms")
    met = {
        "lr_share_of_hello_32": figures["lr_share_of_hello_32"] >= TARGETS["lr_share_of_hello_32"],
        "added_latency_ms_p50": figures["added_latency_ms_p50"] <= TARGETS["added_latency_ms_p50"],
    }
    print(json.dumps({"bench": "serve", "figures": figures, "targets": TARGETS, "met": met}))


if __name__ == "__main__":
    main()
