"""The demo's trips are the source's trips."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from flyball.demo import releases, trips
from flyball.errors import DefinitionError
from flyball.templates import write_template


@pytest.fixture(scope="module")
def march() -> trips.Trips:
    return trips.read(date(2020, 3, 7), date(2020, 3, 10))


def test_trips_are_sorted_by_pickup_and_of_the_days_asked_for(march):
    assert (np.diff(march.pickup) >= 0).all()
    assert set(np.unique(march.day).astype(str)) == {"2020-03-07", "2020-03-08", "2020-03-09"}


def test_the_clock_change_costs_an_hour(march):
    first, last = trips.first_tick(date(2020, 3, 8)), trips.first_tick(date(2020, 3, 9))
    assert last - first == 23 * 3_600_000_000


def test_dirty_trips_are_there_but_not_accepted(march):
    miles = np.array([row["distance_miles"] for row in march.raw])
    assert (miles == 0).sum() > 100
    assert not march.accepted[miles == 0].any()
    assert 0.9 < march.accepted.mean() < 0.97


def test_shifted_trips_keep_their_local_times(march):
    moved = trips.read(date(2020, 3, 7), date(2020, 3, 10), shift=timedelta(days=14))
    assert moved.raw[0]["pickup_at"].replace("-21T", "-07T") == march.raw[0]["pickup_at"]
    assert (moved.minutes[moved.accepted] > 0).all()


def test_history_ends_at_local_midnight(tmp_path):
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    target = tmp_path / "data" / "history.parquet"
    rows = trips.write_history(target, date(2020, 3, 2))
    table = pq.read_table(target)
    assert rows == table.num_rows > 10_000
    assert pc.max(table.column("dropoff_at")).as_py().isoformat() < "2020-03-02"


@pytest.mark.parametrize("changes", [releases.KILOMETRES, releases.RARE_ZONES])
def test_a_bad_release_is_an_edit_that_still_compiles(tmp_path, changes):
    write_template("eta", tmp_path, data=False)
    path = tmp_path / "definitions.py"
    before = path.read_text()
    assert releases.edit(path, changes) == before
    compile(path.read_text(), str(path), "exec")
    assert path.read_text() != before


def test_an_edit_that_does_not_fit_says_so(tmp_path):
    path = tmp_path / "definitions.py"
    path.write_text("nothing")
    with pytest.raises(DefinitionError, match="no longer holds"):
        releases.edit(path, releases.KILOMETRES)
