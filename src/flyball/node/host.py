"""Serve one model version that is not trusted in the workers' own process, behind its own limits.

Run as `python -m flyball.node.host --project P --path ARTIFACT --digest D`. It answers all workers of the node through
shared memory: while one batch runs, requests queue; the next batch takes what is there. The model runs on the main
thread, with a kernel timer set to kill this process a few seconds after the deadline of what it computes: neither a
loop that never gives the interpreter back nor a lost lock can outlive that. The surprise: a version that cannot be
loaded still gets a host. It answers every request with the reason, so that workers fall back to the champion at once
instead of waiting for a process that keeps dying.

With `--explain` the same process explains predictions instead (contributions per feature), so that a slow explanation
never stands in a prediction's way.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flyball.adapters.local.children import limit_memory
from flyball.adapters.local.confine import confine
from flyball.adapters.local.process import Beats, die_with_parent, failed, log
from flyball.adapters.local.ring import Kind
from flyball.adapters.local.ring_server import Ask, RingServer
from flyball.errors import DeadlineExceeded, FlyballError, IntegrityError

if TYPE_CHECKING:
    import numpy as np

    from flyball.layout import Layout

__all__ = ["Host", "explainer", "loader", "main", "serve"]

T = TypeVar("T")
Predict = Callable[["np.ndarray"], "np.ndarray"]
Explain = Callable[["np.ndarray", float], bytes]

_MAX_ROWS = 4096
_MAX_COLUMNS = 4096  # a larger answer would hold up the workers that read it
_GRACE = 4.0  # seconds that a batch may run beyond its deadline before the kernel ends this process
_IDLE = 5.0  # seconds between two looks at nothing
_BEAT = 1.0


class Host:
    """Queue requests and run them in batches, one at a time, on the calling thread.

    Args:
        server: Where requests come from and answers go to.
        load: Returns the model's `predict(matrix) -> array`, or None for a host that only explains.
        explain: Returns `explain(matrix, deadline) -> bytes`.
        max_rows: Rows of the largest batch.
        alarm: Sets or, with 0, stops the timer that ends this process.
    """

    def __init__(
        self,
        server: RingServer,
        load: Callable[[], Predict] | None,
        *,
        explain: Callable[[], Explain] | None = None,
        max_rows: int = _MAX_ROWS,
        alarm: Callable[[float], object] = lambda _: None,
    ) -> None:
        self._server = server
        self._load = load
        self._load_explainer = explain
        self._max_rows = max_rows
        self._alarm = alarm
        self._queue: deque[Ask] = deque()
        self._predict: Predict | None = None
        self._explain: Explain | None = None
        self._broken: FlyballError = FlyballError("this host was not made for that")
        self._ending = False
        self._late = 0.0  # when what runs now is overdue, 0 while nothing runs

    def alive(self) -> bool:
        """Whether nothing is overdue; the second lock, for a model that took the timer's signal for itself."""
        return not self._late or time.monotonic() < self._late

    def start(self) -> None:
        """Load the model; a failure is kept and told to every caller."""
        try:
            self._predict = self._load() if self._load else None
            self._explain = self._load_explainer() if self._load_explainer else None
        except (SystemExit, KeyboardInterrupt, Exception) as error:
            self._leave_if_forked()
            failed("model not loaded", error)
            kind = type(error) if isinstance(error, IntegrityError) else FlyballError
            self._broken = kind(f"the version cannot be loaded: {error or type(error).__name__}")
        self._leave_if_forked()

    def run(self) -> None:
        """Answer requests until `end`, then what is queued."""
        while not self._ending or self._queue:
            self._queue += self._server.wait(0.0 if self._queue else _IDLE)
            batch = self._take()
            if batch:
                self._answer(batch)

    def end(self, *_: object) -> None:
        """Have `run` return once the queue is empty; from any thread, or a signal's handler."""
        self._ending = True
        os.write(self._server.waker, b"e")

    def _take(self) -> list[Ask]:
        """Return what may run together: one kind, one width, at most `max_rows` unless the first alone has more."""
        now = time.monotonic()
        batch: list[Ask] = []
        rows = 0
        while self._queue and (not batch or rows + len(self._queue[0].matrix) <= self._max_rows):
            ask = self._queue[0]
            if batch and (ask.matrix.shape[1] != batch[0].matrix.shape[1] or Kind.EXPLAIN in (ask.kind, batch[0].kind)):
                break
            self._queue.popleft()
            if ask.until < now:
                self._server.fail(ask, DeadlineExceeded("the request's deadline passed while it waited"))
                continue
            batch.append(ask)
            rows += len(ask.matrix)
        return batch

    def _answer(self, batch: list[Ask]) -> None:
        """Answer a batch; where it fails, each request alone, so that a bad row fails nobody else's."""
        import numpy as np

        explain = batch[0].kind == Kind.EXPLAIN
        try:
            if explain:
                self._server.reply(batch[0], self._explained(batch[0]))
                return
            matrix = batch[0].matrix if len(batch) == 1 else np.concatenate([ask.matrix for ask in batch])
            values = self._computed(batch, matrix)
        except Exception as error:
            if len(batch) == 1:
                self._server.fail(batch[0], error)
                return
            for ask in batch:
                self._answer([ask])
            return
        at = 0
        for ask in batch:
            end = at + len(ask.matrix)
            self._server.answer(ask, values[at:end])
            at = end

    def _explained(self, ask: Ask) -> bytes:
        if self._explain is None:
            raise type(self._broken)(str(self._broken))
        explain = self._explain
        return self._guarded([ask], lambda: explain(ask.matrix, ask.until))

    def _computed(self, batch: list[Ask], matrix: np.ndarray) -> np.ndarray:
        from flyball.serving.models.outputs import numbers

        if self._predict is None:
            raise type(self._broken)(str(self._broken))
        predict = self._predict
        values = self._guarded(batch, lambda: numbers(predict(matrix)))
        if values.ndim not in (1, 2, 3) or len(values) != len(matrix):
            answered = f"{len(values)} rows" if values.ndim else "one value"
            raise FlyballError(f"the model answered {answered} to {len(matrix)}")
        if values.size > _MAX_COLUMNS * len(values):
            raise FlyballError(
                f"the model answered shape {values.shape}; at most {_MAX_COLUMNS} values a row are sent on"
            )
        return values

    def _guarded(self, batch: list[Ask], work: Callable[[], T]) -> T:
        for ask in batch:
            ask.begin()
        now = time.monotonic()
        end = max(now, *(ask.until for ask in batch)) + _GRACE
        self._late = end
        self._alarm(end - now)
        try:
            return work()
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
            raise FlyballError(f"the model raised {type(error).__name__}: {error}") from error
        finally:
            self._leave_if_forked()
            self._alarm(0.0)
            self._late = 0.0

    def _leave_if_forked(self) -> None:
        """End a process that user code forked off this one: it must not answer in its parent's name."""
        if not self._server.alive:
            os._exit(0)


def loader(path: Path, digest: str, layout: Layout) -> Callable[[], Predict]:
    """Return what loads and warms an artifact, digest checked."""

    def load() -> Predict:
        from flyball.registry.artifacts import load_version
        from flyball.registry.formats.signing import known_signing_key

        model = load_version(path, digest, signing_key=known_signing_key(layout), isolated=True)
        log("model loaded", model=model.manifest.model, version=model.manifest.version)
        return model.predict

    return load


def explainer(path: Path, digest: str, layout: Layout) -> Callable[[], Explain]:
    """Return what loads an artifact to explain its predictions; answers are msgpack of `Explained.pack()`."""

    def load() -> Explain:
        import msgspec

        from flyball.registry.artifacts import load_version
        from flyball.registry.formats.signing import known_signing_key
        from flyball.serving.contributions import Explainer

        explain = Explainer.of(load_version(path, digest, signing_key=known_signing_key(layout), isolated=True)).explain
        encode = msgspec.msgpack.Encoder().encode
        return lambda matrix, deadline: encode(explain(matrix, deadline).pack())

    return load


def serve(host: Host, server: RingServer) -> None:
    """Load, listen, answer until SIGTERM."""
    beats = Beats(alive=host.alive)
    threading.Thread(target=_beat, args=(beats,), name="beats", daemon=True).start()
    signal.signal(signal.SIGTERM, host.end)
    signal.set_wakeup_fd(server.waker, warn_on_full_buffer=False)
    host.start()
    signal.signal(signal.SIGTERM, host.end)  # a library may have taken it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    server.start()
    beats.ready()
    host.run()
    server.close()


def _beat(beats: Beats) -> None:
    while True:
        beats.beat()
        time.sleep(_BEAT)


def _alarm(seconds: float) -> None:
    """Have the kernel end this process in `seconds`; 0 takes it back."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line of `python -m flyball.node.host`."""
    from flyball.adapters.local.tables import explain_name, host_name
    from flyball.config import load

    parser = argparse.ArgumentParser(prog="flyball.node.host")
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--environment")
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--digest", required=True)
    parser.add_argument("--explain", action="store_true")
    given = parser.parse_args(arguments)
    name = explain_name(given.digest) if given.explain else host_name(given.digest)
    die_with_parent(name)
    config = load(given.project, environment=given.environment)
    limit_memory(config.settings.server.host_memory)
    path = given.path if given.path.is_absolute() else config.root / given.path
    server = RingServer(config.layout.socket(name))
    if not confine():
        log("a model here may signal the node's processes: the kernel has no filter of system calls")
    if given.explain:
        host = Host(server, None, explain=explainer(path, given.digest, config.layout), alarm=_alarm)
    else:
        host = Host(server, loader(path, given.digest, config.layout), alarm=_alarm)
    serve(host, server)
    return 0


if __name__ == "__main__":
    sys.exit(main())
