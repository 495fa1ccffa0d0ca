"""A request sent again with its Idempotency-Key: one prediction, whichever worker meets the retry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_kit import Kit, double, infer_body, table

from flyball.records.types import Prediction
from flyball.serving.log.ids import keyed_id, parts_of
from flyball.serving.log.writer import LogWriter
from flyball.testing.in_process import client

KEY = {"idempotency-key": "order-17"}
CASES = {
    "/v2/models/eta/infer": infer_body(2.0),
    "/predict": {"rows": [{"distance": 2.0, "zone": 74}]},
    "/batch_predict": {"instances": [{"distance": float(k), "zone": 74} for k in range(5)], "batch_size": 2},
}


def ids_of(body: dict) -> list[str]:
    found = body.get("prediction_ids") or [body.get("prediction_id") or body["parameters"]["prediction_id"]]
    return [str(each) for each in found]


@pytest.mark.parametrize("path", CASES)
def test_one_worker_answers_it_once_and_logs_it_once(tmp_path, path):
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        first, second = (http.post(path, json=CASES[path], headers=KEY) for _ in range(2))
        other = http.post(path, json=CASES[path], headers={"idempotency-key": "order-18"})
    assert first.status_code == second.status_code == other.status_code == 200
    assert first.content == second.content
    assert set(ids_of(first.json())).isdisjoint(ids_of(other.json()))
    logged = [r.id for r in kit.records() if isinstance(r, Prediction)]
    assert len(logged) == len(set(logged)) == 2 * len(ids_of(first.json()))


@pytest.mark.parametrize("path", CASES)
def test_another_worker_gives_it_the_same_id_the_same_arm_and_the_same_answer(tmp_path, path):
    kit = Kit(tmp_path, v1=double, v2=double)
    answers = []
    for slot in range(2):
        with client(kit.gateway(log=LogWriter(tmp_path / "log" / f"w{slot}"))) as http:
            http.call(http.gateway.swap(table(1, kit.ref("v1"), kit.ref("v2"), share=0.5, pair=False)))
            answers.append(http.post(path, json=CASES[path], headers=KEY).json())
    one, two = answers
    assert ids_of(one) == ids_of(two) and all(each.startswith("x") for each in ids_of(one))
    logged = [(r.id, r.arm, r.value) for r in kit.records() if isinstance(r, Prediction)]
    assert len(logged) == 2 * len(ids_of(one)) and len(set(logged)) == len(ids_of(one))


def test_keys_of_two_callers_do_not_meet(tmp_path):
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        found = [
            http.post("/predict", json=CASES["/predict"], headers=KEY | {"x-api-key": caller}).json()["prediction_id"]
            for caller in ("a", "b")
        ]
    assert found[0] != found[1]


def test_the_same_key_with_another_body_is_refused(tmp_path):
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        assert http.post("/predict", json=CASES["/predict"], headers=KEY).status_code == 200
        again = http.post("/predict", json={"rows": [{"distance": 9.0, "zone": 74}]}, headers=KEY)
    assert again.status_code == 422 and "another body" in again.json()["error"]


@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=4), st.lists(st.binary(max_size=20), min_size=1, max_size=4)
)
def test_equal_parts_and_only_these_give_equal_ids(one, two):
    assert (keyed_id(*one) == keyed_id(*two)) == (one == two)
    assert len(keyed_id(*one)) == 18 and parts_of(keyed_id(*one)) is None
