"""Threads, seeds and memory of a run."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
from threadpoolctl import threadpool_info

from flyball.adapters.local.process import child_environment
from flyball.settings import TrainingSettings
from flyball.training.limits import limited

CHILD = """
from flyball.adapters.local.children import limit_memory
limit_memory(400_000_000)
import os
import numpy as np
assert os.environ["OMP_NUM_THREADS"] == "1"
np.ones(10_000_000)
try:
    np.ones(100_000_000)
except MemoryError:
    print("refused")
"""


def test_memory_of_a_child_is_limited() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=child_environment(threads=1),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("refused\n", 0), done.stderr


def test_seeds_and_threads_hold_inside_and_are_given_back() -> None:
    random.seed(7)
    np.random.seed(7)
    before = np.random.get_state()[1][:5].tolist()
    drawn = []
    for _ in range(2):
        with limited(TrainingSettings(threads=1), 3):
            drawn.append((random.random(), float(np.random.rand())))
            assert {pool["num_threads"] for pool in threadpool_info()} <= {1}
    assert drawn[0] == drawn[1]
    assert np.random.get_state()[1][:5].tolist() == before
    assert random.random() == random.Random(7).random()
