"""Run other model servers beside ours: each in an environment of its own, on the same model file, one worker process.

One file per peer, `bench/peers/NAME_peer.py`, read from top to bottom: what it needs, how it is started, what it is
asked; run as a script by the peer's own Python it *is* the server. What surprises: such a file imports nothing of the
bench, so that the peer's environment holds the peer and no more.

Environments live below $BENCH_CACHE (default ~/.cache/flyball-bench) and are made once: remove the folder to make them
again. A peer that does not install or start is an Unavailable with the reason, which the caller has to print.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

HERE = Path(__file__).parent
INSTALL_S, START_S = 1800.0, 120.0
SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
QUIET = {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true",
         "DO_NOT_TRACK": "1", "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}  # fmt: skip


class Unavailable(Exception):
    """The peer cannot be measured here; the message says why, in one line."""


class Peer(Protocol):
    """What a file bench/peers/NAME_peer.py holds."""

    TITLE: str  # name and version as the table shows it
    REQUIRES: tuple[str, ...]  # for pip
    SETTINGS: tuple[str, ...]  # the ways it is run; the first is its plain one
    PATH: str  # where a prediction is asked

    def body(self, rows: list[list[float]], kind: str) -> bytes:
        """Return the request's JSON in the peer's own format."""

    def value(self, answer: bytes, kind: str) -> float:
        """Return the first row's prediction (probability of class 1, or the value)."""

    def command(self, python: str, kind: str, model: str, port: int, folder: str, setting: str) -> list[str]:
        """Return the command of one server process; may write its configuration into the folder."""


class Running(NamedTuple):
    """A peer's server that answers."""

    port: int
    pid: int
    ready_s: float


def names() -> list[str]:
    return sorted(path.name.removesuffix("_peer.py") for path in HERE.glob("*_peer.py"))


def peer(name: str) -> Peer:
    """Load a peer's definition; it needs none of the peer's packages."""
    path = HERE / f"{name}_peer.py"
    if not path.exists():
        raise SystemExit(f"no peer named {name}; there are {', '.join(names())}")
    return definition(path)  # type: ignore[no-any-return]


def definition(path: Path) -> Any:
    """Load a file of this folder by its path: no package name of the peer is in the way."""
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cache() -> Path:
    """Return the bench's scratch folder, which outlives a run and is never inside the repository."""
    folder = Path(os.environ.get("BENCH_CACHE") or Path.home() / ".cache" / "flyball-bench")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def environment(name: str, requires: tuple[str, ...]) -> Path:
    """Return the Python of the peer's environment, made at the first call and when its requirements change."""
    folder = cache() / "env" / name
    stamp, python = folder / "flyball-stamp", folder / "bin" / "python"
    digest = hashlib.sha256("\n".join(requires).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {', '.join(requires)} into an environment of its own ...", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    for command in pip_calls(str(python), requires):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
        if done.returncode:
            raise Unavailable(f"does not install: {last_line(done.stderr)}")
    stamp.write_text(digest)
    return python


def pip_calls(python: str, requires: tuple[str, ...]) -> list[list[str]]:
    """Return the pip calls: torch, when asked for, goes first, so that nothing else picks a build with CUDA."""
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch = [r for r in requires if r.startswith("torch==")]
    rest = [r for r in requires if r not in torch]
    return [[*pip, *some] for some in (torch, rest) if some]


@contextlib.contextmanager
def running(name: str, kind: str, model: Path, folder: Path, setting: str) -> Iterator[Running]:
    """Run one peer's server in a session of its own; yields when its port answers and ends all of it at the end.

    Args:
        name: The file's name without `_peer.py`.
        kind: `lr`, `hgb` or `onnx`: which model the file holds.
        model: The joblib or ONNX file that every server of the run reads.
        folder: Scratch of this server: its configuration and its output.
        setting: One of the peer's SETTINGS.
    """
    what = peer(name)
    python = environment(name, what.REQUIRES)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = what.command(str(python), kind, str(model), port, str(folder), setting)
    with launched(command, python, folder, port, what.PATH, what.body([[0.0] * 30], kind)) as server:
        yield server


@contextlib.contextmanager
def launched(command: list[str], python: Path, folder: Path, port: int, path: str, body: bytes) -> Iterator[Running]:
    """Run a command in a session of its own; yields when it answers a prediction, and ends the session at the end."""
    env = {**os.environ, **SINGLE, **QUIET, "PATH": f"{python.parent}:{os.environ.get('PATH', '')}"}
    env.pop("PYTHONPATH", None)  # ours
    begin = time.monotonic()
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output, start_new_session=True)
        try:
            wait_ready(process, port, folder / "output.txt", path, body)
            yield Running(port, process.pid, time.monotonic() - begin)
        finally:
            end_session(process)


def wait_ready(process: subprocess.Popen[bytes], port: int, output: Path, path: str, body: bytes) -> None:
    """Wait until a prediction is answered with 200: an open port alone may have no model behind it."""
    until, told = time.monotonic() + START_S, "nothing"
    while time.monotonic() < until:
        if process.poll() is not None:
            raise Unavailable(f"ended with {process.returncode} at its start: {reason(output)}")
        try:
            answer = ask(port, path, body)
        except OSError as error:
            told = str(error)
        else:
            if answer.status == 200:
                return
            told = f"status {answer.status} {answer.body[:200]!r}"
        time.sleep(0.1)
    raise Unavailable(f"did not answer within {START_S:.0f} s ({told}): {reason(output)}")


class Answer(NamedTuple):
    status: int
    body: bytes


def ask(port: int, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    """Send one POST of JSON and read the whole answer."""
    import http.client

    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        link.request("POST", path, body, {"content-type": "application/json", **(headers or {})})
        got = link.getresponse()
        return Answer(got.status, got.read())
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        link.close()


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End the session that we started: politely, then for good. Its members are ours, whoever started them inside."""
    import signal

    for how, patience in ((signal.SIGTERM, 8.0), (signal.SIGKILL, 5.0)):
        members = of_session(process.pid)
        for pid in members:
            try:
                os.kill(pid, how)
            except ProcessLookupError:
                continue
        until = time.monotonic() + patience
        while time.monotonic() < until and of_session(process.pid):
            process.poll()
            time.sleep(0.05)
    process.wait(5)


def of_session(session: int) -> list[int]:
    """Return the live processes of one session, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue
            if int(owner) == session and state != "Z":
                found.append(int(entry.name))
    return found


def listens(port: int) -> bool:
    """Return whether somebody takes connections on a loopback port."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error", line, re.IGNORECASE)]
    return (errors or lines or ["no message"])[-1].strip()[:200]


def reason(output: Path) -> str:
    return last_line(output.read_text(errors="replace"))
