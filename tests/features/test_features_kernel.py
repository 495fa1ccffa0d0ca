from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import DefinitionError
from flyball.features.kernel.partials import PARTIAL, combine, empty, finish, fold, merge, of_values
from flyball.features.kernel.windows import LADDER, cell_of, first_cell, floor_hop, hop_for
from flyball.features.spec import Stat, Status

S = 1_000_000
_values = st.lists(st.one_of(st.floats(-1e9, 1e9), st.just(math.nan)), max_size=40)


def _close(left: np.ndarray, right: np.ndarray) -> None:
    for name in ("count", "min", "max"):
        assert (left[name] == right[name]).all(), name
    scale = np.maximum(np.abs(left["sum"]), 1.0) * 1e3
    np.testing.assert_allclose(left["sum"], right["sum"], rtol=1e-12, atol=1e-3)
    np.testing.assert_allclose(left["m2"], right["m2"], rtol=1e-9, atol=float(scale.max(initial=1.0)))


@settings(deadline=None, derandomize=True)
@given(_values, st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_merging_parts_is_folding_the_whole(values: list[float], cuts: list[int]) -> None:
    numbers = np.array(values, dtype=float)
    starts = np.sort(np.minimum([0, *cuts], len(values))).astype(np.int64)
    parts = fold(numbers, starts)
    assert parts.dtype == PARTIAL
    whole = fold(numbers, np.array([0]))
    _close(merge(parts, np.array([0])), whole)
    one_by_one = empty(1)
    for part in parts:
        one_by_one = combine(one_by_one, np.array([part]))
    _close(one_by_one, whole)
    _close(merge(of_values(numbers), np.array([0])), whole)


def test_finish_says_null_where_there_is_nothing() -> None:
    two = fold(np.array([1.0, 3.0, math.nan, 5.0]), np.array([0, 2, 2, 3]))  # two values, none, NaN only, one
    expected = {
        Stat.COUNT: ([2, 0, 0, 1], [0, 0, 0, 0]), Stat.SUM: ([4, 0, 0, 5], [0, 0, 0, 0]),
        Stat.MEAN: ([2, None, None, 5], [0, 1, 1, 0]), Stat.STD: ([math.sqrt(2), None, None, None], [0, 1, 1, 1]),
        Stat.MIN: ([1, None, None, 5], [0, 1, 1, 0]), Stat.MAX: ([3, None, None, 5], [0, 1, 1, 0]),
    }  # fmt: skip
    for stat, (values, statuses) in expected.items():
        found, status = finish(two, stat)
        assert [None if math.isnan(v) else v for v in found] == values, stat
        assert status.tolist() == statuses, stat
    assert Status.NULL == 1


def test_std_survives_a_large_offset() -> None:
    values = 1e9 + np.array([0.0, 1.0, 2.0, 3.0])
    merged = merge(fold(values, np.array([0, 2])), np.array([0]))
    assert finish(merged, Stat.STD)[0][0] == pytest.approx(np.std([0, 1, 2, 3], ddof=1), rel=1e-9)


@pytest.mark.parametrize(
    ("window", "hop"), [(48, 1), (60, 1), (3600, 60), (86_400, 1800), (7 * 86_400, 10_800), (60 * 86_400, 86_400)]
)
def test_the_hop_is_the_largest_that_fits_48_times(window: int, hop: int) -> None:
    assert hop_for(window * S) == hop * S
    assert hop * S in LADDER


@pytest.mark.parametrize(("window", "says"), [(47 * S, "too short"), (48 * S + 1, "no whole number")])
def test_other_windows_are_refused(window: int, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        hop_for(window)


@given(st.integers(-(10**6), 10**6), st.sampled_from([1, 5, 60]))
def test_cells_are_left_open_and_right_closed(event: int, hop: int) -> None:
    k = cell_of(event, hop)
    assert k * hop < event <= (k + 1) * hop


@given(st.integers(0, 10**6), st.sampled_from([1, 5, 60]))
def test_the_first_cell_begins_at_the_floored_edge(at: int, hop: int) -> None:
    assert first_cell(at, 48 * hop, hop) * hop == floor_hop(at - 48 * hop, hop)
