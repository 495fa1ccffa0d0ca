"""Everything a caller can get wrong is one JSON sentence, and the next good request is answered."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving_kit import Kit, double, infer_body, table

from flyball.serving.gateway import Gateway
from flyball.testing.in_process import GatewayClient, client

INFER = "/v2/models/eta/infer"
JSON = {"content-type": "application/json"}
LENGTH = "inference-header-content-length"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Any:
    kit = Kit(tmp_path_factory.mktemp("bad"), v1=double)
    with client(kit.gateway(max_body=400_000, max_rows=50)) as found:
        found.call(found.gateway.swap(table(1, kit.ref("v1"))))
        yield found


def two(distance: Any = 2.0, zone: Any = 74, **changed: Any) -> dict[str, Any]:
    body = infer_body(distance, zone)
    body["inputs"][0] |= changed
    return body


def text(old: str, new: str) -> bytes:
    return json.dumps(two()).replace(old, new).encode()


def only(*names: str) -> dict[str, Any]:
    body = two()
    tensors = {t["name"]: t for t in body["inputs"]}
    return {"inputs": [tensors.get(n, {"name": n, "shape": [1], "datatype": "FP64", "data": [1]}) for n in names]}


BODIES: list[tuple[str, Any, str]] = [
    ("empty body", b"", "no V2 inference request"),
    ("broken JSON", b'{"inputs": [', "no V2 inference request"),
    ("top level array", b"[1, 2]", "no V2 inference request"),
    ("missing input", only("distance"), "the input 'zone' (INT64) is missing"),
    ("unknown input", only("distance", "zone", "colour"), "no input named 'colour'"),
    ("duplicate input", only("distance", "zone", "zone"), "given twice"),
    ("no inputs", {"inputs": []}, "is missing"),
    ("wrong feature count", {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}]},
     "has 3 columns, but the model has 2 features"),
    ("shape against data", two(shape=[2]), "shape [2] but 1 values"),
    ("negative shape", two(shape=[-1]), "shape [-1] but 1 values"),
    ("huge shape", two(shape=[10**18]), "but 1 values"),
    ("shape beyond 64 bits", two(shape=[10**400]), "but 1 values"),
    ("shape of many dimensions", two(shape=[1] * 5000), "send [rows] or [rows, 1]"),
    ("huge matrix", {"inputs": [{"name": "x", "shape": [10**12, 2], "datatype": "FP64", "data": [1, 2]}]}, "but 2 values"),
    ("unknown datatype", two(datatype="FP128"), "datatype 'FP128'"),
    ("no datatype", two(datatype=None), "no V2 inference request"),
    ("string in FP64", two("2.0"), "is '2.0' in row 0; it needs FP64"),
    ("null in FP64", two(None), "is null in row 0"),
    ("boolean in FP64", two(True), "is True in row 0; it needs FP64"),
    ("NaN", text("2.0", "NaN"), "no V2 inference request"),
    ("Infinity", text("2.0", "-Infinity"), "no V2 inference request"),
    ("1e999", text("2.0", "1e999"), "the body is no V2 inference request"),
    ("ragged rows", {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [[1, 2], [3]]}]},
     "has 1 values in row 1"),
    ("ragged column", two([1, 2], shape=[1, 1]), "is [1, 2] in row 0"),
    ("INT64 2^63", two(zone=2**63), "does not fit INT64"),
    ("INT64 far beyond", two(zone=10**300), "INT64"),
    ("UINT8 300", {"inputs": [two()["inputs"][0], {"name": "zone", "shape": [1], "datatype": "UINT8", "data": [300]}]},
     "is 300 in row 0, which does not fit UINT8"),
    ("UINT64 below zero", {"inputs": [two()["inputs"][0],
                                      {"name": "zone", "shape": [1], "datatype": "UINT64", "data": [-1]}]}, "UINT64"),
    ("fraction in INT32", two(2.5, datatype="INT32"), "does not fit INT32"),
    ("FP32 too large", two(1e39, datatype="FP32"), "does not fit FP32"),
    ("unknown output", two() | {"outputs": [{"name": "colour"}]}, "no output named 'colour'; it has prediction"),
    ("wrong unit", two() | {"parameters": {"unit": ["a", "b"]}}, "the parameter unit"),
    ("wrong attributes", two() | {"parameters": {"attributes": 7}}, "the parameter attributes"),
    ("nesting depth 100,000", b"[" * 100_000, "no V2 inference request"),
    ("nesting of objects", b'{"inputs":' * 20_000, "no V2 inference request"),
    ("nesting in the data", text("[2.0]", "[" * 50_000 + "]" * 50_000), "the body"),
    ("nesting in attributes", two() | {"parameters": {"attributes": [{"a": json.loads("[" * 50 + "]" * 50)}]}},
     "nests deeper than 32"),
    ("invalid UTF-8", b'{"inputs": [{"name": "\xff\xfe", "shape": [1], "datatype": "FP64", "data": [1]}]}', "the body"),
    ("half a surrogate", text("distance", "\\ud800"), "the body"),
    ("too many rows", infer_body(rows=51), "has 51 rows, at most 50 are taken"),
]  # fmt: skip


def good(http: GatewayClient) -> None:
    answer = http.post(INFER, json=infer_body())
    assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [4.0])


def refused(http: GatewayClient, response: Any, status: int, says: str = "") -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert says in error
    assert len(error) < 700
    good(http)


@pytest.mark.parametrize(("body", "says"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES])
def test_a_bad_body_is_one_sentence(http: GatewayClient, body: Any, says: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    refused(http, http.post(INFER, content=content, headers=JSON), 413 if "rows, at most" in says else 400, says)


def test_zero_rows_are_answered_with_zero_rows_and_not_logged(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        for body in (infer_body(rows=0), {"inputs": [{"name": "x", "shape": [0, 2], "datatype": "FP64", "data": []}]}):
            answer = http.post(INFER, json=body | {"id": "mine"})
            assert answer.status_code == 200
            assert answer.json()["outputs"] == [{"name": "prediction", "datatype": "FP64", "shape": [0], "data": []}]
            assert (answer.json()["id"], "prediction_id" in answer.json()["parameters"]) == ("mine", False)
        rows = http.post("/predict", json={"rows": []})
        many = http.post("/batch_predict", json={"instances": []})
        good(http)
    assert (rows.status_code, rows.json()["predictions"]) == (200, [])
    assert (many.status_code, many.json()["count"], many.json()["batches"]) == (200, 0, 0)
    assert len(kit.records()) == 1


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v2/models/nope/infer", "no model named 'nope'"),
        ("/v2/models/eta/versions/v9/infer", "version 'v9' of eta is not served"),
        ("/v2/models/eta%2Finfer/x", "there is nothing at"),
        ("/v2/models//infer", "there is nothing at"),
        ("/v2/models/%ff%00/infer", "no model named"),
        ("/nope", "there is nothing at '/nope'"),
    ],
)
def test_unknown_names_are_404(http: GatewayClient, path: str, says: str) -> None:
    refused(http, http.post(path, json=infer_body()), 404, says)


@pytest.mark.parametrize("path", [INFER, "/v2/models/eta/versions/v1/infer", "/predict", "/batch_predict"])
def test_get_on_infer_is_405_with_allow(http: GatewayClient, path: str) -> None:
    answer = http.get(path)
    refused(http, answer, 405, "GET is not allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v2", "/health", "/metrics", "/model_info", "/v2/models/eta", "/openapi.json"])
def test_every_path_knows_its_methods(http: GatewayClient, path: str) -> None:
    assert http.get(path).status_code == 200
    assert http.get(path + "/").status_code == 200
    head = http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    wrong = http.delete(path)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
    options = http.options(path)
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD")


def test_a_path_may_be_written_in_other_ways(http: GatewayClient) -> None:
    for path in (f"{INFER}/", "/v2/models/%65ta/infer", "/v2/models/eta/versions/v1/infer/"):
        answer = http.post(path, json=infer_body())
        assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [4.0])


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "x" * 500])
def test_a_wrong_content_type_is_415(http: GatewayClient, kind: str) -> None:
    body = json.dumps(infer_body())
    refused(http, http.post(INFER, content=body, headers={"content-type": kind}), 415, "is not understood")
    refused(http, http.post(INFER, content=body, headers={**JSON, "content-encoding": "br"}), 415, "plain bytes")


class Sender:
    """A caller that counts what of its body was really read."""

    def __init__(self, piece: bytes, pieces: int) -> None:
        self.piece, self.left, self.read = piece, pieces, 0

    async def __call__(self) -> dict[str, Any]:
        self.read += 1
        self.left -= 1
        return {"type": "http.request", "body": self.piece, "more_body": self.left > 0}


def ask(gateway: Gateway, receive: Callable[..., Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    given = [(k.encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": "POST", "path": INFER, "headers": given, "query_string": b""}
    asyncio.run(gateway(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_an_oversize_body_is_413_before_all_of_it_was_read(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    gateway = kit.gateway(max_body=10_000)
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"))))
        announced = Sender(b"x" * 1000, 1000)
        unannounced = Sender(b"x" * 1000, 1000)
        first = ask(gateway, announced, JSON | {"content-length": "1000000"})
        second = ask(gateway, unannounced, JSON)
        good(http)
    assert (first[0], announced.read) == (413, 0)
    assert (second[0], unannounced.read) == (413, 11)
    assert "at most 10000 are taken" in first[1]["error"] and "at most 10000 are taken" in second[1]["error"]


def binary(head: dict[str, Any], *tail: bytes, length: Any = None) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    headers = {"content-type": "application/octet-stream", LENGTH: str(len(text) if length is None else length)}
    return text + b"".join(tail), headers


def raw(name: str, datatype: str, size: Any, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [1], "parameters": {"binary_data_size": size}}


TWO = struct.pack("<d", 2.0), struct.pack("<q", 74)
PAIR = {"inputs": [raw("distance", "FP64", 8), raw("zone", "INT64", 8)]}


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (binary(PAIR, *TWO, length=10**6), "Inference-Header-Content-Length is '1000000', but the body has"),
        (binary(PAIR, *TWO, length=-1), "Inference-Header-Content-Length is '-1'"),
        (binary(PAIR, *TWO, length="many"), "Inference-Header-Content-Length is 'many'"),
        (binary(PAIR, *TWO, length=3), "the body's JSON is no V2 inference request"),
        (binary(PAIR, TWO[0]), "'zone' has binary_data_size 8, but 0 bytes of the body are left"),
        (binary(PAIR, *TWO, b"more"), "4 bytes of the body belong to no input"),
        (binary({"inputs": [raw("distance", "FP64", 10**20), raw("zone", "INT64", 8)]}, *TWO), "binary_data_size 1000"),
        (binary({"inputs": [raw("distance", "FP64", -8), raw("zone", "INT64", 8)]}, *TWO), "binary_data_size -8"),
        (binary({"inputs": [raw("distance", "FP64", True), raw("zone", "INT64", 8)]}, *TWO), "binary_data_size True"),
        (
            binary({"inputs": [raw("distance", "FP64", 8, [10**15]), raw("zone", "INT64", 8)]}, *TWO),
            "8 bytes; they must",
        ),
        (binary({"inputs": [raw("distance", "FP64", 8, [-1]), raw("zone", "INT64", 8)]}, *TWO), "may not be negative"),
        (binary({"inputs": [raw("x", "FP64", 16, [2, 2])]}, *TWO), "16 bytes; they must agree"),
        (binary({"inputs": [raw("x", "FP99", 16, [1, 2])]}, *TWO), "datatype 'FP99'"),
        (binary({"inputs": [{"name": "zone", "shape": [1], "datatype": "INT64"}]}), "neither data nor"),
        (binary({"inputs": [raw("x", "FP64", 16, [1, 2])]}, struct.pack("<dd", 1.0, float("nan"))), "is nan in row 0"),
        (binary({"inputs": [raw("distance", "FP64", 8), raw("zone", "BYTES", 8)]}, *TWO), "datatype 'BYTES'"),
    ],
)
def test_a_wrong_binary_body_is_one_sentence(
    http: GatewayClient, sent: tuple[bytes, dict[str, str]], says: str
) -> None:
    refused(http, http.post(INFER, content=sent[0], headers=sent[1]), 400, says)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body is no JSON"),
        (b"[]", "the body is no object"),
        (b"{}", "misses the input 'distance'"),
        ({"rows": 7}, '"rows" is no list'),
        ({"rows": [1]}, "row 0 is 1"),
        ({"rows": [{"distance": 1}]}, "row 0 misses the input 'zone'"),
        ({"rows": [{"distance": 1, "zone": 1, "x": 1}]}, "no input named 'x'"),
        ({"rows": [{"distance": "1", "zone": 1}]}, "is '1' in row 0"),
        ({"rows": [[1, 2], [3]]}, "row 1 has 1 values, but the model has 2 features"),
        ({"rows": [[1, 2.5]]}, "is 2.5 in row 0; it needs INT64"),
        ({"rows": [{"distance": 1, "zone": 1}] * 51}, "has 51 rows, at most 50"),
        ({"model": "nope", "rows": []}, "no model named 'nope'"),
        (b'{"rows": ' * 40 + b"1" + b"}" * 40, "nests deeper than 32"),
        (b"[" * 100_000, "the body"),
    ],
)
def test_wrong_rows_are_one_sentence(http: GatewayClient, body: Any, says: str) -> None:
    status = 404 if "no model" in says else 413 if "at most" in says else 400
    for path in ("/predict", "/batch_predict"):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        refused(http, http.post(path, content=content, headers=JSON), status, says)


@pytest.mark.parametrize("size", [0, -1, 5000, 1.5, "many", True, None])
def test_a_wrong_batch_size_is_refused(http: GatewayClient, size: Any) -> None:
    body = {"instances": [{"distance": 1, "zone": 1}], "batch_size": size}
    refused(http, http.post("/batch_predict", json=body), 400, "batch_size is")


def test_no_key_and_a_wrong_key_are_401(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway(key=b"secret"), key="secret") as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        for headers in (
            {"authorization": ""},
            {"authorization": "Bearer wrong"},
            {"authorization": "", "x-api-key": "no"},
        ):
            refused(http, http.post(INFER, json=infer_body(), headers=headers), 401, "the key is missing or wrong")
