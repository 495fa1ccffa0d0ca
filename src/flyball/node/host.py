"""Serve one model version that is not trusted in the workers' own process, behind its own limits.

Run as `python -m flyball.node.host --project P --path ARTIFACT --digest D`. It answers `predict` on a unix socket to
all workers of the node: while one batch runs, requests queue; the next batch takes what is there. The surprise: a
version that cannot be loaded still gets a host. It answers every request with the reason, so that workers fall back to
the champion at once instead of waiting for a process that keeps dying.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball.adapters.local.children import limit_memory
from flyball.adapters.local.ipc import Call, Server, pack_matrix, unpack_matrix
from flyball.adapters.local.process import Beats, die_with_parent, failed, log
from flyball.errors import DeadlineExceeded, FlyballError, IntegrityError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from flyball.layout import Layout

__all__ = ["Host", "main"]

_MAX_ROWS = 4096
_MAX_COLUMNS = 4096  # a larger answer would hold up the workers that read it
_STUCK = 8.0


@dataclass(slots=True)
class _Waiting:
    matrix: np.ndarray
    until: float
    answer: asyncio.Future[np.ndarray]


class Host:
    """Queue predict requests and run them in batches on one thread.

    Args:
        load: Returns the model's `predict(matrix) -> array`; called once, on the thread.
        max_rows: Rows of the largest batch.
    """

    def __init__(self, load: Callable[[], Callable[[np.ndarray], np.ndarray]], *, max_rows: int = _MAX_ROWS) -> None:
        self._load = load
        self._max_rows = max_rows
        self._queue: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._predict: Callable[[np.ndarray], np.ndarray] | None = None
        self._broken: FlyballError = Unavailable("the model is still being loaded")
        self._busy_since = 0.0

    async def start(self) -> None:
        """Load the model; a failure is kept and told to every caller."""
        loop = asyncio.get_running_loop()
        try:
            self._predict = await loop.run_in_executor(self._thread, self._load)
        except Exception as error:
            failed("model not loaded", error)
            kind = type(error) if isinstance(error, IntegrityError) else FlyballError
            self._broken = kind(f"the version cannot be loaded: {error or type(error).__name__}")
        self._task = loop.create_task(self._run())

    def alive(self) -> bool:
        """Whether no batch has been stuck for long; when one has, the supervisor hears no beats and restarts us."""
        return not self._busy_since or time.monotonic() - self._busy_since < _STUCK

    async def predict(self, body: list[Any], _: Call) -> list[Any]:
        """Answer one request: [shape, bytes, monotonic deadline] -> [shape, bytes]."""
        if self._predict is None:
            raise type(self._broken)(str(self._broken))
        shape, data, until = body
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(unpack_matrix([shape, data]), until, answer))
        self._wake.set()
        return pack_matrix(await answer)

    async def info(self, _: Any, __: Call) -> dict[str, Any]:
        """Say how it is."""
        return {"pid": os.getpid(), "loaded": self._predict is not None, "queued": len(self._queue)}

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch = self._take()
            if not self._queue:
                self._wake.clear()
            if batch:
                await self._answer(batch)

    def _take(self) -> list[_Waiting]:
        now = time.monotonic()
        batch: list[_Waiting] = []
        rows = 0
        while self._queue and (not batch or rows + len(self._queue[0].matrix) <= self._max_rows):
            waiting = self._queue.pop(0)
            if waiting.until < now:
                waiting.answer.set_exception(DeadlineExceeded("the request's deadline passed while it waited"))
                continue
            if batch and waiting.matrix.shape[1:] != batch[0].matrix.shape[1:]:
                self._queue.insert(0, waiting)
                break
            batch.append(waiting)
            rows += len(waiting.matrix)
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        import numpy as np

        try:
            matrix = batch[0].matrix if len(batch) == 1 else np.concatenate([w.matrix for w in batch])
            values = await self._compute(matrix)
        except Exception as error:
            await self._apart(batch, error)
            return
        at = 0
        for waiting in batch:
            end = at + len(waiting.matrix)
            if not waiting.answer.done():
                waiting.answer.set_result(values[at:end])
            at = end

    async def _apart(self, batch: list[_Waiting], error: Exception) -> None:
        if len(batch) > 1:
            for waiting in batch:
                await self._answer([waiting])
            return
        told = error if isinstance(error, FlyballError) else FlyballError(f"{type(error).__name__}: {error}")
        if not batch[0].answer.done():
            batch[0].answer.set_exception(told)

    async def _compute(self, matrix: np.ndarray) -> np.ndarray:
        from flyball.serving.batcher import numbers

        assert self._predict is not None
        self._busy_since = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            values = numbers(await loop.run_in_executor(self._thread, self._predict, matrix))
        finally:
            self._busy_since = 0.0
        if len(values) != len(matrix):
            raise FlyballError(f"the model answered {len(values)} rows to {len(matrix)}")
        if values.size > _MAX_COLUMNS * len(values):
            raise FlyballError(
                f"the model answered shape {values.shape}; at most {_MAX_COLUMNS} values a row are sent on"
            )
        return values


def loader(path: Path, digest: str, layout: Layout) -> Callable[[], Callable[[np.ndarray], np.ndarray]]:
    """Return what loads and warms an artifact, digest checked."""

    def load() -> Callable[[np.ndarray], np.ndarray]:
        from flyball.registry.artifacts import load_version

        key = layout.signing_key.read_bytes() if layout.signing_key.exists() else b""
        model = load_version(path, digest, signing_key=key)
        log("model loaded", model=model.manifest.model, version=model.manifest.version)
        return model.predict

    return load


async def run(host: Host, socket: Path) -> None:
    """Serve until SIGTERM."""
    beats = Beats(alive=host.alive)
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    beats.start()
    await host.start()
    server = Server(socket, {"predict": host.predict, "info": host.info}, failed=failed)
    await server.start()
    beats.ready()
    await ending.wait()
    await server.close()


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line of `python -m flyball.node.host`."""
    from flyball.adapters.local.tables import host_name
    from flyball.config import load

    parser = argparse.ArgumentParser(prog="flyball.node.host")
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--environment")
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--digest", required=True)
    given = parser.parse_args(arguments)
    name = host_name(given.digest)
    die_with_parent(name)
    config = load(given.project, environment=given.environment)
    limit_memory(config.settings.server.host_memory)
    path = given.path if given.path.is_absolute() else config.root / given.path
    asyncio.run(run(Host(loader(path, given.digest, config.layout)), config.layout.socket(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
