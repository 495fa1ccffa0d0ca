"""Opening projects, and their features: history, online, push, materialize, scoring."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import project_kit as kit
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flyball as fb
from flyball.errors import ConfigError, InputError, UnknownName
from flyball.project import Project

NAMES = ["traffic"]


def requests(zones: list[int], at: object) -> pa.Table:
    return pa.table({"zone": zones, "at": pa.array([at] * len(zones), pa.timestamp("us", tz="UTC"))})


def one_trip(zone: int, minutes: float = 10.0, *, ended: timedelta = timedelta(minutes=1)) -> dict:
    """Return a trip that ended shortly before NOW."""
    end = kit.NOW - ended
    begun = end - timedelta(minutes=minutes)
    return {"zone": zone, "distance": 2.0, "pickup_at": begun.isoformat(), "dropoff_at": end.isoformat()}


def test_a_project_opens_by_its_folder_and_by_its_file(small):
    with Project.open(small) as by_folder, Project.open(small / "flyball.toml") as by_file:
        assert by_folder.root == by_file.root
        assert repr(by_folder).startswith("Project('small'")


def test_open_names_the_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"flyball\.toml"):
        Project.open(tmp_path)


def test_an_environment_overlays_the_file(small):
    with Project.open(small) as plain, Project.open(small, environment="production") as overlaid:
        assert (plain.settings.server.port, overlaid.settings.server.port) == (18080, 9000)
        assert "production" in overlaid.config.origin("server.port")


def test_a_temporary_project_takes_its_state_away(tmp_path):
    project = kit.temporary(tmp_path)
    project.apply()
    state = project.layout.state
    assert state.exists()
    project.close()
    assert not state.exists()


def test_history_equals_online_at_the_same_time(temp):
    temp.apply()
    zones = [1, 2, 3, 4, 5, 6, 99]
    past = temp.features.history(requests(zones, kit.NOW), NAMES, at="at").to_arrow()
    online = temp.features.online([{"zone": z} for z in zones], NAMES, at=kit.NOW)
    assert past["trips_1h"].to_pylist() == [row["trips_1h"] for row in online.to_dicts()]
    np.testing.assert_allclose(
        past["minutes_24h"].to_numpy(), [row["minutes_24h"] for row in online.to_dicts()], rtol=1e-12
    )
    assert [s["trips_1h"].name for s in online.status()][-1] == "MISSING"


def test_pushed_rows_are_online_and_in_history_afterwards(temp):
    temp.apply()
    before = temp.features.online([{"zone": 77}], NAMES).to_dicts()[0]["trips_1h"]
    result = temp.features.push("trips", [one_trip(77), one_trip(77, minutes=20.0), one_trip(77, minutes=600.0)])
    after = temp.features.online([{"zone": 77}], NAMES).to_dicts()[0]
    past = temp.features.history(requests([77], kit.NOW), NAMES, at="at").to_arrow()
    assert (before, result.accepted, result.rejected) == (0, 2, 1)
    assert (after["trips_1h"], after["minutes_24h"]) == (2, 15.0)
    assert past["trips_1h"].to_pylist() == [2] and past["minutes_24h"].to_pylist() == [15.0]


def test_a_bad_row_refuses_the_whole_push_and_keeps_nothing(temp):
    temp.apply()
    with pytest.raises(InputError, match="dropoff_at"):
        temp.features.push("trips", [one_trip(77), {"zone": 77, "distance": 1.0}])
    assert temp.features.online([{"zone": 77}], NAMES).to_dicts()[0]["trips_1h"] == 0


def test_pushed_rows_survive_the_process(trained):
    with Project.open(trained) as project:
        project.features.push("trips", [one_trip(77)])
    with Project.open(trained) as project:
        assert project.features.online([{"zone": 77}], NAMES).to_dicts()[0]["trips_1h"] == 1


def test_materialize_full_gives_what_was_there(temp):
    temp.apply()
    zones = [{"zone": z} for z in range(1, 7)]
    before = temp.features.online(zones, NAMES).to_dicts()
    done = temp.features.materialize("traffic", full=True)
    assert done.keys == 6 and done.rows > 0
    assert temp.features.online(zones, NAMES).to_dicts() == before


def write_trip(folder: Path, zone: int, ended: datetime) -> None:
    """Add a file with one trip of ten minutes."""
    end = ended.replace(tzinfo=None)
    row = {"zone": zone, "distance": 2.0, "pickup_at": end - timedelta(minutes=10), "dropoff_at": end}
    schema = pq.read_schema(folder / "data" / "trips.parquet")
    pq.write_table(pa.Table.from_pylist([row], schema=schema), folder / "data" / f"zz-{zone}.parquet")


def test_materialize_takes_newer_rows_of_new_files_in(small):
    with Project.open(small) as project:
        project.apply()
        write_trip(small, 88, kit.NOW + timedelta(minutes=5))
        project.clock.set(kit.NOW + timedelta(minutes=10))
        before = project.features.online([{"zone": 88}], NAMES).to_dicts()[0]["trips_1h"]
        assert project.features.materialize("traffic").rows >= 1
        assert (before, project.features.online([{"zone": 88}], NAMES).to_dicts()[0]["trips_1h"]) == (0, 1)
        assert project.features.materialize("traffic").rows == 0


def test_rows_of_a_file_whose_time_is_still_to_come_land_when_it_has_come(small):
    with Project.open(small) as project:
        project.apply()
        write_trip(small, 88, kit.NOW + timedelta(minutes=5))
        project.features.materialize("traffic")
        before = project.features.online([{"zone": 88}], NAMES).to_dicts()[0]["trips_1h"]
        project.clock.set(kit.NOW + timedelta(minutes=20))
        project.features.materialize("traffic")
        assert (before, project.features.online([{"zone": 88}], NAMES).to_dicts()[0]["trips_1h"]) == (0, 1)
        asked = pa.table({"zone": [88, 88], "T": [kit.NOW + timedelta(minutes=m) for m in (4, 20)]})
        assert project.features.history(asked, NAMES, at="T").to_arrow().column("trips_1h").to_pylist() == [0, 1]


def test_late_rows_of_new_files_land_and_history_knows_them_from_their_publication_on(small):
    with Project.open(small) as project:
        project.apply()
        write_trip(small, 88, kit.NOW - timedelta(minutes=5))
        project.clock.set(kit.NOW + timedelta(minutes=20))
        assert project.features.materialize("traffic").files == ("data/zz-88.parquet",)
        assert project.features.online([{"zone": 88}], NAMES).to_dicts()[0]["trips_1h"] == 1
        asked = pa.table({"zone": [88, 88], "T": [kit.NOW + timedelta(minutes=m) for m in (19, 20)]})
        assert project.features.history(asked, NAMES, at="T").to_arrow().column("trips_1h").to_pylist() == [0, 1]


def test_an_unknown_view_names_the_nearest(temp):
    with pytest.raises(UnknownName, match="traffic"):
        temp.features.online([{"zone": 1}], ["trafic"])


def test_history_keeps_order_duplicates_and_the_frame(temp):
    asked = requests([3, 1, 3], kit.NOW)
    found = temp.features.history(asked, ["traffic:trips_1h"], at="at").to_arrow()
    values = found["trips_1h"].to_pylist()
    assert found["zone"].to_pylist() == [3, 1, 3] and values[0] == values[2]
    assert asked.column_names == ["zone", "at"]


def test_score_equals_what_serving_answers(trained):
    asked = pa.table(
        {"zone": [1, 4], "distance": [2.0, 5.0], "pickup_at": pa.array([kit.NOW] * 2, pa.timestamp("us", tz="UTC"))}
    )
    with Project.open(trained) as project:
        bulk = project.models["eta"].score(asked)
        with fb.testing.client(project) as http:
            served = http.infer("eta", [{"zone": 1, "distance": 2.0}, {"zone": 4, "distance": 5.0}])["predictions"]
    np.testing.assert_allclose(bulk, served, rtol=1e-12)
