"""Messages whose head is known are read like any other, and answers written by hand are protobuf."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from flyball.errors import BadRequest
from flyball.features.spec import InputSpec
from flyball.serving.grpc.codec import call_from, call_of_known, response
from flyball.serving.grpc.messages import message
from flyball.serving.grpc.wire import Heads, varint
from flyball.serving.protocol import Signature

Infer, Inferred = message("ModelInferRequest"), message("ModelInferResponse")
NAMES = ("a", "b", "c")


def signature(kind: str = "float64") -> Signature:
    return Signature.of([InputSpec(name, kind) for name in NAMES], fields=NAMES)


def asked(values, *, shape=None, datatype="FP64", **facts):
    request = Infer(model_name="eta", **facts)
    request.inputs.add(name="x", datatype=datatype, shape=shape or [1, len(values)])
    request.raw_input_contents.append(np.asarray(values, dtype="<f8" if datatype == "FP64" else "<i8").tobytes())
    return request


def learned(request) -> Heads:
    heads = Heads()
    body = request.SerializeToString()
    heads.learn(Infer, body, Infer.FromString(body), "/v2/models/eta/infer")
    return heads


def test_a_known_head_gives_the_same_rows_as_the_whole_message():
    inputs, rng = signature(), np.random.default_rng(3)
    heads = learned(asked([1.0, 2.0, 3.0]))
    for _ in range(50):
        request = asked(rng.normal(size=3).tolist())
        found = heads.find(request.SerializeToString())
        assert found is not None
        ours, theirs = call_of_known(*found, inputs), call_from(request, inputs)
        assert (ours.columns, ours.n, list(ours.flat)) == (theirs.columns, theirs.n, list(theirs.flat))
        assert (found[0].model, found[0].path) == ("eta", "/v2/models/eta/infer")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_known_head_lets_no_bad_number_through(bad):
    inputs, heads = signature(), learned(asked([1.0, 2.0, 3.0]))
    for values, fits in (([1.0, 2.0, 3.0], True), ([1.0, bad, 3.0], False), ([4.0, 5.0, 6.0], True)):
        found = heads.find(asked(values).SerializeToString())
        assert found is not None
        if fits:
            assert call_of_known(*found, inputs).n == 1
        else:
            with pytest.raises(BadRequest, match="finite"):
                call_of_known(*found, inputs)


def test_another_table_checks_a_known_head_anew():
    heads = learned(asked([1.0, 2.0, 3.0]))
    found = heads.find(asked([1.0, 2.0, 3.5]).SerializeToString())
    assert found is not None and call_of_known(*found, signature()).columns["c"] == [3.5]
    with pytest.raises(BadRequest, match="c"):  # the third is a whole number there
        call_of_known(*found, signature("int64"))
    fewer = Signature.of([InputSpec("a", "float64")], fields=("a",))
    with pytest.raises(BadRequest, match="3 columns"):
        call_of_known(*found, fewer)


def test_outputs_that_do_not_exist_are_refused_under_a_known_head_as_well():
    request = asked([1.0, 2.0, 3.0])
    request.outputs.add(name="nothing")
    found = learned(request).find(request.SerializeToString())
    for _ in range(2):
        with pytest.raises(BadRequest, match="nothing"):
            call_of_known(*found, signature())


def test_whole_numbers_and_several_rows_come_through_a_known_head():
    for request, kind in ((asked([1, 2, 3], datatype="INT64"), "int64"),
                          (asked(range(12), shape=[4, 3]), "float64")):  # fmt: skip
        found = learned(request).find(request.SerializeToString())
        ours, theirs = call_of_known(*found, signature(kind)), call_from(request, signature(kind))
        assert (ours.columns, ours.n) == (theirs.columns, theirs.n)


def test_what_names_a_single_request_is_not_remembered():
    tagged = asked([1.0, 2.0, 3.0])
    tagged.parameters["unit"].string_param = "rider"
    two = asked([1.0, 2.0, 3.0])
    two.inputs.add(name="y", datatype="FP64", shape=[1])
    two.raw_input_contents.append(struct.pack("<d", 1.0))
    for request in (asked([1.0], id="mine"), tagged, two):
        assert learned(request).find(request.SerializeToString()) is None


def test_a_text_that_looks_like_a_tensor_at_the_end_is_not_taken_for_one():
    """The tensor stands first, and a model's name ends in the same bytes: its tail is no tensor."""
    tensor = struct.pack("<d", 1.0)
    field = b"\x3a\x08" + tensor
    name = b"eta" + field
    inputs = Infer()
    inputs.inputs.add(name="x", datatype="FP64", shape=[1, 1])
    body = inputs.SerializeToString() + field + b"\x0a" + bytes((len(name),)) + name
    try:
        request = Infer.FromString(body)
    except Exception:  # a name has to be UTF-8: then nothing is learned of it either
        return
    heads = Heads()
    heads.learn(Infer, body, request, "/")
    assert heads.find(body) is None


def test_heads_are_bounded():
    heads = Heads()
    for k in range(1000):
        request = Infer(model_name=f"m{k}")
        request.inputs.add(name="x" * (k % 90), datatype="FP64", shape=[1, 1])
        request.raw_input_contents.append(bytes(8))
        heads.learn(Infer, request.SerializeToString(), request, "/")
    assert len(heads._known) <= 256
    huge = Infer(model_name="m" * 5_000)
    huge.inputs.add(name="x", datatype="FP64", shape=[1, 1])
    huge.raw_input_contents.append(bytes(8))
    assert learned(huge).find(huge.SerializeToString()) is None


def test_an_answer_is_the_message_that_protobuf_reads():
    facts = {"table_version": 2**40, "model_version": "v1", "prediction_id": "ü", "below": -3, "empty": ""}
    outputs = [("prediction", "BYTES", [2], ["é", "b"]), ("probabilities", "FP64", [2, 2], [0.25, 0.75, 1.0, 0.0]),
               ("count", "INT64", [2], [-(2**63), 2**63 - 1]), ("yes", "BOOL", [2], [True, False]),
               ("many", "FP64", [200], [float(k) for k in range(200)])]  # fmt: skip
    for raw in (True, False):
        made = Inferred.FromString(response("eta" * 60, "v1", "id", facts, outputs, raw=raw))
        assert (made.model_name, made.model_version, made.id) == ("eta" * 60, "v1", "id")
        said = {k: (p.string_param if p.WhichOneof("parameter_choice") == "string_param" else p.int64_param)
                for k, p in made.parameters.items()}  # fmt: skip
        assert said == facts
        assert [(o.name, o.datatype, list(o.shape)) for o in made.outputs] == [o[:3] for o in outputs]
        if raw:
            assert list(np.frombuffer(made.raw_output_contents[1])) == outputs[1][3]
            assert list(np.frombuffer(made.raw_output_contents[2], "<i8")) == outputs[2][3]
            assert list(made.raw_output_contents[3]) == [1, 0]
            assert np.frombuffer(made.raw_output_contents[4]).tolist() == outputs[4][3]
        else:
            assert list(made.outputs[0].contents.bytes_contents) == ["é".encode(), b"b"]
            assert list(made.outputs[2].contents.int64_contents) == outputs[2][3]
            assert not made.raw_output_contents


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)])
def test_varints_are_protobufs(value):
    made = Inferred()
    made.parameters["k"].int64_param = value
    assert varint(value) in made.SerializeToString()
