from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_kit import Kit, broken, double, infer_body, table, triple

from flyball.errors import UnknownName
from flyball.layout import Layout
from flyball.serving.log.explain import explain
from flyball.serving.log.ids import IdMaker, parts_of
from flyball.testing.in_process import client


@given(st.lists(st.integers(0, 2**55), min_size=2, max_size=20), st.integers(0, 1023), st.integers(0, 2**20 - 1))
def test_ids_sort_by_time_are_unique_and_name_the_slot(times: list[int], slot: int, nonce: int) -> None:
    ticks = iter(sorted(times))
    maker = IdMaker(slot, nonce, micros=lambda: next(ticks))
    ids = [maker.next() for _ in times]
    assert ids == sorted(set(ids))
    assert [parts_of(i)[1] for i in ids] == [slot] * len(ids)
    assert parts_of(ids[0]) == (max(min(times), 1), slot)


def test_other_texts_are_no_ids() -> None:
    assert parts_of("nope") is None
    assert parts_of("Z" * 18) is None


def world(tmp_path: Path, **models):
    state = tmp_path / "state"
    kit = Kit(state, **models)
    return kit, Layout(tmp_path, state)


def test_a_prediction_explains_itself(tmp_path: Path) -> None:
    kit, layout = world(tmp_path, v1=double, v2=triple)
    routes = table(1, kit.ref("v1"), kit.ref("v2"), share=1.0)
    layout.routing.mkdir(parents=True)
    (layout.routing / "000000000001.json").write_bytes(routes.to_json())
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(routes))
        pid = http.post("/v2/models/eta/infer", json=infer_body(2.0, 74, unit="anna")).json()["id"]
        for revision, value in ((1, 7.0), (0, 6.5)):
            row = {"prediction_id": pid, "value": value, "event_time": 10**15, "revision": revision}
            http.post("/v1/outcomes", json=[row])
    story = explain(layout, pid)
    assert (story["arm"], story["version"], story["rollout"], story["unit"]) == ("candidate", "v2", "r1", "anna")
    assert story["why"] == "the unit's bucket lies in the candidate's share (100 % of units)"
    assert story["features"] == [
        {"name": "distance", "value": 2.0, "status": "PRESENT"},
        {"name": "zone", "value": 74.0, "status": "PRESENT"},
    ]
    assert [(s["version"], s["value"]) for s in story["shadow"]] == [("v1", 4.0)]
    assert (story["outcome"]["value"], story["outcome"]["revisions"], story["outcome"]["error"]) == (7.0, 2, 1.0)
    assert set(story["latency_us"]) == {"parse", "features", "wait", "model", "total"}
    assert explain(layout, f"{pid}#0")["prediction_id"] == pid


def test_a_fallback_is_told_with_its_cause(tmp_path: Path) -> None:
    kit, layout = world(tmp_path, v1=double, v2=broken)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"), kit.ref("v2", trusted=False), share=1.0)))
        pid = http.post("/v2/models/eta/infer", json=infer_body(2.0, rows=2, unit="u")).json()["id"]
    story = explain(layout, f"{pid}#1")
    assert (story["arm"], story["version"], story["fallback"], story["outcome"]) == ("candidate", "v1", True, None)
    assert "zone not known" in story["why"]


def test_an_unknown_id_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="there is no prediction 'x' in the log"):
        explain(Layout(tmp_path, tmp_path), "x")
