"""POST /v2/models/M/explain: contributions that add up, of the champion or a named version, within a deadline."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import numpy as np
import pytest
from serving_kit import Kit, double, infer_body, table, triple

from flyball.errors import DeadlineExceeded, Unavailable
from flyball.serving.contributions import Explained, Explainer
from flyball.serving.contributions.asking import Explanations
from flyball.testing.in_process import client

PATH = "/v2/models/eta/explain"
ROWS = {"rows": [{"distance": 2.0, "zone": 74}, {"distance": 3.0, "zone": 74}]}


class Local:
    """Explain in this process; remembers deadlines and whether it was closed."""

    def __init__(self, predict, classifier: bool = False) -> None:
        background = np.array([[1.0, 70.0], [3.0, 76.0], [2.0, 74.0]])
        self.explainer = Explainer(predict, background)
        self.deadlines: list[float] = []
        self.closed = False

    async def explain(self, matrix, deadline):
        self.deadlines.append(deadline)
        return await asyncio.to_thread(self.explainer.explain, matrix, deadline)

    def close(self) -> None:
        self.closed = True


def gateway_of(tmp_path, **options):
    kit = Kit(tmp_path, v1=double, v2=triple)
    hosts: dict[str, Local] = {}

    def connect(ref):
        return hosts.setdefault(ref.version, Local(kit.models[ref.version]))

    return kit, kit.gateway(explainers=connect, **options), hosts


def test_contributions_and_base_add_up_to_the_champions_answer_and_nothing_is_logged(tmp_path):
    kit, gateway, _ = gateway_of(tmp_path)
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"))))
        response = http.post(PATH, json=ROWS)
    body = response.json()
    assert response.status_code == 200, body
    assert (body["model"], body["model_version"], body["method"], body["space"]) == (
        "eta",
        "v1",
        "sampled",
        "prediction",
    )
    assert body["samples"] >= 16
    for row, wanted in zip(body["rows"], (4.0, 6.0), strict=True):
        assert set(row["contributions"]) == set(row["standard_errors"]) == {"distance", "zone"}
        assert row["base"] + sum(row["contributions"].values()) == pytest.approx(wanted, abs=1e-9)
        assert row["margin"] == pytest.approx(wanted, abs=1e-9)
        assert row["contributions"]["zone"] == pytest.approx(0.0, abs=1e-9)
    assert kit.records() == []


def test_tensors_are_taken_as_in_inference_and_a_version_may_be_named(tmp_path):
    kit, gateway, _ = gateway_of(tmp_path)
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"), warm=(kit.ref("v2"),))))
        body = http.post("/v2/models/eta/versions/v2/explain", json=infer_body(2.0)).json()
    assert body["model_version"] == "v2"
    assert body["rows"][0]["margin"] == pytest.approx(6.0, abs=1e-9)


@pytest.mark.parametrize("given", [0, -5, 1.5, "2s", 10**9, True])
def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(tmp_path, given):
    kit, gateway, _ = gateway_of(tmp_path)
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"))))
        response = http.post(PATH, json=ROWS | {"parameters": {"deadline_ms": given}})
    assert response.status_code == 400 and "deadline_ms" in response.json()["error"]


def test_the_deadline_counts_from_the_arrival_of_the_request(tmp_path):
    kit, gateway, hosts = gateway_of(tmp_path)
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"))))
        before = time.monotonic()
        assert http.post(PATH, json=ROWS | {"parameters": {"deadline_ms": 30_000}}).status_code == 200
        assert http.post(PATH, json=ROWS).status_code == 200
        after = time.monotonic()
    first, second = hosts["v1"].deadlines
    assert before + 29.5 < first <= after + 30.0
    assert before + 1.5 < second <= after + 2.0


def test_an_explanation_that_is_late_is_504_and_one_without_a_process_503(tmp_path):
    class Late(Local):
        async def explain(self, matrix, deadline):
            raise DeadlineExceeded("the deadline passed before one sample of the explanation")

    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway(explainers=lambda ref: Late(double))) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        assert http.post(PATH, json=ROWS).status_code == 504
    other = Kit(tmp_path / "b", v1=double)
    with client(other.gateway()) as http:
        http.call(http.gateway.swap(table(1, other.ref("v1"))))
        response = http.post(PATH, json=ROWS)
    assert response.status_code == 503 and "flyball up" in response.json()["error"]


def test_no_rows_and_too_many_rows(tmp_path):
    kit, gateway, _ = gateway_of(tmp_path)
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"))))
        assert http.post(PATH, json={"rows": []}).json()["rows"] == []
        many = http.post(PATH, json={"rows": [{"distance": 1.0, "zone": 1}] * 257})
        assert many.status_code == 413 and "256" in many.json()["error"]


def test_wrong_input_is_told_as_for_predictions(tmp_path):
    kit, gateway, _ = gateway_of(tmp_path)
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"))))
        assert http.post(PATH, json={"rows": [{"distanze": 1.0, "zone": 1}]}).status_code == 400
        assert http.post("/v2/models/etta/explain", json=ROWS).status_code == 404
        assert http.get(PATH).status_code == 405
        assert http.post(PATH, content=b"{", headers={"content-type": "application/json"}).status_code == 400


def test_an_explanation_of_another_shape_is_not_passed_on():
    class Wrong(Local):
        async def explain(self, matrix, deadline):
            return Explained(np.zeros(1), np.zeros((5, 2, 1)), "tree", "prediction")

    async def story():
        hosts = Explanations(lambda ref: Wrong(double))
        await hosts.explain(SimpleNamespace(digest="d", version="v1"), np.ones((1, 2)), time.monotonic() + 1)

    with pytest.raises(Exception, match="shape"):
        asyncio.run(story())


def test_links_to_versions_that_are_served_no_more_are_closed():
    made = {}

    def connect(ref):
        return made.setdefault(ref.digest, Local(double))

    async def story():
        hosts = Explanations(connect)
        for digest in "ab":
            await hosts.explain(SimpleNamespace(digest=digest, version=digest), np.ones((1, 2)), time.monotonic() + 5)
        hosts.retain(["b"])
        assert (made["a"].closed, made["b"].closed) == (True, False)
        hosts.close()
        assert made["b"].closed
        with pytest.raises(Unavailable):
            await Explanations().explain(SimpleNamespace(digest="x", version="x"), np.ones((1, 2)), 0.0)

    asyncio.run(story())
