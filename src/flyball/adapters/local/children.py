"""Run a training run's stages in a child process with its own limits.

The surprise: children are started from one thread that lives as long as this process. The kernel's "die with your
parent" means the parent *thread*; from a worker thread of a pool that shrinks, a child would be killed for nothing.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from flyball.adapters.local.process import child_environment

__all__ = ["StageChild", "run_stages", "spawn", "spawn_delivery"]

_spawner: ThreadPoolExecutor | None = None
_spawner_lock = threading.Lock()


@dataclass(slots=True)
class StageChild:
    """A running child. `error` holds what it said last when it failed."""

    run: str
    log: Path
    process: subprocess.Popen[bytes]
    until: float
    timed_out: bool = field(default=False)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def poll(self) -> int | None:
        """Return the exit code, None while it runs; ends it when its time is over."""
        code = self.process.poll()
        if code is None and time.monotonic() > self.until:
            self.timed_out = True
            self.kill()
            code = self.process.wait()
        return code

    def wait(self, *, each: Callable[[], None] | None = None, pause: float = 0.02) -> int:
        """Wait for the exit code, calling `each` now and then."""
        while (code := self.poll()) is None:
            if each is not None:
                each()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(pause)
        return code

    def kill(self) -> None:
        """End it and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def error(self) -> str:
        """Return one sentence on why it failed."""
        code = self.process.poll()
        if self.timed_out:
            return f"run {self.run} took longer than its time limit; raise training.timeout or train on less"
        with contextlib.suppress(OSError):
            for line in reversed(self.log.read_text(errors="replace").splitlines()):
                if line.startswith("flyball: "):
                    return line.removeprefix("flyball: ")
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"run {self.run} was ended by {name}; resume it with: flyball run --run {self.run}"
        return f"run {self.run} ended with code {code}; its log is {self.log}"


def spawn(
    project: Path,
    run: str,
    log: Path,
    *,
    stage: str | None = None,
    environment: str | None = None,
    threads: int = 1,
    memory: int = 0,
    timeout: timedelta = timedelta(minutes=30),
) -> StageChild:
    """Start `python -m flyball.node.stage` for a run and return at once.

    Args:
        project: The project's folder or its flyball.toml.
        run: The run's id.
        log: File that takes what the child prints, appended.
        stage: One stage alone; None runs all that are due.
        environment: The overlay to use.
        threads: Size of the child's thread pools.
        memory: Bytes of private memory, 0 for no limit.
        timeout: Its time limit, looked at by `poll` and `wait`.
    """
    command = [sys.executable, "-m", "flyball.node.stage", "--project", str(project), "--run", run]
    command += ["--stage", stage] if stage else []
    command += ["--environment", environment] if environment else []
    command += ["--memory", str(memory)] if memory else []
    log.parent.mkdir(parents=True, exist_ok=True)
    return _from_spawner(lambda: StageChild(run, log, _popen(command, log, threads), _until(timeout)))


def spawn_delivery(
    project: Path, log: Path, *, environment: str | None = None, timeout: timedelta = timedelta(minutes=2)
) -> StageChild:
    """Start `python -m flyball.node.deliver`, which empties the outbox and ends; return at once."""
    command = [sys.executable, "-m", "flyball.node.deliver", "--project", str(project)]
    command += ["--environment", environment] if environment else []
    log.parent.mkdir(parents=True, exist_ok=True)
    return _from_spawner(lambda: StageChild("delivery", log, _popen(command, log, 1), _until(timeout)))


def run_stages(child: StageChild, *, each: Callable[[], None] | None = None) -> None:
    """Wait for a child and raise when it failed.

    Raises:
        StageFailed: with the child's own sentence.
    """
    from flyball.errors import StageFailed

    if child.wait(each=each) not in {0, 1}:  # 1: the gate refused, which the run's record says
        raise StageFailed(child.error())


def limit_memory(size: int) -> None:
    """Limit the calling process's private memory to `size` bytes (0 for none); beyond it MemoryError is raised.

    The limit is RLIMIT_DATA, not RLIMIT_AS, because the online store maps far more address space than it uses.
    """
    if size > 0:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def _until(timeout: timedelta) -> float:
    return time.monotonic() + timeout.total_seconds()


def _popen(command: Sequence[str], log: Path, threads: int) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env=child_environment(threads=threads),
        )  # fmt: skip


def _from_spawner(work: Callable[[], StageChild]) -> StageChild:
    global _spawner
    with _spawner_lock:
        if _spawner is None:
            _spawner = ThreadPoolExecutor(1, thread_name_prefix="spawner")
    return _spawner.submit(work).result()
