"""What several tests of experiments share: real data where this machine has it, and moments of plain samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flyball.experiments.fixed.shares import Count
from flyball.experiments.stats import Moments

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
HILLSTROM = SHARED / "hillstrom-email" / "hillstrom_email.parquet"
ASOS = SHARED / "asos-experiments" / "asos_experiments.parquet"
OPEN_BANDIT = SHARED / "open-bandit"


def needs(path: Path) -> pytest.MarkDecorator:
    """Skip a test where its data lies in no shared folder beside the project."""
    name = path.relative_to(SHARED).parts[0]
    return pytest.mark.skipif(not path.exists(), reason=f"{name} lies in no shared folder beside the project")


def rate(hits: int, n: int) -> Moments:
    """Return the moments of n zeros and ones."""
    return Count(int(hits), int(n)).moments if n else Moments()


def moments_of(values: np.ndarray) -> Moments:
    """Return the moments of one sample, by numpy and not by the code under test."""
    return Moments(len(values), float(values.mean()), float(((values - values.mean()) ** 2).sum()))
