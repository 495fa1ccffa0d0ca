"""Exposures of one process, and the draw of an experiment's own salt."""

from __future__ import annotations

from flyball.records.columnar import Placed, records_of, tables_of
from flyball.records.types import Exposure, decode, encode
from flyball.rollout.routing import BUCKETS, Flag, ModelRoute, RoutingTable, ServingSpec, Variant, VersionRef
from flyball.serving.definitions import Flag as Define
from flyball.serving.definitions import Segment
from flyball.serving.routing.exposures import Exposures, is_personal
from flyball.serving.routing.flags import Decided, Flags
from flyball.serving.routing.router import assign

V1, V2 = VersionRef("v1", "p", "d1", True), VersionRef("v2", "p", "d2", False)
OWNED = Flag("map", "exp:e:", False, (False, True), (500_000, BUCKETS), experiment="e")
TABLE = RoutingTable(7, 0, 0, flags={"map": OWNED})


def test_a_unit_is_logged_once_until_it_is_forgotten_or_ten_minutes_passed() -> None:
    now = [0.0]
    exposures = Exposures(str.upper, monotonic=lambda: now[0])
    found = [("map", Flags(TABLE).decide("map", "u"))]
    assert [len(exposures.of(TABLE, "u", found, 5)) for _ in range(3)] == [1, 0, 0]
    now[0] = 600.0
    assert len(exposures.of(TABLE, "u", found, 5)) == 1
    exposures.forget("u")
    assert len(exposures.of(TABLE, "u", found, 5)) == 1


def test_what_is_remembered_is_bounded() -> None:
    exposures = Exposures(str, most=10)
    decided = Decided(True, "true", "share", "e")
    for k in range(50):
        assert len(exposures.of(TABLE, f"u{k}", [("map", decided)], 5)) == 1
    assert len(exposures._seen) == 10


def test_the_default_an_off_switch_and_a_segment_expose_nobody() -> None:
    exposures = Exposures(str)
    outside = Flag("map", "s", False, (True,), (0,), experiment="e")
    for decided in (Flags(RoutingTable(1, 0, 0, flags={"map": outside})).decide("map", "u"),
                    Decided(True, "true", "segment staff"), Decided(False, "default", "off")):  # fmt: skip
        assert exposures.of(TABLE, "u", [("map", decided)], 5) == []


def test_a_personal_unit_is_hashed_where_the_flag_or_a_model_says_so() -> None:
    route = ModelRoute("eta", "s", V1, serving=ServingSpec(personal={"unit": "encrypt"}))
    assert is_personal(RoutingTable(1, 0, 0, models={"eta": route}, flags={"map": OWNED}), "map")
    flag = Define("map", share="10%", personal="hash")
    assert is_personal(RoutingTable(1, 0, 0, flags={"map": flag}), "map") and not is_personal(TABLE, "map")
    secret = RoutingTable(1, 0, 0, models={"eta": route}, flags={"map": OWNED})
    (record,) = Exposures(lambda unit: "h:1").of(secret, "me", [("map", Flags(secret).decide("map", "me"))], 5)
    assert (record.unit, record.protected) == ("h:1", "unit") and "me" not in record.id.split(":")


def test_an_exposure_survives_the_log_and_parquet() -> None:
    made = Exposure("x", "e", "u", "true", 5_000_000, 7, "api", "unit")
    assert decode(encode([made])) == [made]
    tables = tables_of([Placed("w0/a.seg", 0, 0, made)])
    assert [each.record for each in records_of("exposures", tables["exposures"])] == [made]


def test_a_flags_definition_keeps_its_digest_over_releases() -> None:
    staff = Segment("x", where={"age": ">= 18"}, to="a")
    flag = Define("new_map", values={"a": "10%", "b": 0.2}, default="c", segments=[staff])
    assert flag.defined == "1c0d623fa0820cdb"  # as the release before experiments wrote it
    assert Define("new_map", share="10%", personal="hash").defined != Define("new_map", share="10%").defined


def test_an_experiments_draw_is_independent_of_the_routes_salt_and_of_the_holdout() -> None:
    split = ModelRoute(
        "eta", "s", V1, variants=(Variant("v2", V2, BUCKETS // 2, BUCKETS),), draw="exp:e:", experiment="e",
        control_from=0, control_to=BUCKETS // 2, holdout=BUCKETS // 5,
    )  # fmt: skip
    found = [assign(split, f"u{k}") for k in range(4000)]
    held = [a.why == "holdout" for a in found]
    assert 0.17 < sum(held) / 4000 < 0.23  # 4.7 standard deviations of 0.2 at 4,000
    drawn = [a.arm for a in found if a.why != "holdout"]
    assert abs(drawn.count("v2") / len(drawn) - 0.5) < 0.04  # 4.5 standard deviations
    assert {a.why for a in found} == {"holdout", "variant", "control"}
    # those the salt of the route would have held out: none is a unit of the experiment, the others spread over both arms
    low = [
        k for k in range(4000) if assign(ModelRoute("eta", "s", V1, V2, BUCKETS * 2 // 5), f"u{k}").arm == "candidate"
    ]
    assert abs(sum(found[k].arm == "v2" for k in low) / len(low) - 0.5) < 0.06  # 4.7 standard deviations
