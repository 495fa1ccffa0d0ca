from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import BadRequest
from flyball.features.spec import InputSpec
from flyball.serving.protocol import (
    Call,
    Signature,
    decode_json,
    encode_infer,
    parse_infer,
    parse_lines,
    parse_outcomes,
    rows_call,
)

SPECS = {
    "zone": InputSpec("zone", "int64"),
    "miles": InputSpec("miles", "float64"),
    "rush": InputSpec("rush", "bool", required=False),
    "vendor": InputSpec("vendor", "string", required=False),
    "booked": InputSpec("booked", "timestamp", required=False),
    "tip": InputSpec("tip", "float64", required=False),
}
INPUTS = Signature.of(SPECS.values())


def tensor(name: str, datatype: str, data: list, shape: list[int] | None = None) -> dict:
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data}


def parse(*tensors: dict, **more):
    return parse_infer(json.dumps({"inputs": list(tensors), **more}).encode(), INPUTS)


ZONE, MILES = tensor("zone", "INT64", [74]), tensor("miles", "FP64", [2.5])


def test_columns_are_typed_and_optional_ones_are_filled() -> None:
    call = parse(
        tensor("zone", "INT32", [74, 75]),
        tensor("miles", "FP32", [[1], [2.5]], [2, 1]),
        tensor("rush", "BOOL", [True, False]),
        tensor("vendor", "BYTES", ["a", None]),
        tensor("booked", "BYTES", ["2020-03-11T08:00:00+01:00", "2020-03-11T08:00:00"]),
    )
    assert call.n == 2
    assert call.columns["zone"] == [74, 75]
    assert call.columns["miles"] == [1.0, 2.5]
    assert call.columns["vendor"] == ["a", None]
    assert call.columns["booked"] == [1583910000000000, 1583913600000000]
    assert all(map(math.isnan, call.columns["tip"]))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ([ZONE], "the input 'miles' (FP64) is missing; send it"),
        ([ZONE, MILES, tensor("mile", "FP64", [1.0])], "the model has no input named 'mile'; did you mean miles?"),
        ([ZONE, ZONE, MILES], "input 'zone' is given twice; send each input once"),
        ([tensor("zone", "FP64", [1.0]), MILES], "input 'zone' has datatype 'FP64'; it is int64, send INT64"),
        ([tensor("zone", "INT64", ["74"]), MILES], "input 'zone' is '74' in row 0; it needs INT64 values"),
        ([ZONE, tensor("miles", "FP64", ["2.5"])], "input 'miles' is '2.5' in row 0; it needs FP64 values"),
        ([ZONE, tensor("miles", "FP64", [True])], "input 'miles' is True in row 0; it needs FP64 values"),
        ([ZONE, tensor("miles", "FP64", [None])], "input 'miles' is null in row 0; it is required"),
        ([ZONE, tensor("miles", "FP64", [1.0, 2.0])], "input 'miles' has 2 rows, the inputs before it 1"),
        ([ZONE, tensor("miles", "FP64", [1.0], [2])], "input 'miles' has shape [2] but 1 values; they must agree"),
        ([ZONE, tensor("miles", "FP64", [1.0], [1, 1, 1])], "input 'miles' has shape [1, 1, 1]; send [rows]"),
        ([tensor("zone", "INT64", [], [0]), MILES], "input 'miles' has 1 rows, the inputs before it 0"),
        ([tensor("zone", "INT64", [2**63]), MILES], "it does not fit INT64"),
        ([ZONE, MILES, tensor("booked", "BYTES", ["soon"])], "booked is 'soon'; send ISO 8601"),
    ],
)
def test_each_mistake_is_one_sentence(tensors: list[dict], sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(*tensors)
    assert sentence in str(caught.value)
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"inputs": 1}', b'{"inputs": [{"name": "zone"}]}', b"\xff"])
def test_bodies_that_are_no_request_are_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="no V2 inference request"):
        parse_infer(body, INPUTS)


def test_nan_is_not_json_and_infinity_is_refused() -> None:
    for text in ("NaN", "Infinity", "1e999"):
        body = json.dumps({"inputs": [ZONE, tensor("miles", "FP64", ["X"])]}).replace('"X"', text).encode()
        with pytest.raises(BadRequest):
            parse_infer(body, INPUTS)


def test_unit_is_one_or_one_per_row() -> None:
    two = tensor("zone", "INT64", [1, 2]), tensor("miles", "FP64", [1, 2])
    assert parse(*two, parameters={"unit": "u"}).units == "u"
    assert parse(*two, parameters={"unit": 7}).units == "7"
    assert parse(*two, parameters={"unit": ["a", 5]}).units == ["a", "5"]
    assert parse(*two, parameters={"attributes": [{"c": 1}, {}]}).attributes == [{"c": 1}, {}]
    for wrong in ({"unit": ["a"]}, {"unit": True}, {"unit": ""}, {"attributes": [{}]}, {"attributes": 1}):
        with pytest.raises(BadRequest, match="the parameter"):
            parse(*two, parameters=wrong)


def parse_rows(body: bytes) -> Call:
    return rows_call(decode_json(body), INPUTS)


def test_predict_rows_share_the_rules() -> None:
    call = parse_rows(b'{"rows": [{"zone": 1, "miles": 2}, {"zone": 2, "miles": 3, "tip": 1}], "unit": "u"}')
    assert (call.n, call.columns["zone"], call.columns["miles"], call.units) == (2, [1, 2], [2.0, 3.0], "u")
    assert call.columns["tip"][1] == 1.0
    for body, text in ((b"[]", "no object"), (b'{"rows": 1}', "no list"), (b'{"rows": [{"zoen": 1}]}', "zone?")):
        with pytest.raises(BadRequest, match=text):
            parse_rows(body)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1, max_size=5))
def test_floats_survive_the_round_trip(values: list[float]) -> None:
    call = parse(tensor("zone", "INT64", [1] * len(values)), tensor("miles", "FP64", values))
    assert call.columns["miles"] == values
    answer = json.loads(encode_infer("m", "v1", "p", 1, list(values)))
    assert answer["outputs"][0]["data"] == values


def test_class_probabilities_have_two_dimensions() -> None:
    output = json.loads(encode_infer("m", "v1", "p", 1, [[0.25, 0.75], [0.5, 0.5]]))["outputs"][0]
    assert (output["shape"], output["data"]) == ([2, 2], [0.25, 0.75, 0.5, 0.5])


def test_outcomes_in_every_form() -> None:
    one = b'{"prediction_id": "a#0", "value": 1, "event_time": 5}'
    assert parse_outcomes(one) == [("a", 1.0, 5, 0)]
    assert parse_outcomes(b'{"outcomes": [%s]}' % one) == parse_outcomes(b"[%s]" % one) == parse_outcomes(one)
    assert len(parse_outcomes(one + b"\n" + one)) == 2
    with pytest.raises(BadRequest, match="value"):
        parse_outcomes(b'{"prediction_id": "a", "event_time": 5}')


def test_source_rows_refuse_what_is_no_object() -> None:
    for body in (b"1", b"[1]", b"{\n", b'{"a": 1}\nx'):
        with pytest.raises(BadRequest):
            parse_lines(body)


@pytest.mark.parametrize("parse_body", [lambda b: parse_infer(b, INPUTS), parse_rows, parse_outcomes,
                                        parse_lines])  # fmt: skip
@pytest.mark.parametrize(
    "body", [b"", b"  ", b"[" * 100_000, b'{"a":' * 100_000, b'{"zone": "\xff"}', b"\xff\xfe", b'{"a": "\\ud800"}'],
    ids=["empty", "blank", "deep list", "deep object", "bad text", "no text", "half a pair"],
)  # fmt: skip
def test_no_body_is_more_than_a_bad_request(parse_body, body: bytes) -> None:
    with pytest.raises(BadRequest, match="the body"):
        parse_body(body)


@pytest.mark.parametrize("wrong", [{"event_time": 10**30}, {"event_time": 1 << 63}, {"revision": 10**20}, {"revision": -1},
                                   {"value": 10**400}])  # fmt: skip
def test_an_outcome_that_no_log_can_hold_is_refused(wrong: dict) -> None:
    row = {"prediction_id": "p", "value": 1.0, "event_time": "2020-03-12T00:00:00Z"}
    with pytest.raises(BadRequest):
        parse_outcomes(json.dumps([row | wrong]).encode())


def test_a_time_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(BadRequest, match="booked is 1000000"):
        parse(ZONE, MILES, tensor("booked", "INT64", [10**30]))
