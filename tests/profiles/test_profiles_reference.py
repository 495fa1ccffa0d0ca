from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import InputError, IntegrityError
from flyball.profiles.profile import Profile
from flyball.profiles.reference import Reference, build_reference
from flyball.profiles.windows import window_bounds, windows_between
from flyball.units import to_micros

DAY = timedelta(days=1)
NEW_YORK = "America/New_York"


def _reference(days: float = 3.5, rows: int = 700) -> tuple[Reference, np.ndarray]:
    rng = np.random.default_rng(0)
    start = to_micros(datetime(2020, 3, 7, 5, tzinfo=UTC))  # midnight in New York, a day before clocks change
    at = start + np.sort(rng.integers(0, int(days * 86_400e6), rows))
    matrix = np.column_stack([rng.normal(size=rows), rng.integers(0, 7, rows)]).astype(float)
    shuffled = rng.permutation(rows)
    return build_reference(matrix[shuffled], ["a", "b"], at[shuffled], window=DAY, timezone=NEW_YORK), matrix


def test_windows_are_local_days_and_the_last_is_partial() -> None:
    reference, matrix = _reference()
    assert [(w.end - w.start) / timedelta(hours=1) for w in reference.windows] == [24, 23, 24, 24]
    assert [w.whole for w in reference.windows] == [True, True, True, False]
    assert reference.total.n == len(matrix) == sum(w.profile.n for w in reference.windows)


def test_the_total_is_the_profile_of_the_whole_sample() -> None:
    reference, matrix = _reference()
    whole = Profile.fold(reference.edges, matrix)
    for a, b in zip(reference.total.columns, whole.columns, strict=True):
        assert np.array_equal(a.counts, b.counts)
        assert np.array_equal(a.sums, b.sums)


def test_bytes_come_back_equal_and_are_compact() -> None:
    reference, _ = _reference()
    data = reference.to_bytes()
    again = Reference.from_bytes(data)
    assert again.to_bytes() == data
    assert again.total.same_edges(reference.total)
    assert [w.start for w in again.windows] == [w.start for w in reference.windows]
    assert len(data) < 20_000
    with pytest.raises(IntegrityError, match="no reference"):
        Reference.from_bytes(b"nonsense")


def test_a_reference_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match="needs rows"):
        build_reference(np.zeros((0, 1)), ["a"], np.zeros(0, dtype=np.int64))


@settings(max_examples=200, deadline=None)
@given(
    st.datetimes(datetime(2019, 12, 1), datetime(2021, 1, 1)),
    st.sampled_from(["1h", "6h", "5h", "1d", "2d", "7d"]),
    st.sampled_from(["UTC", NEW_YORK, "Europe/Berlin", "Asia/Kolkata"]),
)
def test_windows_hold_their_time_and_touch(at: datetime, window: str, timezone: str) -> None:
    span = {"h": timedelta(hours=1), "d": DAY}[window[-1]] * int(window[:-1])
    aware = at.replace(tzinfo=UTC)
    start, end = window_bounds(aware, span, timezone)
    assert start <= aware < end
    assert window_bounds(start, span, timezone) == (start, end)
    assert window_bounds(end, span, timezone)[0] == end
    assert window_bounds(end - timedelta(microseconds=1), span, timezone) == (start, end)


def test_windows_between_cover_both_ends() -> None:
    first, last = datetime(2020, 3, 7, 12, tzinfo=UTC), datetime(2020, 3, 10, 3, 59, tzinfo=UTC)
    assert len(windows_between(first, last, DAY, NEW_YORK)) == 3


def test_a_window_of_thirty_hours_is_refused() -> None:
    with pytest.raises(InputError, match="neither whole days"):
        window_bounds(datetime(2020, 3, 7, tzinfo=UTC), timedelta(hours=30))
