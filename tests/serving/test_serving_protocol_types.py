"""Inputs of every type in a V2 request and in `/predict` rows."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from flyball.errors import BadRequest
from flyball.features.spec import InputSpec
from flyball.serving.protocol import Signature, metadata, parse_infer, rows_call

INPUTS = Signature.of({
    "day": InputSpec("day", "date", required=False), "blob": InputSpec("blob", "bytes", required=False),
    "price": InputSpec("price", "decimal(6,2)", required=False), "v": InputSpec("v", "vector<2>", required=False),
    "short": InputSpec("short", "float32", required=False),
}.values())  # fmt: skip


def infer(name: str, datatype: str, shape: list[int], data: list[Any]) -> Any:
    body = {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}
    return parse_infer(json.dumps(body).encode(), Signature.of([INPUTS[name]])).columns[name]


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "data", "wanted"),
    [
        ("day", "BYTES", [2], ["2020-02-29", None], [date(2020, 2, 29), None]),
        ("blob", "BYTES", [1], ["AP8="], [b"\x00\xff"]),
        ("price", "BYTES", [2], ["1.5", "-0.01"], [Decimal("1.50"), Decimal("-0.01")]),
        ("price", "INT64", [1], [3], [Decimal("3.00")]),
        ("v", "FP32", [2, 2], [1, 2, 3, 4.5], [[1.0, 2.0], [3.0, 4.5]]),
        ("v", "FP32", [2, 2], [[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]]),
        ("short", "FP32", [1], [0.1], [0.10000000149011612]),
    ],
)
def test_values_stand_for_what_they_are(
    name: str, datatype: str, shape: list[int], data: list[Any], wanted: Any
) -> None:
    assert infer(name, datatype, shape, data) == wanted


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "data", "says"),
    [
        ("day", "BYTES", [1], ["soon"], "'day' in row 0 is 'soon' .*a date such as"),
        ("day", "INT64", [1], [3], "datatype 'INT64'; it is date, send BYTES"),
        ("blob", "BYTES", [2], ["AA==", "?"], "in row 1 is '\\?'"),
        ("price", "BYTES", [1], ["12345.00"], "at most 6 digits"),
        ("v", "FP32", [1, 3], [1, 2, 3], r"shape \[1, 3\]; it is vector<2>, send \[rows, 2\]"),
        ("v", "FP32", [2], [1, 2], r"send \[rows, 2\]"),
        ("v", "FP32", [2, 2], [1, 2, 3], "3 values"),
        ("v", "FP32", [1, 2], [[1, "x"]], "a list of 2 numbers"),
        ("short", "FP32", [1], [1e39], "does not fit FP32"),
    ],
)
def test_a_wrong_value_is_told_with_its_row(
    name: str, datatype: str, shape: list[int], data: list[Any], says: str
) -> None:
    with pytest.raises(BadRequest, match=says):
        infer(name, datatype, shape, data)


def test_rows_take_the_same_values() -> None:
    call = rows_call({"rows": [{"v": [1, 2], "price": 2}, {"day": "2020-01-01"}]}, INPUTS)
    assert call.columns["v"] == [[1.0, 2.0], None]
    assert call.columns["price"] == [Decimal("2.00"), None]
    assert call.columns["day"] == [None, date(2020, 1, 1)]
    with pytest.raises(BadRequest, match=r"'v' in row 0 is \[1\]"):
        rows_call({"rows": [{"v": [1]}]}, INPUTS)


def test_the_metadata_says_how_wide_a_vector_is() -> None:
    shapes = {i["name"]: (i["datatype"], i["shape"]) for i in metadata("m", ["1"], INPUTS)["inputs"]}
    assert shapes["v"] == ("FP32", [-1, 2])
    assert shapes["day"] == ("BYTES", [-1])
