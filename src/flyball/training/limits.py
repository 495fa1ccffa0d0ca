"""Threads, seeds and memory of a run.

The surprise: memory is limited by RLIMIT_DATA (private writable memory), not RLIMIT_AS, because the online store maps
far more address space than it uses.
"""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from flyball.settings import TrainingSettings

__all__ = ["THREAD_VARIABLES", "limit_process", "limited"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def limit_process(settings: TrainingSettings) -> None:
    """Limit this process for good: call it first thing in a stage child, before numpy is imported.

    The time limit is the parent's business, which ends the child.
    """
    for name in THREAD_VARIABLES:
        os.environ[name] = str(settings.threads)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = settings.memory if hard == resource.RLIM_INFINITY else min(settings.memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


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
