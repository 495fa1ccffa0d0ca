"""Replays: what agrees, how far answers moved, with intervals that hold when units come back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flyball.serving.log.replay import compare, shift_of

NAN = float("nan")


def replay(logged, new, **given):
    n = len(logged)
    rest = {
        "units": [f"u{k}" for k in range(n)], "arms": ["champion"] * n, "at": np.arange(n) * 1_800_000_000,
        "outcome": np.full(n, NAN), "errors": {}, "logged_failed": 0, "classifier": False, "tolerance": 0.0,
        "micros": np.array([1.0]), "logged_micros": np.array([2.0]),
    }  # fmt: skip
    arrays = {"logged": np.array(logged, dtype=float), "new": np.array(new, dtype=float)}
    return compare(model="m", version="v2", ids=[f"p{k}" for k in range(n)], **(rest | given), **arrays)


def test_a_version_that_answers_the_same_agrees_everywhere():
    found = replay([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (found.agreement, found.shift.mean, found.worst, found.failed, found.worse) == (1.0, 0.0, (), 0, False)


def test_failed_rows_are_counted_and_left_out_of_the_comparison():
    found = replay([1.0, 2.0, NAN], [1.5, NAN, 3.0], errors={"ValueError: x": 1}, logged_failed=1, tolerance=0.4)
    assert (found.rows, found.answered, found.failed, found.logged_failed, found.worse) == (3, 2, 1, 1, False)
    assert (found.agreement, found.difference[-1], [w.id for w in found.worst]) == (0.0, 0.5, ["p0"])


def test_the_largest_differences_are_named_first():
    found = replay([0.0, 0.0, 0.0], [0.1, -3.0, 1.0])
    assert [(w.id, w.new) for w in found.worst] == [("p1", -3.0), ("p2", 1.0), ("p0", 0.1)]


@pytest.mark.parametrize(
    ("logged", "new", "agreement", "shift"),
    [
        ([0.4, 0.6], [0.45, 0.4], 0.5, -0.075),
        ([[0.6, 0.4], [0.1, 0.9]], [[0.4, 0.6], [0.2, 0.8]], 0.5, 0.05),
        ([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], [[0.6, 0.2, 0.2], [0.1, 0.8, 0.1]], 0.5, -0.25),
    ],
)
def test_classifiers_agree_by_class_and_shift_by_probability(logged, new, agreement, shift):
    found = replay(logged, new, classifier=True)
    assert (found.agreement, found.shift.mean) == (agreement, pytest.approx(shift))


def test_both_are_measured_on_the_rows_whose_outcome_is_known():
    found = replay([1.0, 2.0, 9.0], [2.0, 2.0, 9.0], outcome=np.array([2.0, 3.0, NAN]))
    assert (found.labelled, found.metrics["mae"], found.logged_metrics["mae"]) == (2, 0.5, 1.0)


def test_parts_of_the_traffic_are_told_apart():
    found = replay([1.0, 1.0, 1.0], [1.0, 2.0, 2.0], arms=["champion", "candidate", "candidate"])
    parts = {(g.by, g.name): (g.rows, g.agreement, g.shift) for g in found.groups}
    assert parts["arm", "champion"] == (1, 1.0, 0.0)
    assert parts["arm", "candidate"] == (2, 0.0, 1.0)
    assert parts["hour (UTC)", "00"] == (2, 0.5, 0.5)


def test_one_unit_gives_no_interval():
    assert shift_of(np.array([1.0, 2.0]), ["a", "a"]).low is None
    assert shift_of(np.array([]), []).units == 0


def test_the_interval_holds_the_mean_in_95_of_100_although_units_come_back():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        sizes = rng.integers(1, 30, 120)
        effect = rng.normal(0.3, 1.0, 120)
        rows = np.repeat(effect, sizes) + rng.normal(0, 0.2, sizes.sum())
        shift = shift_of(rows, np.repeat(np.arange(120), sizes).astype(str).tolist())
        assert shift.low is not None and shift.high is not None
        covered += shift.low <= 0.3 <= shift.high
    assert (
        0.95 - 3 * math.sqrt(0.95 * 0.05 / 400) - 0.015 <= covered / 400 <= 0.99
    )  # ratio estimates run a little narrow
