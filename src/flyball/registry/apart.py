"""An MLflow folder answered by a child process, because it must not be opened in this one.

Run as `python -m flyball.registry.apart FOLDER NAMES`, it loads the model and answers matrices on its standard input
with matrices on its standard output. The surprise: what the model prints goes to standard error, because the
child keeps its real output to itself.
"""

from __future__ import annotations

import io
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import IO, Any

import numpy as np

from flyball.errors import FlyballError, Unavailable
from flyball.registry.rows import read_rows

__all__ = ["Apart", "main"]

_HEAD = struct.Struct("<BQ")
_OK, _FAILED = 0, 1
_START = 120.0  # seconds to load the model
_LARGEST = 2**32


class Apart:
    """Predict in a child process that is started by the first call and ends with this object.

    Args:
        folder: What MLflow's save_model wrote; the caller has compared it with its digests.
        names: Columns of the matrices.
        patience: Seconds one call may take.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], *, patience: float = 60.0) -> None:
        self._command = [sys.executable, "-m", "flyball.registry.apart", str(folder), json.dumps(names)]
        self._place = f"{folder.parent.parent.name} {folder.parent.name}"
        self._patience = patience
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Return the child's answer to a float64 matrix.

        Raises:
            FlyballError: the model failed, with its cause.
            Unavailable: the child died or gave no answer in time.
        """
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._start()
            assert self._child is not None
            try:
                return self._exchange(self._child, _pack(matrix), self._patience)
            except (OSError, Unavailable) as error:
                end(self._child)
                raise Unavailable(f"the process that answers for {self._place} is gone: {error}") from error

    def _start(self) -> None:
        self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        weakref.finalize(self, end, self._child)
        assert self._child.stdout is not None
        status, body = _receive(self._child.stdout, time.monotonic() + _START)
        if status != _OK:
            raise FlyballError(f"the version cannot be loaded: {body.decode()}")

    def _exchange(self, child: subprocess.Popen[bytes], data: bytes, patience: float) -> np.ndarray:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(_HEAD.pack(_OK, len(data)) + data)
        child.stdin.flush()
        status, body = _receive(child.stdout, time.monotonic() + patience)
        if status != _OK:
            raise FlyballError(body.decode())
        return _unpack(body)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child and its pipes."""
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what it had not read yet cannot be flushed any more
                pass
    child.wait()


def main(arguments: list[str]) -> int:
    """Load a version and answer until the input ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        from flyball.registry.formats import pyfunc

        predict = pyfunc.load(Path(arguments[0]), tuple(json.loads(arguments[1]))).predict
    except Exception as error:
        _send(out, _FAILED, f"{type(error).__name__}: {error}".encode())
        return 1
    _send(out, _OK, b"")
    while head := sys.stdin.buffer.read(_HEAD.size):
        _, length = _HEAD.unpack(head)
        matrix = _unpack(sys.stdin.buffer.read(length))
        try:
            _send(out, _OK, _pack(predict(matrix)))
        except Exception as error:
            _send(out, _FAILED, f"{type(error).__name__}: {error}".encode())
    return 0


def _send(pipe: IO[bytes], status: int, body: bytes) -> None:
    pipe.write(_HEAD.pack(status, len(body)) + body)
    pipe.flush()


def _receive(pipe: IO[bytes], until: float) -> tuple[int, bytes]:
    status, length = _HEAD.unpack(_read(pipe, _HEAD.size, until))
    if length > _LARGEST:
        raise Unavailable(f"it announced an answer of {length} bytes")
    return status, _read(pipe, length, until)


def _read(pipe: IO[bytes], size: int, until: float) -> bytes:
    """Read exactly `size` bytes below the pipe's buffer, which is never used, so that waiting can end."""
    parts: list[bytes] = []
    while size:
        ready, _, _ = select.select([pipe], [], [], max(until - time.monotonic(), 0.0))
        part = os.read(pipe.fileno(), min(size, 1 << 20)) if ready else b""
        if not part:
            raise Unavailable("it ended" if ready else "it gave no answer in time")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _pack(matrix: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(matrix), allow_pickle=False)
    return out.getvalue()


def _unpack(body: bytes) -> np.ndarray:
    return read_rows(io.BytesIO(body))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
