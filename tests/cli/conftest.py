"""Find the helpers that the command line's and the project's tests share."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "testing_helpers"))

from project_fixtures import *  # noqa: F403 fixtures are found by name
