"""The load client, in a process of its own: closed loop for saturation, open loop for latency at a given rate.

Closed: each of N keep-alive connections asks again as soon as it was answered. Open: requests are due at times drawn
before the run from a seed (a Poisson stream, or evenly spaced), whatever the server does; a latency runs from the time
a request was *due*, so a stall costs every request that was due meanwhile (no coordinated omission). The surprise is
the wait: epoll sleeps in whole milliseconds, so the open loop waits for epoll's own descriptor in select, which does
not. How late the client itself was is part of the answer: above a few tenths of a millisecond do not believe the rest.

    python bench/load.py --quick     what the client itself can drive, against a bare uvicorn hello
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

clock = time.perf_counter_ns
WARM = 0.3  # seconds of a closed run that do not count
LAST = 5.0  # seconds that an open run waits for answers after its last request


@dataclass(frozen=True)
class Spec:
    """What is asked: bodies in turn, sent as POST to one path; `bad` are asked by clients of their own.

    An empty list of bodies means GET.
    """

    port: int
    path: str
    bodies: Sequence[str] = ()
    headers: dict[str, str] = field(default_factory=dict)
    bad: Sequence[str] = ()

    def requests(self, bodies: Sequence[str]) -> list[bytes]:
        """Return whole HTTP requests."""
        if not bodies:
            return [self._head("GET")]
        return [self._head("POST", len(b.encode())) + b.encode() for b in bodies]

    def _head(self, method: str, length: int | None = None) -> bytes:
        lines = [f"{method} {self.path} HTTP/1.1", "host: bench"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if length is not None:
            lines += ["content-type: application/json", f"content-length: {length}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Link:
    """One keep-alive connection with at most one request under way."""

    __slots__ = ("bad", "due", "left", "parts", "poll", "port", "request", "sent", "sock")

    def __init__(self, port: int, poll: select.epoll, *, bad: bool = False) -> None:
        self.port, self.poll, self.bad = port, poll, bad
        self.due = self.sent = 0
        self.parts = b""
        self.left = 0  # retries left of the request under way
        self.request = b""
        self.sock = self._connect()

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self.poll.register(sock.fileno(), select.EPOLLIN)
        return sock

    def again(self) -> None:
        """Open a new connection in place of one that the server closed."""
        self.poll.unregister(self.sock.fileno())
        self.sock.close()
        self.parts = b""
        until = time.monotonic() + 10
        while True:
            try:
                self.sock = self._connect()
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.002)
            else:
                return

    def ask(self, request: bytes, due: int, now: int) -> None:
        self.request, self.due, self.sent = request, due, now
        rest = request
        try:
            taken = self.sock.send(rest)
        except OSError:
            return  # the reader sees the closed connection
        while taken < len(rest):  # larger than the socket's buffer
            rest = rest[taken:]
            select.select((), (self.sock,), (), 1.0)
            taken = self.sock.send(rest)

    def take(self) -> bytes | None:
        """Return the answer if it is whole, b"" if the connection was closed before it was, else None."""
        try:
            got = self.sock.recv(262144)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        if not got:
            return b""
        whole = self.parts + got if self.parts else got
        if complete(whole):
            self.parts = b""
            return whole
        self.parts = whole
        return None


def complete(answer: bytes) -> bool:
    """Return whether bytes hold a whole HTTP answer, by its length or its last chunk."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = answer[:end].lower()
    at = head.find(b"content-length:")
    if at >= 0:
        stop = head.find(b"\r", at)
        return len(answer) - end - 4 >= int(head[at + 15 : stop if stop >= 0 else end])
    return answer.endswith(b"0\r\n\r\n") if b"chunked" in head else False


def closes(answer: bytes) -> bool:
    """Return whether the server said that it closes the connection."""
    return b"connection: close" in answer[: answer.find(b"\r\n\r\n")].lower()


@dataclass
class Result:
    """Counts of one run and its latencies in ms; `broken` are connections that died with a request under way."""

    rps: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    answered: int = 0
    failed: int = 0
    broken: int = 0
    retried: int = 0
    unanswered: int = 0
    late_p99_ms: float = 0.0  # of the client itself
    statuses: dict[str, int] = field(default_factory=dict)
    bad_statuses: dict[str, int] = field(default_factory=dict)

    def summary(self, latencies: list[int], seconds: float) -> Result:
        latencies.sort()
        n = len(latencies)
        self.rps = n / seconds
        if n:
            self.p50_ms, self.p99_ms = latencies[n // 2] / 1e6, latencies[min(int(n * 0.99), n - 1)] / 1e6
            self.max_ms = latencies[-1] / 1e6
        return self


def closed(
    spec: Spec, clients: int, seconds: float, *, warm: float = WARM, bad_clients: int = 0, retries: int = 0,
    on_answer: Callable[[bytes, bytes], None] | None = None, stop: Callable[[Result], bool] | None = None,
) -> Result:  # fmt: skip
    """Ask as fast as the answers come.

    Args:
        spec: What is asked.
        clients: Connections.
        seconds: After the warm-up; with `stop`, the longest time.
        warm: Seconds that do not count.
        bad_clients: Further connections that ask `spec.bad` only; their answers are counted apart.
        retries: How often a request is sent again when its connection died before any byte of an answer.
        on_answer: Called with (request, answer) of every good client.
        stop: Asked now and then with what was counted so far whether to end.
    """
    poll = select.epoll()
    good, bad = spec.requests(spec.bodies), spec.requests(spec.bad)
    links = [Link(spec.port, poll, bad=k >= clients) for k in range(clients + bad_clients)]
    found: dict[int, Link] = {link.sock.fileno(): link for link in links}
    out, latencies, turn = Result(), [], 0
    begin = now = clock()
    start, end = begin + int(warm * 1e9), begin + int((warm + seconds) * 1e9)
    for k, link in enumerate(links):
        link.left = retries
        link.ask((bad if link.bad else good)[k % len(bad if link.bad else good)], now, now)
    turn = len(links)
    while now < end and not (stop is not None and stop(out)):
        for fd, _ in poll.poll(0.5):
            link = found[fd]
            answer = link.take()
            if answer is None:
                continue
            now = clock()
            if answer == b"":
                again = _broken(link, out, now >= start)
                del found[fd]
                link.again()
                found[link.sock.fileno()] = link
                if again:
                    link.ask(link.request, link.due, now)
                    continue
            elif link.bad:
                _tally(out.bad_statuses, answer)
            else:
                if on_answer is not None:
                    on_answer(link.request, answer)
                if now >= start:
                    _tally(out.statuses, answer)
                    if answer[9:12] == b"200":
                        latencies.append(now - link.due)
                        out.answered += 1
                    else:
                        out.failed += 1
            if answer and closes(answer):
                del found[fd]
                link.again()
                found[link.sock.fileno()] = link
            turn += 1
            link.left = retries
            mine = bad if link.bad else good
            link.ask(mine[turn % len(mine)], now, now)
        now = clock()
    took = (now - start) / 1e9
    for link in links:
        link.sock.close()
    return out.summary(latencies, took)


def _broken(link: Link, out: Result, counts: bool) -> bool:
    """Count a connection that died under a request; return whether the request is sent again."""
    if link.bad:
        return False
    out.broken += 1
    if link.left > 0 and not link.parts:  # nothing was answered yet
        link.left -= 1
        out.retried += 1
        return True
    out.failed += counts
    return False


def _tally(into: dict[str, int], answer: bytes) -> None:
    status = answer[9:12].decode("ascii", "replace")
    into[status] = into.get(status, 0) + 1


def arrivals(rate: float, seconds: float, *, seed: int, even: bool = False) -> list[int]:
    """Return when requests are due, in ns from the start."""
    if even:
        return [int(k * 1e9 / rate) for k in range(int(rate * seconds))]
    rng, at, out = random.Random(seed), 0.0, []
    while (at := at + rng.expovariate(rate)) < seconds:
        out.append(int(at * 1e9))
    return out


def opened(
    spec: Spec, rate: float, seconds: float, *, clients: int = 128, seed: int = 1, even: bool = False, warm: float = 0.5
) -> Result:
    """Ask at the times drawn beforehand; a request that finds no free connection waits, and its clock runs.

    Args:
        spec: What is asked.
        rate: Requests per second.
        seconds: Length of the schedule after the warm-up.
        clients: Connections; with too few the queue is at the client, which the latencies contain.
        seed: Of the arrival times.
        even: Evenly spaced instead of Poisson.
        warm: First seconds of the schedule that do not count.
    """
    poll = select.epoll()
    requests = spec.requests(spec.bodies)
    free = [Link(spec.port, poll) for _ in range(clients)]
    links = {link.sock.fileno(): link for link in free}
    due = arrivals(rate, warm + seconds, seed=seed, even=even)
    out, latencies, late, waiting = Result(), [], [], deque[int]()
    begin = clock() + 10_000_000
    start, stop = begin + int(warm * 1e9), begin + int((warm + seconds + LAST) * 1e9)
    k, busy = 0, 0
    while k < len(due) or busy or waiting:
        now = clock()
        if now > stop:
            break
        while k < len(due) and begin + due[k] <= now:
            if free:
                late.append(now - begin - due[k])
                free.pop().ask(requests[k % len(requests)], begin + due[k], now)
                busy += 1
            else:
                waiting.append(begin + due[k])
            k += 1
            now = clock()
        pause = max(0.0, (begin + due[k] - now) / 1e9) if k < len(due) else 0.05
        if pause > 0.00002:
            select.select((poll,), (), (), min(pause, 0.05))
        for fd, _ in poll.poll(0):
            link = links[fd]
            answer = link.take()
            if answer is None:
                continue
            now = clock()
            if link.due >= start:
                if answer[9:12] == b"200":
                    latencies.append(now - link.due)
                    out.answered += 1
                else:
                    out.failed += 1
                    out.broken += answer == b""
                if answer:
                    _tally(out.statuses, answer)
            if answer == b"" or closes(answer):
                del links[fd]
                link.again()
                links[link.sock.fileno()] = link
            if waiting:
                link.ask(requests[k % len(requests)], waiting.popleft(), now)
            else:
                free.append(link)
                busy -= 1
    out.unanswered = busy + len(waiting)
    late.sort()
    out.late_p99_ms = late[int(len(late) * 0.99)] / 1e6 if late else 0.0
    for link in links.values():
        link.sock.close()
    return out.summary(latencies, seconds)


# -- in a process of its own ------------------------------------------------------------------------------------------


def drive(spec: Spec, *, how: str = "closed", wrk: bool = True, **options: Any) -> Result:
    """Run one load in a process of its own; closed loops without extras go to wrk when the machine has it."""
    if how == "closed" and wrk and shutil.which("wrk") and spec.bodies and set(options) <= {"clients", "seconds"}:
        return by_wrk(spec, **options)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"spec": asdict(spec), "options": options}, file)
        file.flush()
        command = [sys.executable, str(Path(__file__).resolve()), "--how", how, "--spec", file.name]
        limit = 60 + 4 * float(options.get("seconds", 1.0))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    if done.returncode:
        raise RuntimeError(f"the load client ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return Result(**json.loads(done.stdout))


def by_wrk(spec: Spec, *, clients: int, seconds: float) -> Result:
    """Run wrk with one thread; its percentiles are of the closed loop, as ours are."""
    bodies = ",".join("[==[" + body + "]==]" for body in spec.bodies)
    heads = "".join(f'wrk.headers["{k}"] = "{v}"\n' for k, v in spec.headers.items())
    script = (
        f'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n{heads}local bodies = {{{bodies}}}\n'
        f"local k = 0\nrequest = function() k = k % #bodies + 1; "
        f'return wrk.format("POST", "{spec.path}", nil, bodies[k]) end'
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        call = ["wrk", "-t", "1", "-c", str(clients), "-d", f"{max(1, round(seconds))}s", "--latency", "-s", file.name]
        done = subprocess.run([*call, f"http://127.0.0.1:{spec.port}{spec.path}"], capture_output=True, text=True,
                              check=True)  # fmt: skip
    text = done.stdout

    def milliseconds(name: str) -> float:
        value, unit = re.search(rf"^\s+{name}\s+([\d.]+)(us|ms|s)", text, re.MULTILINE).groups()  # type: ignore[union-attr]
        return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]

    number = re.search(r"(\d+) requests in ([\d.]+)s", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    failed = int(refused.group(1)) if refused else 0
    total, took = int(number.group(1)), float(number.group(2))  # type: ignore[union-attr]
    return Result(rps=(total - failed) / took, p50_ms=milliseconds("50%"), p99_ms=milliseconds("99%"),
                  answered=total - failed, failed=failed)  # fmt: skip


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Be the bare limit: a raw ASGI callable that answers five bytes."""
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})


def serve_hello(port: int) -> None:
    import uvicorn

    uvicorn.run(hello, port=port, loop="uvloop", http="httptools", ws="none", lifespan="off", access_log=False,
                log_level="error", server_header=False, date_header=False)  # fmt: skip


def start_hello() -> tuple[subprocess.Popen[bytes], int]:
    """Start the bare hello in a process of its own; return it and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, str(Path(__file__).resolve()), "--hello", str(port)])
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
        except OSError:
            time.sleep(0.02)
        else:
            return process, port
    raise SystemExit("the bare hello did not start within 30 s")


def self_check(quick: bool) -> None:
    """Print what the client can drive, which bounds every figure that it takes."""
    process, port = start_hello()
    figures: dict[str, float] = {}
    seconds = 1.0 if quick else 4.0
    try:
        print(f"{'what':<28}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'client late p99':>17}")
        for clients in (1, 32, 128):
            got = drive(Spec(port, "/"), clients=clients, seconds=seconds)
            figures[f"closed_rps_{clients}"] = round(got.rps)
            print(f"{f'closed, {clients} clients':<28}{got.rps:>12,.0f}{got.p50_ms:>9.3f}{got.p99_ms:>9.3f}")
        for rate in (1_000, 5_000, 10_000):
            got = drive(Spec(port, "/"), how="open", rate=rate, seconds=seconds)
            figures |= {f"open_{rate}_p50_ms": round(got.p50_ms, 3), f"open_{rate}_p99_ms": round(got.p99_ms, 3),
                        f"open_{rate}_late_p99_ms": round(got.late_p99_ms, 3)}  # fmt: skip
            print(f"{f'open, {rate:,} a second':<28}{got.rps:>12,.0f}{got.p50_ms:>9.3f}{got.p99_ms:>9.3f}"
                  f"{got.late_p99_ms:>17.3f}")  # fmt: skip
    finally:
        process.terminate()
        process.wait(10)
    print(json.dumps({"bench": "load", "figures": figures, "targets": {}, "met": {}}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--how", choices=("closed", "open"))
    parser.add_argument("--spec", type=Path)
    parser.add_argument("--hello", type=int, default=0)
    args = parser.parse_args()
    if args.hello:
        serve_hello(args.hello)
    elif args.how:
        given = json.loads(args.spec.read_text())
        run = closed if args.how == "closed" else opened
        print(json.dumps(asdict(run(Spec(**given["spec"]), **given["options"]))))
    else:
        self_check(args.quick)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
