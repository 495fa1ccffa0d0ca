"""One child of the supervisor: spawn it, hear its beats, start it again with growing pauses.

The surprise: the first restart is immediate (a killed worker must be missed for milliseconds, not seconds); only a
child that keeps dying young waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from flyball.adapters.local.process import READY, child_environment, log

__all__ = ["Child"]

_YOUNG = 10.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
_ROTATE = 16 << 20
_KEPT = 1 << 20  # bytes kept of a log that grew to that
_LOOK = 1.0  # seconds between two looks at its size


class Child:
    """A process that is kept alive.

    Args:
        name: Names the log file and the process in run.json.
        module: Run as `python -m module`.
        arguments: Its command line.
        logs: Folder of NAME.log.
        keep: File descriptors it inherits.
        silence: Seconds without a beat, once it is ready, after which it counts as hung and is killed.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        logs: Path,
        keep: Sequence[int] = (),
        silence: float = 30.0,
    ) -> None:
        self.name = name
        self.restarts = 0
        self.ready = False
        self._command = [sys.executable, "-m", module, *arguments]
        self._log = logs / f"{name}.log"
        self._keep = tuple(keep)
        self._silence = silence
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._started = 0.0
        self._heard = 0.0
        self._next = 0.0
        self._looked = 0.0
        self._young = 0  # deaths in a row before it was ten seconds old
        self._leaving = False

    @property
    def pid(self) -> int:
        """The process id, 0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    def step(self, now: float) -> None:
        """Hear beats, reap, kill when hung, start when due; never blocks."""
        self._hear(now)
        if self._process is not None and self._ended(self._process):
            self._died(now)
        elif now - self._looked > _LOOK:
            self._looked = now
            self._shorten()
        if self._process is not None and self.ready and now - self._heard > self._silence:
            log("child hung", child=self.name, pid=self.pid, silent_s=round(now - self._heard, 1))
            self.kill()
        if self._process is None and not self._leaving and now >= self._next:
            self._start(now)

    def leave(self) -> None:
        """Ask it to finish what it does and go; it is not started again."""
        self._leaving = True
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self._signal(signal.SIGKILL)

    def gone(self) -> bool:
        """Whether it has left."""
        return self._process is None or self._ended(self._process)

    def close(self) -> None:
        """Reap and close the pipe."""
        if self._process is not None:
            self._process.wait()
            self._process = None
        self._close_pipe()

    def _start(self, now: float) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        environment = child_environment() | {READY: str(theirs)}
        self._rotate()
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
                pass_fds=(*self._keep, theirs), start_new_session=True,
            )  # fmt: skip
        os.close(theirs)
        self._pipe, self._started, self._heard, self.ready = ours, now, now, False
        log("child started", child=self.name, pid=self.pid, restarts=self.restarts)

    def _ended(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it has ended; what it started ends with it, while its number still belongs to it."""
        if process.returncode is None:
            try:
                over = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                over = None
            if over is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        return process.poll() is not None

    def _died(self, now: float) -> None:
        code = self._process.returncode if self._process is not None else 0
        lived = now - self._started
        self._young = self._young + 1 if lived < _YOUNG else 0
        pause = min(_FIRST_PAUSE * 2 ** (self._young - 2), _LONGEST_PAUSE) if self._young > 1 else 0.0
        self._next = now + pause
        self.restarts += not self._leaving
        log("child died", child=self.name, pid=self.pid, code=code, lived_s=round(lived, 2), again_in_s=pause)
        self._process = None
        self.ready = False
        self._close_pipe()

    def _hear(self, now: float) -> None:
        if self._pipe < 0:
            return
        with contextlib.suppress(BlockingIOError):
            marks = os.read(self._pipe, 4096)
            if marks:
                self._heard = now
                self.ready = self.ready or b"R" in marks

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _rotate(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._log.stat().st_size > _ROTATE:
                self._log.replace(self._log.with_suffix(".log.1"))

    def _shorten(self) -> None:
        """Keep the end of a log that grew too large while its process runs; that appends, so it goes on."""
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > _ROTATE:
                with self._log.open("rb") as file, self._log.with_suffix(".log.1").open("wb") as kept:
                    file.seek(-_KEPT, os.SEEK_END)
                    kept.write(file.read())
                    kept.write(file.read())  # what it said meanwhile
                    os.truncate(self._log, 0)

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
