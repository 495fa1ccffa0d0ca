"""What every child of the supervisor does: die with it, log structured lines, say that it is ready and alive.

The surprise: a child asks the kernel itself to be killed with its parent (prctl) and then looks whether the parent is
still the one it was told; a hook run between fork and exec would be slower and no safer. The signal belongs to the
parent *thread*, so a parent with threads starts children from one that lives as long as itself (see `children.py`).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

__all__ = ["PARENT", "READY", "Beats", "child_environment", "die_with_parent", "failed", "log", "log_to"]

PARENT = "FLYBALL_PARENT"
READY = "FLYBALL_READY_FD"
_PR_SET_PDEATHSIG = 1
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
               "VECLIB_MAXIMUM_THREADS", "ARROW_NUM_THREADS")  # fmt: skip
_name = "main"
_output: TextIO | None = None


def child_environment(*, threads: int = 1, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a child: thread pools limited, this process named as its parent."""
    environment = dict(os.environ if base is None else base)
    environment.update(dict.fromkeys(_ONE_THREAD, str(threads)))
    environment["PYTHONUNBUFFERED"] = "1"
    environment[PARENT] = str(os.getpid())
    return environment


def die_with_parent(name: str, *, sig: int = signal.SIGKILL) -> None:
    """Name this process in its log and have the kernel end it with its parent.

    Exits at once when the parent named in the environment is gone already. Without such a parent nothing happens.
    """
    global _name
    _name = name
    logging.basicConfig(handlers=[_Lines()], level=logging.INFO, force=True)
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, sig, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(1)


def log_to(path: Path) -> None:
    """Send structured lines to a file instead of stderr, which stays for a person's eyes."""
    global _output
    path.parent.mkdir(parents=True, exist_ok=True)
    _output = path.open("a", encoding="utf-8")


def log(event: str, /, **fields: Any) -> None:
    """Write one structured line to the process's log: stderr, unless `log_to` said otherwise."""
    line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "process": _name, "event": event} | fields
    try:
        output = _output or sys.stderr
        output.write(json.dumps(line, default=str) + "\n")
        output.flush()
    except OSError:
        pass  # a full disk must not stop serving


def failed(what: str, error: BaseException) -> None:
    """Write a failure with its traceback as one structured line."""
    log(what, error=f"{type(error).__name__}: {error}", traceback="".join(traceback.format_exception(error)))


class _Lines(logging.Handler):
    """Write what libraries and rooms log as the same structured lines."""

    def emit(self, record: logging.LogRecord) -> None:
        extra = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            extra["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        log(record.getMessage(), level=record.levelname.lower(), logger=record.name, **extra)


class Beats:
    """Tell the supervisor through the inherited pipe: `R` once when ready, then `B` every second while the loop turns.

    Without a supervisor (tests, a child run alone) it does nothing.
    """

    def __init__(self, *, every: float = 1.0, alive: Callable[[], bool] = lambda: True) -> None:
        self._fd = int(os.environ.pop(READY, "-1"))
        self._every = every
        self._alive = alive
        self._task: object = None  # kept, so that nobody collects it
        self._ready = False
        if self._fd >= 0:
            os.set_blocking(self._fd, False)

    def start(self) -> None:
        """Begin to beat, from the running loop."""
        import asyncio

        self._task = asyncio.get_running_loop().create_task(self._run())

    def ready(self) -> None:
        """Say once that work is accepted."""
        if not self._ready:
            self._ready = True
            self._write(b"R")
            log("ready", pid=os.getpid(), after_s=round(time.monotonic() - _STARTED, 3))

    async def _run(self) -> None:
        import asyncio

        while True:
            self.beat()
            await asyncio.sleep(self._every)

    def beat(self) -> None:
        """Give one sign of life; for who has no loop."""
        if self._alive():
            self._write(b"B")

    def _write(self, mark: bytes) -> None:
        if self._fd < 0:
            return
        try:
            os.write(self._fd, mark)
        except BlockingIOError:
            pass  # the supervisor has enough unread beats
        except OSError:
            self._fd = -1


_STARTED = time.monotonic()
_STANDARD = {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName"}
