"""The controller is killed with kill -9 while it releases a version: no transition is lost or doubled."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest
from controller_kills_kit import STORIES, Killed

from flyball.rollout.types import Phase


@pytest.mark.parametrize("story", STORIES)
def test_a_release_survives_its_controllers(tmp_path, story):
    release = Killed(tmp_path, story, np.random.default_rng(7))
    kills = release.run(most=20 if story == "good" else 10)
    release.check()
    assert kills >= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_kills_lose_and_double_nothing(tmp_path):
    rng = np.random.default_rng(11)
    kills, finished, ends = 0, 0, []
    for number, story in enumerate(cycle(STORIES)):
        release = Killed(tmp_path / str(number), story, rng)
        kills += release.run(most=min(60, 1000 - kills))
        finished += release.finished_steps
        ends.append((story, release.check()))
        if kills >= 1000:
            break
    assert kills == 1000
    assert 100 < finished < 900, "kills must fall before, during and after the steps"
    assert ("good", Phase.PROMOTED) in ends
    assert all(end is not Phase.PROMOTED for story, end in ends if story == "failing")
    assert ("failing", Phase.ROLLED_BACK) in ends
