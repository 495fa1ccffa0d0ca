"""Pairs that come after rows were compared without them: both tests together spend one level."""

from __future__ import annotations

import numpy as np

from flyball.rollout.definitions.guards import guard
from flyball.rollout.evidence.accounts.means import MeanAccount
from flyball.rollout.evidence.closed import Row

ALPHA, RUNS = 0.1, 400


def _breaches(rng: np.random.Generator) -> bool:
    """Return whether equal arms were called different: 300 rows of either arm, then 300 pairs, a look after each."""
    account = MeanAccount(guard.metric("mae", margin="0"), ALPHA)
    for k in range(300):
        values = rng.normal(size=2)
        account.observe(Row(0, 0, 0.0, float(values[0]), None))
        account.observe(Row(0, 0, 0.0, None, float(values[1])))
        if k % 10 == 9:
            account.look([])
    for k in range(300):
        values = rng.normal(size=2)
        account.observe(Row(0, 0, 0.0, float(values[0]), float(values[1])))
        if k % 10 == 9:
            account.look([])
    return bool(account._breached)


def test_equal_arms_are_called_different_within_one_level_in_all():
    rng = np.random.default_rng(5)
    share = sum(_breaches(rng) for _ in range(RUNS)) / RUNS
    assert share <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / RUNS) ** 0.5


def test_pairs_after_a_comparison_without_them_are_bound_at_what_is_left_of_the_level():
    rng = np.random.default_rng(6)
    fresh, later = (MeanAccount(guard.metric("mae", margin="1"), ALPHA) for _ in range(2))
    for _ in range(100):
        a, b = rng.normal(size=2)
        later.observe(Row(0, 0, 0.0, float(a), None))
        later.observe(Row(0, 0, 0.0, None, float(b)))
        later.look([])
    for _ in range(200):
        a, b = rng.normal(size=2)
        for account in (fresh, later):
            account.observe(Row(0, 0, 0.0, float(a), float(b)))
    assert later._bounds()[0].lower < fresh._bounds()[0].lower
    assert later._bounds()[0].upper == fresh._bounds()[0].upper, "the bound of a promotion has a level of its own"
