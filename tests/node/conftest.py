"""Find the helpers that the tests of several rooms share."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "testing_helpers"))
