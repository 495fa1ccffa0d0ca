"""Workers that die at any moment: what was acknowledged is in the log, and the torn rest of a frame is passed over."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from node_under_load import Load, Node, until


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_workers_killed_at_random_moments_lose_no_acknowledged_record(tmp_path):
    node = Node(tmp_path, workers=4)
    node.up()
    rng = random.Random(11)
    try:
        node.route()
        with Load(node, predictors=6, pushers=0) as load:
            for _ in range(50):
                load.more(20)
                time.sleep(rng.random() * 0.05)  # the random moment
                name = until(lambda: next((w for w in shuffled(rng) if node.now().children.get(w)), ""), 30)
                pid = node.now().children[name]
                os.kill(pid, signal.SIGKILL)
                until(lambda: node.now().children.get(name) != pid, 30, f"the end of {name}")  # noqa: B023
        logged = node.logged()
        assert load.refused == []
        assert load.answered.keys() - logged.keys() == set()
        assert all(logged[k].value == pytest.approx(logged[k].inputs["miles"] * 2.0) for k in load.answered)
    finally:
        node.down()


def shuffled(rng):
    names = [f"w{k}" for k in range(4)]
    rng.shuffle(names)
    return names
