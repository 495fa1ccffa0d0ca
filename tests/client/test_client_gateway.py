"""The client against a real gateway: in this process, and over a port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest

import flyball as fb
from flyball.client.answers import Contribution
from flyball.errors import BadRequest, InputError, Unavailable
from flyball.node.http import GracefulServer
from flyball.records.types import Outcome, Prediction
from flyball.serving.contributions import Explainer
from flyball.testing.in_process import GatewayClient, client

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
from serving_kit import Kit, double, table, triple

ROW = {"distance": 2.0, "zone": 74}


class Local:
    def __init__(self, predict) -> None:
        self._explainer = Explainer(predict, np.array([[1.0, 70.0], [3.0, 76.0]]))

    async def explain(self, matrix, deadline):
        return await asyncio.to_thread(self._explainer.explain, matrix, deadline)

    def close(self) -> None:
        pass


@contextlib.contextmanager
def gateway(tmp_path, **options) -> Iterator[tuple[Kit, GatewayClient]]:
    kit = Kit(tmp_path, v1=double, v2=triple)
    made = kit.gateway(explainers=lambda ref: Local(kit.models[ref.version]), **options)
    with client(made) as http:
        http.call(made.swap(table(1, kit.ref("v1"), warm=(kit.ref("v2"),))))
        yield kit, http


@contextlib.contextmanager
def listening(http: GatewayClient) -> Iterator[str]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    sock.setblocking(False)
    port = sock.getsockname()[1]

    async def make() -> GracefulServer:
        return GracefulServer(http.gateway, drain=1.0)

    server = http.call(make())
    serving = asyncio.run_coroutine_threadsafe(server.run(sock), http._loop)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        http._loop.call_soon_threadsafe(server.end)
        serving.result(10)


def test_every_call_over_a_port(tmp_path):
    with gateway(tmp_path) as (kit, http), listening(http) as url, fb.Client(url) as ask:
        assert ask.live() and ask.ready() and ask.ready("eta")
        assert ask.metadata("eta").name == "eta"
        one = ask.predict("eta", ROW, unit="rider")
        assert (one.prediction, one.model_version, len(one)) == (4.0, "v1", 1)
        two = ask.predict(None, [ROW, ROW | {"distance": 3.0}], unit=["a", 2])
        assert two.predictions == [4.0, 6.0] and two.id_of(1) == f"{two.prediction_id}#1"
        many = ask.batch_predict("eta", [ROW] * 10, batch_size=4)
        assert (many.predictions, many.count, many.batches) == ([4.0] * 10, 10, 3)
        tensors = ask.infer("eta", {"distance": [2.0, 5.0], "zone": [1, 2]}, id="mine", version="v2")
        assert (tensors["prediction"], tensors.model_version, tensors.id) == ([6.0, 15.0], "v2", "mine")
        explained = ask.explain("eta", ROW)
        assert isinstance(explained.rows[0], Contribution)
        assert explained.rows[0].largest(1)[0][0] == "distance"
        ask.outcome(one.prediction_id, 11.5, datetime(2026, 1, 1, tzinfo=UTC))
        assert ask.outcomes([{"prediction_id": two.id_of(1), "value": 1.0, "event_time": "2026-01-01T00:00:00Z"}]) == 1
    records = kit.records()
    assert [r.unit for r in records if isinstance(r, Prediction)][:3] == ["rider", "a", "2"]
    assert [(r.id, r.value) for r in records if isinstance(r, Outcome)] == [
        (one.prediction_id, 11.5), (two.id_of(1), 1.0),
    ]  # fmt: skip


def test_numpy_arrays_travel_as_binary_tensors_and_come_back_as_arrays(tmp_path):
    with gateway(tmp_path) as (_, http), fb.Client("http://gateway", transport=http._transport) as ask:
        distance = np.linspace(0.0, 1.0, 50)
        found = ask.infer("eta", {"distance": distance, "zone": np.arange(50, dtype=np.int32)})
        assert isinstance(found["prediction"], np.ndarray)
        np.testing.assert_array_equal(found["prediction"], distance * 2)
        matrix = ask.infer("eta", {"distance": distance.astype(np.float32)[:3], "zone": [1, 2, 3]})
        assert matrix.outputs["prediction"].shape == (3,)


def test_the_asynchronous_client_gives_the_same_answers(tmp_path):
    async def story():
        kit = Kit(tmp_path, v1=double, v2=triple)
        made = kit.gateway(explainers=lambda ref: Local(kit.models[ref.version]))
        await made.swap(table(1, kit.ref("v1")))
        async with fb.AsyncClient("http://gateway", transport=httpx.ASGITransport(app=made)) as ask:
            assert await ask.ready()
            answer = await ask.predict("eta", ROW)
            assert answer.prediction == 4.0
            assert (await ask.batch_predict("eta", [ROW] * 3)).count == 3
            assert (await ask.infer("eta", {"distance": [2.0], "zone": [1]}))["prediction"] == [4.0]
            assert (await ask.explain("eta", [ROW])).method == "sampled"
            await ask.outcome(answer.prediction_id, 1.0, "2026-01-01T00:00:00Z")
            with pytest.raises(BadRequest, match="did you mean eta"):
                await ask.predict("etta", ROW)
        await made.close()

    asyncio.run(story())


def test_refusals_come_as_errors_with_the_gateways_sentence_and_status(tmp_path):
    with gateway(tmp_path, key=b"right") as (_, http):
        with fb.Client("http://gateway", key="wrong", transport=http._transport) as ask:
            with pytest.raises(BadRequest, match="key is missing or wrong") as caught:
                ask.predict("eta", ROW)
            assert caught.value.status == 401
        with fb.Client("http://gateway", key="right", transport=http._transport) as ask:
            assert ask.predict("eta", ROW).prediction == 4.0
            with pytest.raises(BadRequest, match="distanze"):
                ask.predict("eta", {"distanze": 1.0})


def test_the_same_idempotency_key_is_one_prediction(tmp_path):
    with gateway(tmp_path) as (kit, http), fb.Client("http://gateway", transport=http._transport) as ask:
        one = ask.predict("eta", ROW, idempotency_key="order-1")
        two = ask.predict("eta", ROW, idempotency_key="order-1")
        assert one.prediction_id == two.prediction_id
    assert len(kit.records()) == 1


def test_nobody_at_the_address_is_said_with_the_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with fb.Client(url, retries=1) as ask, pytest.raises(Unavailable, match=url):
        ask.predict("eta", ROW)


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(InputError, match="address of a gateway"):
        fb.Client(url)
