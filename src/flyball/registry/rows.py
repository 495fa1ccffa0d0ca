"""Read the arrays of an artifact, from any number of threads at once.

The surprise is CPython's: numpy parses an array's header as Python source, and until 3.12 two threads that do so at the
same time may fail with a SystemError. Models are loaded on threads, so one of them reads at a time.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np

__all__ = ["read_rows"]

_one = threading.Lock()


def read_rows(source: Path | BinaryIO) -> np.ndarray:
    """Return the array of a .npy file, or of an open one; never an object that would have to be unpickled.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no array, or one of objects.
    """
    with _one:
        return np.asarray(np.load(source, allow_pickle=False))
