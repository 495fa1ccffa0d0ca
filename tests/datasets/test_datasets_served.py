"""Rows of the prediction log as examples: whose features they are, what is left out and why; columns by definition."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import flyball as fb
from flyball.datasets.columns import column_digests, hidden_columns
from flyball.datasets.examples import ExampleRows
from flyball.datasets.served import as_asked, read_served, sequence_of, served_columns
from flyball.errors import SourceError
from flyball.features.service import compile_service
from flyball.features.spec import FeatureService
from flyball.units import to_micros

START = datetime(2020, 3, 1, tzinfo=UTC)
HOUR = 3_600_000_000
TRIPS = fb.ParquetSource(
    "trips", "trips.parquet", event_time="ended", derive={"fast": "speed > 3", "slow": "speed < 1"}
)


def view(*features: Any, **changes: Any) -> fb.FeatureView:
    given = {"entity": fb.Entity("zone", keys={"zone": int}), "source": TRIPS, "features": features, **changes}
    return fb.FeatureView("traffic", **given)


def service_of(*features: Any, source: fb.ParquetSource = TRIPS) -> FeatureService:
    return compile_service("eta", "at", list(features), source.spec)


COUNT, MEAN = fb.count("trips_1h", window="1h"), fb.mean("speed_1h", of="speed", window="1h")
DISTANCE = fb.Field("distance", float)
WANTED = service_of(view(COUNT, MEAN), DISTANCE)
SWAPPED = service_of(DISTANCE, view(MEAN, COUNT))
LESS = service_of(view(COUNT), DISTANCE)


class Log:
    """A log of given rows."""

    def __init__(self, rows: Sequence[dict[str, Any]], **services: FeatureService) -> None:
        self.rows, self.services = rows, {"v1": WANTED, **services}

    def service(self, model: str, version: str) -> FeatureService | None:
        return self.services.get(version)

    def answered(self, model: str, *, start: datetime, until: datetime) -> pa.Table:
        strings = ("id", "unit", "arm", "version", "assigned", "read", "protected", "inputs")
        kinds = dict.fromkeys(strings, pa.string()) | {"features": pa.list_(pa.float64()), "inputs_exact": pa.binary()}
        kinds |= dict.fromkeys(("at", "event", "received"), pa.int64()) | {"fallback": pa.bool_()}
        kinds |= dict.fromkeys(("outcome", "prediction"), pa.float64())
        return pa.table({name: pa.array([r.get(name) for r in self.rows], kind) for name, kind in kinds.items()})


def row(number: int, **changes: Any) -> dict[str, Any]:
    at = to_micros(START) + number * 60_000_000
    given = {
        "id": f"p{number}", "unit": f"u{number}", "arm": "champion", "version": "v1", "assigned": "v1", "read": "",
        "protected": "", "at": at, "fallback": False, "features": [number + 0.25, -0.0, 2.0], "prediction": 1.0,
        "inputs": '{"zone":7,"distance":2.0}', "outcome": float(number), "event": at + HOUR, "received": at + HOUR,
    }  # fmt: skip
    return {**given, **changes}


def read(log: Log, *, service: FeatureService = WANTED, label: str = "minutes", **how: Any) -> ExampleRows:
    return read_served(
        log, fb.Examples.from_log(**how), fb.Label(label, matures="2h"), service, start=START,
        until=START + timedelta(days=2),
    )  # fmt: skip


def matrix(rows: ExampleRows) -> np.ndarray:
    assert rows.features is not None
    return np.column_stack([c.to_numpy() for c in rows.features.columns])


def test_values_come_out_to_the_bit_in_the_models_order() -> None:
    log = Log([row(1), row(2, version="v2", assigned="v2", features=[2.0, 1e-320, 3.5])], v2=SWAPPED)
    found = read(log)
    assert matrix(found).tobytes() == np.array([[1.25, -0.0, 2.0], [3.5, 1e-320, 2.0]]).tobytes()
    assert found.label.tolist() == [1.0, 2.0] and found.unit.tolist() == ["u1", "u2"]
    assert found.sequence.tolist() == [sequence_of("p1"), sequence_of("p2")]


def test_a_label_is_known_when_it_matured_and_was_received() -> None:
    late, early = row(1, received=row(1)["at"] + 9 * HOUR), row(2, event=row(2)["at"] - HOUR)
    found = read(Log([late, early, row(3, outcome=None, event=None, received=None)]))
    assert (found.known - found.at).tolist() == [9 * HOUR, 2 * HOUR]  # an event before its request counts from there
    assert found.immature == 1


def test_what_a_failed_arm_was_asked_with_is_named_by_that_arm() -> None:
    stepped_in = row(1, fallback=True, arm="candidate", version="v1", assigned="v2", features=[2.0, 0.5, 3.0])
    unread = row(2, fallback=True, arm="candidate", version="v1", assigned="v2", features=[np.nan] * 3)
    nobody_knows = row(3, fallback=True, arm="candidate", assigned="")
    log = Log([stepped_in, unread, nobody_knows], v2=SWAPPED)
    found = read(log)
    assert matrix(found).tolist() == [[3.0, 0.5, 2.0]] and found.unserved == 2
    assert "versions that are gone" in found.why
    assert len(read(log, arms="champion").at) == 0


def test_rows_without_a_feature_or_of_an_outage_are_counted_by_reason() -> None:
    log = Log([row(1, version="v2", assigned="v2", features=[1.0, 2.0]), row(2, read="stale"), row(3)], v2=LESS)
    found = read(log)
    assert len(found.at) == 1 and found.unserved == 2
    assert found.why == "1 were served without speed_1h, 1 were served while the online store was away"


def test_a_vector_of_another_width_is_no_vector_of_that_version() -> None:
    found = read(Log([row(1, features=[1.0, 2.0]), row(2)]))
    assert found.sequence.tolist() == [sequence_of("p2")]


def test_an_empty_log_has_no_examples() -> None:
    found = read(Log([]))
    assert len(found.at) == 0 and found.features is not None and found.features.num_rows == 0


def test_expressions_read_inputs_features_and_the_log_itself() -> None:
    rows = [row(k) for k in range(1, 9)]
    log = Log(rows)
    found = read(log, where="zone = 7 and trips_1h > 3 and event - at = 1h and unit != 'u5' and prediction = 1")
    assert found.unit.tolist() == ["u3", "u4", "u6", "u7", "u8"] and found.rejected == 3
    assert read(log, derive={"minutes": "outcome * distance"}).label.tolist() == [2.0 * k for k in range(1, 9)]
    assert read(log, derive={"minutes": "outcome / (outcome - 3)"}).rejected == 1


def test_nulls_of_a_condition_drop_the_row() -> None:
    log = Log([row(1, features=[1.0, np.nan, 2.0]), row(2)])
    assert read(log, where="speed_1h < 5").unit.tolist() == ["u2"]
    assert np.isnan(matrix(read(log))[0, 1])


def test_a_protected_input_is_not_looked_up_and_a_protected_field_is_no_feature() -> None:
    log = Log([row(1, protected="distance,zone", inputs='{"zone":"h:1","distance":"h:2"}')])
    assert read(log).why == "1 were served without distance"
    table = log.answered("eta", start=START, until=START)
    with pytest.raises(SourceError, match="'distance' is kept protected"):
        as_asked(log, None, table, SWAPPED)  # type: ignore[arg-type]
    assert hidden_columns(WANTED, {"distance"}) == {2}


def test_a_column_is_known_by_what_it_is_made_of() -> None:
    count = column_digests(WANTED)[0]
    assert column_digests(LESS)[0] == count == column_digests(SWAPPED)[2]
    same = fb.ParquetSource(
        "trips", "trips.parquet", event_time="ended", derive={"fast": "speed > 3", "slow": "speed < 2"}
    )
    assert column_digests(service_of(view(COUNT, source=same)))[0] == count  # derived for others
    others = [
        service_of(view(fb.count("trips_1h", window="2h"))),
        service_of(view(fb.count("trips_1h", window="1h", where="fast"))),
        service_of(view(COUNT, ttl="1d")),
        service_of(view(COUNT, source=fb.ParquetSource("trips", "trips.parquet", event_time="began"))),
    ]
    assert len({count, *(column_digests(each)[0] for each in others)}) == 5


def test_request_time_features_follow_their_zone_and_their_arguments() -> None:
    utc, other = (
        service_of(fb.hour_of_day("at"), source=fb.ParquetSource("t", "t.parquet", event_time="e", timezone=zone))
        for zone in ("UTC", "America/New_York")
    )
    assert column_digests(utc) != column_digests(other)
    assert column_digests(utc) == column_digests(service_of(fb.hour_of_day("at")))
    assert column_digests(service_of(fb.Field("x", float)))[0] != column_digests(service_of(fb.Field("x", int)))[0]


def test_parts_of_a_vector_are_columns_of_their_own() -> None:
    service = service_of(fb.Field("v", fb.Vector(2)), DISTANCE)
    assert len(set(column_digests(service))) == 3
    log = Log([row(1, features=[0.5, 0.25, 9.0])], v1=service)
    found = served_columns(log, log.answered("eta", start=START, until=START), service)
    assert found.matrix.tolist() == [[0.5, 0.25, 9.0]] and found.fits.all()
