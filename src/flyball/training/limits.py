"""Threads and seeds of user code within a run. Memory and time are limits of the child process that runs it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from flyball.settings import TrainingSettings

__all__ = ["limited"]


@contextmanager
def limited(settings: TrainingSettings, seed: int) -> Iterator[None]:
    """Run a block with the settings' number of threads and fixed seeds, restoring both afterwards."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    python, legacy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with threadpool_limits(limits=settings.threads):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
