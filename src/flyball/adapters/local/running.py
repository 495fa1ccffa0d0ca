"""What other processes may know about a running node: the lock, run.json, and how to start and stop one.

The surprise: whether a node runs is decided by a file lock, not by a pid in a file: the kernel lets go of it however
the supervisor ends, so nothing stale can ever refuse a start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flyball.adapters.local.process import PARENT
from flyball.errors import DeadlineExceeded, Refused, Unavailable
from flyball.layout import Layout

if TYPE_CHECKING:  # `flyball status` reads run.json and starts nothing
    import socket
    import subprocess

__all__ = ["Running", "bind", "lock", "read_running", "start", "stop", "wait_ready"]


@dataclass(frozen=True, slots=True)
class Running:
    """A node that serves: run.json. `started` is epoch seconds; `children` maps names to pids."""

    pid: int
    host: str
    port: int
    control_host: str
    control_port: int
    started: float
    workers: int = 1
    children: dict[str, int] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    tls: bool = False  # of the gateway

    @property
    def url(self) -> str:
        """Where the gateway answers."""
        return f"http{'s' if self.tls else ''}://{self.host}:{self.port}"

    @property
    def control_url(self) -> str:
        """Where the admin API answers."""
        return f"http://{self.control_host}:{self.control_port}"


def read_running(layout: Layout) -> Running | None:
    """Return the node that runs and is ready, or None; a file left by a dead supervisor counts as none."""
    try:
        running = msgspec.json.decode((layout.state / "run.json").read_bytes(), type=Running)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return running if _locked(layout) else None


def wait_ready(layout: Layout, timeout: float = 60.0, *, process: subprocess.Popen[bytes] | None = None) -> Running:
    """Wait until the node answers and return what it is.

    Args:
        layout: The project's paths.
        timeout: Seconds.
        process: The supervisor when we started it: its death ends the wait.

    Raises:
        Unavailable: the supervisor died first.
        DeadlineExceeded: not ready in time.
    """
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        running = read_running(layout)
        if running is not None and (process is None or running.pid == process.pid):
            return running
        if process is not None and process.poll() is not None:
            raise Unavailable(_last_words(layout, process.returncode))
        time.sleep(0.02)
    logs = layout.state / "logs"
    raise DeadlineExceeded(f"the node was not ready within {timeout:.0f} s; look into {logs} for the cause")


def start(project: Path, layout: Layout, *, environment: str | None = None, timeout: float = 60.0) -> Running:
    """Start a supervisor in the background that outlives this process, and wait until it is ready.

    Args:
        project: The project's folder or its flyball.toml.
        layout: The project's paths.
        environment: The overlay to use.
        timeout: Seconds to wait.

    Raises:
        Unavailable: it could not start; the sentence says why.
        DeadlineExceeded: not ready in time (the supervisor is ended again).
    """
    import subprocess

    logs = layout.state / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "flyball.node.supervisor", "--project", str(project)]
    if environment is not None:
        command += ["--environment", environment]
    with (logs / "start.log").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name != PARENT},
        )
    try:
        return wait_ready(layout, timeout, process=process)
    except DeadlineExceeded:
        process.terminate()
        process.wait(10)
        raise


def stop(layout: Layout, *, timeout: float = 20.0) -> bool:
    """End the running node gracefully; return whether one ran.

    Raises:
        DeadlineExceeded: it still runs after `timeout` seconds.
    """
    pid = _owner(layout)
    if not pid or not _locked(layout):
        return False
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + timeout
    while _locked(layout):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > until:
            raise DeadlineExceeded(
                f"the node (pid {pid}) did not end within {timeout:.0f} s; end it with: kill -9 {pid}"
            )
        time.sleep(0.02)
    return True


def lock(layout: Layout) -> int:
    """Take the node's lock and return its descriptor; keep it open as long as the node runs.

    Raises:
        Refused: a node of this project runs already.
    """
    layout.state.mkdir(parents=True, exist_ok=True)
    fd = os.open(layout.state / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
    if not _take(fd):
        os.close(fd)
        running = read_running(layout)
        where = f"pid {running.pid}, {running.url}" if running else f"pid {_owner(layout)}, still starting"
        raise Refused(f"this project runs already ({where}); stop it first with Ctrl-C or: kill {_owner(layout)}")
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def bind(host: str, port: int, *, setting: str, patience: float = 2.0) -> socket.socket:
    """Return a listening socket; port 0 takes any free one.

    `patience`: seconds to try again, because children of a killed supervisor need a moment to let go.

    Raises:
        Unavailable: the port is in use, or the address is not ours.
    """
    import socket

    until = time.monotonic() + patience
    while True:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(2048)
        except OSError as error:
            sock.close()
            if time.monotonic() >= until:
                raise Unavailable(
                    f"cannot listen on {host}:{port} ({os.strerror(error.errno or 0).lower()}); stop what uses it, or "
                    f"choose another port with: flyball config set {setting} PORT"
                ) from error
            time.sleep(0.05)
        else:
            sock.setblocking(False)
            return sock


def _take(fd: int) -> bool:
    for _ in range(20):  # somebody may be looking whether the lock is held, which takes it for an instant
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return True
    return False


def _owner(layout: Layout) -> int:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((layout.state / "run.lock").read_text())
    return 0


def _locked(layout: Layout) -> bool:
    try:
        fd = os.open(layout.state / "run.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def _last_words(layout: Layout, code: int) -> str:
    with contextlib.suppress(OSError):
        for line in reversed((layout.state / "logs" / "start.log").read_text().splitlines()):
            if line.startswith("flyball: "):
                return line.removeprefix("flyball: ")
    return f"the supervisor ended with code {code}; look into {layout.state / 'logs' / 'supervisor.log'} for the cause"
