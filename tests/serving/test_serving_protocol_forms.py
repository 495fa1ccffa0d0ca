"""Forms of requests and answers: one tensor of all columns, binary tensors, asked outputs, classes, batches, state."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_kit import Kit, double, infer_body, table, triple

from flyball.errors import BadRequest
from flyball.features.spec import InputSpec
from flyball.records.types import Prediction
from flyball.rollout.routing import ServingSpec
from flyball.serving.http.handlers.predicting import pieces
from flyball.serving.protocol import Call, Signature, call_of, decode_json, encode_wanted, label, metadata, parse_infer
from flyball.serving.protocol.types import Wanted
from flyball.testing.in_process import client

INFER = "/v2/models/eta/infer"
LENGTH = "inference-header-content-length"
K = 5
FIELDS = Signature.of([InputSpec(f"x{i}", "float64") for i in range(K)], fields=[f"x{i}" for i in range(K)])
MIXED = Signature.of(
    [InputSpec("a", "float64"), InputSpec("n", "int64"), InputSpec("b", "bool"), InputSpec("c", "string", required=False)],
    fields=["a", "n", "b"],
)  # fmt: skip
finite = st.floats(allow_nan=False, allow_infinity=False)


def tensor(data: Any, shape: list[int], datatype: str = "FP64", name: str = "input", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data} | more


def parse(signature: Signature, *tensors: dict[str, Any], **more: Any) -> Call:
    return parse_infer(json.dumps({"inputs": list(tensors), **more}).encode(), signature)


# -- one tensor of all columns ------------------------------------------------------------------------------------------


@given(st.lists(st.lists(finite, min_size=K, max_size=K), max_size=4))
def test_one_tensor_is_the_same_as_one_input_per_field(rows: list[list[float]]) -> None:
    n = len(rows)
    flat = [v for row in rows for v in row]
    wanted = {f"x{i}": [row[i] for row in rows] for i in range(K)}
    body = json.dumps({"inputs": [tensor([], [n, K], parameters={"binary_data_size": 8 * len(flat)})]}).encode()
    binary = body + struct.pack(f"<{len(flat)}d", *flat)
    headers = [(LENGTH.encode(), b"%d" % len(body))]
    for call in (
        parse(FIELDS, tensor(flat, [n, K])),
        parse(FIELDS, tensor(rows, [n, K])),
        parse_infer(binary, FIELDS, headers),
        call_of([("any", "FP64", (n, K), struct.pack(f"<{len(flat)}d", *flat))], FIELDS),
    ):
        assert (call.n, call.columns) == (n, wanted)
        assert np.array_equal(np.asarray(call.flat, float).reshape(n, K), np.array(rows, float).reshape(n, K))


def test_columns_of_one_tensor_become_what_their_inputs_are() -> None:
    call = parse(MIXED, tensor([1, 2.0, 1, 3.5, -4, 0], [2, 3], "FP32"))
    assert call.columns == {"a": [1.0, 3.5], "n": [2, -4], "b": [True, False], "c": [None, None]}
    assert [type(v) for v in call.columns["n"]] == [int, int]
    for wrong, says in (([1, 2.5, 0], "'n' is 2.5"), ([1, 2, 3], "'b' is 3"), ([1, 2, "x"], "'b' is 'x'")):
        with pytest.raises(BadRequest, match=says):
            parse(MIXED, tensor(wrong, [1, 3]))


def test_one_tensor_is_no_form_for_models_that_read_more_than_numbers() -> None:
    texts = Signature.of([InputSpec("a", "float64"), InputSpec("t", "string")], fields=["a", "t"])
    keyed = Signature.of([InputSpec("zone", "float64"), InputSpec("a", "float64")])
    for signature in (texts, keyed):
        with pytest.raises(BadRequest, match="no input named 'input'"):
            parse(signature, tensor([1, 2], [1, 2]))
        assert "parameters" not in metadata("m", [], signature)
    assert metadata("m", [], FIELDS)["parameters"] == {"matrix": [-1, K], "matrix_columns": list(FIELDS.columns)}


# -- binary tensors -----------------------------------------------------------------------------------------------------

EVERY = Signature.of(
    [InputSpec("f", "float64"), InputSpec("n", "int64"), InputSpec("b", "bool"), InputSpec("s", "string"),
     InputSpec("raw", "bytes"), InputSpec("v", "vector<2>"), InputSpec("at", "timestamp")]
)  # fmt: skip


def test_every_datatype_is_the_same_as_bytes_and_as_json() -> None:
    sent: list[tuple[str, str, list[int], Any, bytes]] = [
        ("f", "FP16", [2], [1.5, -2.0], struct.pack("<2e", 1.5, -2.0)),
        ("n", "UINT8", [2], [0, 255], bytes([0, 255])),
        ("b", "BOOL", [2], [True, False], b"\x01\x00"),
        ("s", "BYTES", [2], ["é", ""], struct.pack("<I", 2) + "é".encode() + struct.pack("<I", 0)),
        ("raw", "BYTES", [2], ["AP8=", ""], struct.pack("<I", 2) + b"\x00\xff" + struct.pack("<I", 0)),
        ("v", "FP32", [2, 2], [1, 2, 3, 4.5], struct.pack("<4f", 1, 2, 3, 4.5)),
        ("at", "INT64", [2], [0, 10**15], struct.pack("<2q", 0, 10**15)),
    ]
    plain = parse(EVERY, *(tensor(data, shape, kind, name) for name, kind, shape, data, _ in sent))
    head = json.dumps({"inputs": [
        {"name": n, "datatype": k, "shape": s, "parameters": {"binary_data_size": len(b)}} for n, k, s, _, b in sent
    ]}).encode()  # fmt: skip
    body = head + b"".join(b for *_, b in sent)
    binary = parse_infer(body, EVERY, [(LENGTH.encode(), str(len(head)).encode())])
    other = call_of([(n, k, s, b) for n, k, s, _, b in sent], EVERY, id="7", parameters={"unit": "u"})
    assert binary.columns == plain.columns == other.columns
    assert (other.id, other.units) == ("7", "u")


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [(f"{sign}INT{bits}", 0 if sign else -(2 ** (bits - 1)), 2 ** (bits if sign else bits - 1) - 1)
     for sign in ("", "U") for bits in (8, 16, 32, 64)],
)  # fmt: skip
def test_integers_keep_the_range_of_their_datatype(kind: str, low: int, high: int) -> None:
    one = Signature.of([InputSpec("f", "float64")])
    assert parse(one, tensor([low, high], [2], kind, "f")).columns["f"] == [float(low), float(high)]
    for wrong in (low - 1, high + 1):
        with pytest.raises(BadRequest, match=f"which does not fit {kind}"):
            parse(one, tensor([wrong], [1], kind, "f"))


def test_binary_outputs_are_the_bytes_of_the_json_ones(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        body = infer_body(2.5, rows=3)
        plain = http.post(INFER, json=body).json()
        asked = http.post(INFER, json=body | {"outputs": [{"name": "prediction", "parameters": {"binary_data": True}}]})
        whole = http.post(INFER, json=body | {"parameters": {"binary_data_output": True}})
        off = http.post(INFER, json=body | {"parameters": {"binary_data_output": True}, "outputs": [
            {"name": "prediction", "parameters": {"binary_data": False}}]})  # fmt: skip
    assert off.json()["outputs"] == plain["outputs"]
    for answer in (asked, whole):
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers[LENGTH])
        head = json.loads(answer.content[:length])
        assert head["outputs"] == [
            {"name": "prediction", "datatype": "FP64", "shape": [3], "parameters": {"binary_data_size": 24}}
        ]
        assert list(np.frombuffer(answer.content[length:], "<f8")) == plain["outputs"][0]["data"]


# -- classes ------------------------------------------------------------------------------------------------------------


def probabilities(matrix: np.ndarray) -> np.ndarray:
    p = np.clip(matrix[:, 0], 0, 1)
    return np.column_stack([1 - p, p])


def classifier(kit: Kit, classes: tuple[Any, ...], **route: Any) -> Any:
    """Have the gateway's cache say that its versions are classifiers of these classes."""
    made = kit.gateway()
    prepare = made.tables._models._prepare
    made.tables._models._prepare = lambda ref: replace(prepare(ref), classes=classes)
    return made


@pytest.mark.parametrize(
    ("classes", "datatype", "named"),
    [((0, 1), "INT64", [0, 1]), ((0.0, 1.0), "FP64", [0.0, 1.0]), (("no", "yes"), "BYTES", ["no", "yes"]),
     ((False, True), "BOOL", [False, True])],
)  # fmt: skip
def test_a_classifier_answers_classes_and_probabilities(
    tmp_path: Path, classes: tuple[Any, ...], datatype: str, named: list[Any]
) -> None:
    kit = Kit(tmp_path, v1=probabilities)
    matrix = {"inputs": [tensor([0.25, 1, 0.75, 1], [2, 2])]}
    rows = {"rows": [{"distance": 0.25, "zone": 1}, {"distance": 0.75, "zone": 1}]}
    with client(classifier(kit, classes)) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        answer = http.post(INFER, json=matrix).json()["outputs"]
        one = http.post(INFER, json=matrix | {"outputs": [{"name": "probabilities"}]}).json()["outputs"]
        short = http.post("/predict", json=rows).json()
        single = http.post("/predict", json={"distance": 0.75, "zone": 1}).json()
        many = http.post("/batch_predict", json={"instances": rows["rows"], "batch_size": 1}).json()
        described = http.get("/v2/models/eta").json()["outputs"]
        empty = http.post(INFER, json={"inputs": [tensor([], [0, 2])]}).json()["outputs"]
        raw = http.post(INFER, json=matrix | {"parameters": {"binary_data_output": True}})
    assert answer[0] == {"name": "prediction", "datatype": datatype, "shape": [2], "data": named}
    assert answer[1] == {"name": "probabilities", "datatype": "FP64", "shape": [2, 2], "data": [0.75, 0.25, 0.25, 0.75]}
    assert one == answer[1:]
    assert (short["predictions"], short["probabilities"]) == (named, [[0.75, 0.25], [0.25, 0.75]])
    assert (single["prediction"], single["predictions"]) == (named[1], named[1:])
    assert (many["predictions"], many["probabilities"]) == (named, short["probabilities"])
    assert [o["datatype"] for o in described] == [datatype, "FP64"]
    assert described[1]["parameters"]["classes"] == list(classes)
    assert [o["shape"] for o in empty] == [[0], [0, 2]]
    assert raw.headers["content-type"] == "application/octet-stream"
    record = next(r for r in kit.records() if isinstance(r, Prediction))
    assert record.value == [0.75, 0.25]  # the log keeps what the model said


def test_rows_of_versions_with_other_classes_are_named_by_their_own() -> None:
    named = label([[0.2, 0.8], [0.9, 0.1]], [("a", "b"), ("b", "c")])
    assert named.predictions == ["b", "b"]
    assert (named.classes, named.probabilities) == (("a", "b"), [[0.2, 0.8], [0.0, 0.9]])


def test_texts_go_out_with_their_length() -> None:
    body, length = encode_wanted(
        Wanted(("prediction",), frozenset({"prediction"})), "m", "v1", "p", 1, [[0.1, 0.9]],
        labelled=label([[0.1, 0.9]], ("nö", "ja")),
    )  # fmt: skip
    assert length is not None
    assert body[length:] == struct.pack("<I", 2) + b"ja"


def test_several_numbers_a_row_keep_their_shape(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=probabilities)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        output = http.post(INFER, json=infer_body(0.25, rows=2)).json()["outputs"]
        described = http.get("/v2/models/eta").json()["outputs"]
    assert output == [{"name": "prediction", "datatype": "FP64", "shape": [2, 2], "data": [0.75, 0.25, 0.75, 0.25]}]
    assert described == [{"name": "prediction", "datatype": "FP64", "shape": [-1, 2]}]


# -- short forms and state ------------------------------------------------------------------------------------------------


def test_batches_are_answered_in_order_with_units_and_ids(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    instances = [{"distance": float(i), "zone": 1} for i in range(10)]
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        body = {"instances": instances, "batch_size": 4, "unit": [f"u{i}" for i in range(10)]}
        answer = http.post("/batch_predict", json=body).json()
    assert answer["predictions"] == [2.0 * i for i in range(10)]
    assert (answer["count"], answer["batches"], answer["model_version"]) == (10, 3, "v1")
    assert answer["rows_per_second"] > 0
    by_id = {r.id: r for r in kit.records() if isinstance(r, Prediction)}
    assert [by_id[pid].unit for pid in answer["prediction_ids"]] == [f"u{i}" for i in range(10)]


@given(st.integers(0, 30), st.integers(1, 12))
def test_pieces_hold_every_row_once_in_order(n: int, size: int) -> None:
    call = Call({"a": list(range(n))}, n, units=[str(i) for i in range(n)], attributes=[{"i": i} for i in range(n)])
    found = pieces(call, size)
    assert [v for p in found for v in p.columns["a"]] == list(range(n))
    assert [u for p in found for u in p.units or []] == call.units
    assert all(0 < p.n <= size and p.n == len(p.columns["a"]) == len(p.attributes or []) for p in found)


def test_lists_of_numbers_are_rows_too(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        assert http.post("/predict", json={"instances": [[1.5, 2], [2, 3]]}).json()["predictions"] == [3.0, 4.0]


@given(st.recursive(st.integers() | st.text(), lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(), s, max_size=3),
                    max_leaves=12), st.integers(1, 6))  # fmt: skip
def test_depth_is_counted_as_the_levels_of_lists_and_objects(value: Any, depth: int) -> None:
    def levels(v: Any) -> int:
        inner = v.values() if isinstance(v, dict) else v if isinstance(v, list) else ()
        return 0 if not isinstance(v, list | dict) else 1 + max(map(levels, inner), default=0)

    body = json.dumps(value).encode()
    if levels(value) > depth:
        with pytest.raises(BadRequest, match="nests deeper"):
            decode_json(body, depth=depth)
    else:
        assert decode_json(body, depth=depth) == value


def test_a_model_of_this_service_is_told_whole(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    gateway = kit.gateway(settings={"deadline": 1.0, "key": "set"})
    with client(gateway) as http:
        http.call(gateway.swap(table(4, kit.ref("v1"))))
        http.post(INFER, json=infer_body())
        info = http.get("/model_info").json()
        health = http.get("/health").json()
        server = http.get("/v2").json()
        meta = http.get("/v2/models/eta").json()
        version = http.get("/v2/models/eta/versions/v1").json()
    model = info["models"]["eta"]
    assert (model["version"], model["state"], info["settings"]) == ("v1", "ready", {"deadline": 1.0, "key": "set"})
    assert model["feature_types"] == [
        {"name": "distance", "type": "float64", "from": "field"}, {"name": "zone", "type": "int64", "from": "field"},
    ]  # fmt: skip
    assert (health["status"], health["requests"], health["error_rate"]) == ("ok", 1, 0.0)
    assert (health["versions"], health["table_version"], health["models"]) == ({"eta": "v1"}, 4, ["eta"])
    assert health["uptime"] >= 0
    assert server["extensions"] == ["binary_tensor_data", "model_repository"]
    assert meta == version
    assert (meta["versions"], meta["inputs"][1]["datatype"]) == (["v1"], "INT64")
    assert None not in meta.values()


def test_repository_calls_reach_control_and_the_table_decides(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    asked: list[tuple[str, str, str]] = []

    async def control(action: str, model: str, actor: str) -> dict[str, Any]:
        asked.append((action, model, actor))
        old = http.gateway.table
        route = replace(old.models[model], unloaded=action == "unload")
        await http.gateway.swap(replace(old, version=old.version + 1, models={model: route}))
        state = "UNAVAILABLE" if route.unloaded else "READY"
        return {"name": model, "state": state, "table_version": old.version + 1}

    with client(kit.gateway(repository=control)) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"), warm=(kit.ref("v2"),))))
        index = http.post("/v2/repository/index").json()
        out = http.post("/v2/repository/models/eta/unload", json={}).json()
        away = http.post(INFER, json=infer_body())
        pinned = http.post("/v2/models/eta/versions/v1/infer", json=infer_body())
        short = http.post("/predict", json={"distance": 1, "zone": 1})
        ready = http.get("/v2/models/eta/ready")
        none = http.post("/v2/repository/index", json={"ready": True}).json()
        all_of_them = http.post("/v2/repository/index", json={"ready": False}).json()
        back = http.post("/v2/repository/models/eta/load").json()
        again = http.post(INFER, json=infer_body())
    assert [(e["name"], e["version"], e["state"]) for e in index] == [("eta", "v1", "READY"), ("eta", "v2", "READY")]
    assert (out["state"], back["state"], again.status_code) == ("UNAVAILABLE", "READY", 200)
    assert [a.status_code for a in (away, pinned, short)] == [503] * 3
    assert "was taken out of service" in away.json()["error"]
    assert (ready.status_code, ready.json()["ready"], none) == (503, False, [])
    assert {e["state"] for e in all_of_them} == {"UNAVAILABLE"}
    assert [a[:2] for a in asked] == [("unload", "eta"), ("load", "eta")]


def test_without_control_repository_calls_say_so(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        answer = http.post("/v2/repository/models/eta/unload")
    assert (answer.status_code, answer.json()["error"]) == (
        503, "this gateway has no control process behind it, so it cannot unload models",
    )  # fmt: skip


def test_a_models_own_limit_of_rows_goes_before_the_servers(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway(max_rows=1)) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"), serving=ServingSpec(max_rows=3))))
        codes = [http.post(INFER, json=infer_body(rows=n)).status_code for n in (1, 3, 4)]
        many = http.post("/batch_predict", json={"instances": [{"distance": 1.0, "zone": 1}] * 4})
    assert codes == [200, 200, 413]
    assert (many.status_code, many.json()["error"]) == (
        413,
        "the request has 4 rows, at most 3 are taken; send fewer rows at once",
    )
