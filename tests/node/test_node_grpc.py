"""gRPC, the client and explanations against a real node of two workers."""

from __future__ import annotations

import json
import os
import signal
import socket

import grpc
import httpx
import numpy as np
import pytest
from node_under_load import Node, until

import flyball as fb
from flyball.errors import Unavailable
from flyball.node.grpc import reserve
from flyball.serving.grpc.messages import message
from flyball.serving.grpc.service import SERVICE

Infer = message("ModelInferRequest")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYBALL_SERVER__GRPC_PORT", str(port))
        made = Node(tmp_path_factory.mktemp("node"))
        made.up()
    made.grpc_port = port
    made.route()
    yield made
    made.down()


def infer(port: int, miles: float, *, key: str = "") -> tuple[float, str]:
    """Ask over a connection of its own; return (value, prediction id)."""
    request = Infer(model_name="eta")
    request.inputs.add(name="miles", datatype="FP64", shape=[1])
    request.raw_input_contents.append(np.array([miles], dtype="<f8").tobytes())
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        metadata = (("idempotency-key", key),) if key else ()
        answer = message("ModelInferResponse").FromString(
            call(request.SerializeToString(), timeout=10, metadata=metadata)
        )
    value = np.frombuffer(answer.raw_output_contents[0], "<f8")[0]
    return float(value), answer.parameters["prediction_id"].string_param


def worker_of(prediction: str) -> str:
    from flyball.serving.log.ids import parts_of

    found = parts_of(prediction)
    assert found is not None
    return f"w{found[1]}"


@pytest.mark.slow
def test_both_workers_answer_on_one_port_and_a_killed_ones_place_is_taken(node):
    got = [infer(node.grpc_port, float(k)) for k in range(60)]
    assert [value for value, _ in got] == [2.0 * k for k in range(60)]
    assert {worker_of(each) for _, each in got} == {"w0", "w1"}
    until(lambda: {each for _, each in got} <= set(node.logged()), what="all predictions in the log")
    node.kill("w0")

    def both_answer() -> bool:
        return {worker_of(infer(node.grpc_port, 1.0)[1]) for _ in range(30)} == {"w0", "w1"}

    until(both_answer, what="answers of both workers again")


@pytest.mark.slow
def test_a_retry_that_meets_another_worker_has_the_same_prediction_id(node):
    ids = {infer(node.grpc_port, 3.0, key="order-9")[1] for _ in range(20)}
    assert len(ids) == 1
    with fb.Client(f"http://{node.running.host}:{node.running.port}") as ask:
        assert ask.predict("eta", {"miles": 3.0}, idempotency_key="order-9").prediction_id not in ids


@pytest.mark.slow
def test_a_node_explains_its_champion(node):
    with fb.Client(f"http://{node.running.host}:{node.running.port}", timeout=30) as ask:
        explained = ask.explain("eta", {"miles": 5.0}, deadline_ms=20_000)
    [row] = explained
    assert (explained.model_version, row.margin) == ("v1", pytest.approx(10.0))
    assert row.base + row.contributions["miles"] == pytest.approx(10.0)


@pytest.mark.slow
def test_calls_at_hand_are_finished_when_a_worker_ends(node):
    """SIGTERM to one worker while callers ask with retries over both protocols: nobody sees an error."""
    url = f"http://{node.running.host}:{node.running.port}"
    victim = node.pid("w1")
    with fb.Client(url, retries=4) as ask:
        for k in range(200):
            if k == 50:
                os.kill(victim, signal.SIGTERM)
            assert ask.predict("eta", {"miles": float(k)}).prediction == 2.0 * k
    until(lambda: node.now().children.get("w1", 0) not in {0, victim}, what="a new worker")


@pytest.mark.slow
def test_the_whole_surface_is_still_json_beside_grpc(node):
    answer = httpx.get(f"http://{node.running.host}:{node.running.port}/v2")
    assert answer.status_code == 200 and json.loads(answer.content)["name"] == "flyball"


def test_a_port_in_use_is_told_before_any_worker_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"port {port} .* server\.grpc_port"):
            reserve("127.0.0.1", port)
    with reserve("127.0.0.1", port) as held:
        assert held.getsockname()[1] == port
