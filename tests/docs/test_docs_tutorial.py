"""The tutorial's releases end as the page says."""

from __future__ import annotations

import re

import pytest
from docs_kit import DOCS, blocks, run_session


@pytest.mark.slow
def test_the_first_loop_promotes_one_version_and_rolls_one_back(tmp_path):
    said = run_session(blocks(DOCS / "tutorial" / "first-loop.md", "shell", "python"), tmp_path, seconds=150)
    assert "model eta: params changed" in said
    history = dict(re.findall(r"^(v\d)  +v\d  +(\w+)  ", said, re.MULTILINE))
    assert history == {"v2": "Promoted", "v3": "RolledBack"}, said
    assert re.search(r"RolledBack eta-v3-\S+ guardrail mae is breached", said), said
    assert not re.search(r"WeightsChanged eta-v3", said), said  # no caller saw it
