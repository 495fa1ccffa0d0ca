"""Bytes of a request become validated columns, and answers become bytes: the Open Inference Protocol v2 and `/predict`.

Everything a caller can get wrong is found here, before a row may join a batch, and is told in one sentence. The
surprise: columns stay Python lists. For the usual single row that is several times cheaper than numpy arrays, and the
feature reader builds the one matrix anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec

from flyball.errors import BadRequest, InputError, nearest
from flyball.features.spec import ColumnType, InputSpec
from flyball.features.types import is_vector, vector_size
from flyball.features.values import exact
from flyball.units import to_micros

__all__ = ["Call", "Columns", "decode_json", "encode_infer", "encode_rows", "metadata", "parse_infer",
           "parse_outcomes", "parse_source_rows", "rows_call"]  # fmt: skip

Columns = dict[str, list[Any]]
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what decoding a body of a stranger may raise
_EARLIEST, _LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999  # µs of the years 1 and 9999
_INTEGERS = frozenset({"INT64", "INT32", "INT16", "INT8", "UINT8", "UINT16", "UINT32"})
_FLOATS = frozenset({"FP64", "FP32"})


class _ByType(dict[ColumnType, Any]):
    """What holds of a type, also of those with parameters: decimal(18,2), vector<384>, list<int64>."""

    def __missing__(self, kind: ColumnType) -> Any:
        self[kind] = self[kind.partition("(")[0].partition("<")[0]]
        return self[kind]


_DATATYPES: _ByType = _ByType({
    "int64": _INTEGERS,
    "float64": _FLOATS | _INTEGERS,
    "float32": _FLOATS | _INTEGERS,
    "bool": frozenset({"BOOL"}),
    "string": frozenset({"BYTES"}),
    "bytes": frozenset({"BYTES"}),
    "date": frozenset({"BYTES"}),
    "timestamp": frozenset({"BYTES", "INT64"}),
    "decimal": frozenset({"BYTES"}) | _INTEGERS,
    "vector": _FLOATS | _INTEGERS,
    "list": frozenset(),
})  # fmt: skip
_PREFERRED: _ByType = _ByType({
    "int64": "INT64", "float64": "FP64", "float32": "FP32", "bool": "BOOL", "string": "BYTES", "timestamp": "BYTES",
    "bytes": "BYTES", "date": "BYTES", "decimal": "BYTES", "vector": "FP32", "list": "JSON",
})  # fmt: skip
_TYPES: _ByType = _ByType({
    "int64": frozenset({int}),
    "float64": frozenset({float, int}),
    "float32": frozenset({float, int}),
    "bool": frozenset({bool}),
    "string": frozenset({str}),
    "bytes": frozenset({str}),
    "date": frozenset({str}),
    "timestamp": frozenset({str, int}),
    "decimal": frozenset({str, int}),
    "vector": frozenset({list}),
    "list": frozenset({list}),
})  # fmt: skip
_NULL = type(None)
_REALS = frozenset({"float64", "float32"})


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class _Infer(msgspec.Struct):
    inputs: list[_Tensor]
    id: str = ""
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class _InferAnswer(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    id: str
    parameters: dict[str, Any]
    outputs: list[_Output]


class _OutcomeRow(msgspec.Struct):
    prediction_id: str
    value: float
    event_time: str | int
    revision: Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)] = 0


@dataclass(slots=True)
class Call:
    """A validated request: `n` rows as columns; `units` is one for all rows, one per row, or None."""

    columns: Columns
    n: int
    id: str = ""
    units: str | list[str] | None = None
    attributes: dict[str, Any] | list[dict[str, Any]] | None = None


_infer = msgspec.json.Decoder(_Infer)
_any = msgspec.json.Decoder()
_outcomes = msgspec.json.Decoder(list[_OutcomeRow])
_encode = msgspec.json.Encoder().encode


def parse_infer(body: bytes, inputs: dict[str, InputSpec]) -> Call:
    """Return the rows of a V2 inference request.

    Raises:
        BadRequest: the body, an input's name, type, shape or value is wrong.
    """
    try:
        request = _infer.decode(body)
    except _MALFORMED as error:
        raise BadRequest(f"the body is no V2 inference request: {error}") from error
    columns: Columns = {}
    n = -1
    for tensor in request.inputs:
        name = tensor.name
        spec = inputs.get(name)
        if spec is None:
            raise _unknown(name, inputs)
        if name in columns:
            raise BadRequest(f"input {name!r} is given twice; send each input once")
        data = _vectors(tensor, spec) if is_vector(spec.type) else _flat(tensor)
        if n < 0:
            n = len(data)
        elif len(data) != n:
            raise BadRequest(f"input {name!r} has {len(data)} rows, the inputs before it {n}; all need the same number")
        if tensor.datatype not in _DATATYPES[spec.type]:
            raise BadRequest(f"input {name!r} has datatype {tensor.datatype!r}; send {_PREFERRED[spec.type]}")
        columns[name] = _checked(spec, data)
    call = Call(columns, n, request.id)
    _complete(call, inputs)
    if request.parameters:
        _parameters(call, request.parameters)
    return call


def rows_call(request: object, inputs: dict[str, InputSpec]) -> Call:
    """Return the rows of a decoded `/predict` request: {"rows": [{...}], "unit": ...} or one row as an object.

    Raises:
        BadRequest: it has no rows, or an input's name, type or value is wrong.
    """
    if not isinstance(request, dict):
        raise BadRequest('the body is no object; send {"rows": [{...}]} or one row as an object')
    extra = {k: request[k] for k in ("unit", "attributes") if k in request and k not in inputs}
    rows = request.get("rows") if "rows" in request and "rows" not in inputs else None
    if rows is None:
        rows = [{k: v for k, v in request.items() if k not in extra and (k != "model" or k in inputs)}]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise BadRequest('"rows" is no list of objects with at least one row')
    for index, row in enumerate(rows):
        for name in row:
            if name not in inputs:
                raise _unknown(name, inputs)
        for name, spec in inputs.items():
            if spec.required and name not in row:
                raise BadRequest(f"row {index} misses the input {name!r} ({_PREFERRED[spec.type]}); send it")
    given = [name for name in inputs if any(name in row for row in rows)]
    columns = {name: _checked(inputs[name], [row.get(name) for row in rows]) for name in given}
    call = Call(columns, len(rows))
    _complete(call, inputs)
    _parameters(call, extra)
    return call


def encode_infer(  # the answer's facts, flat, because this is the hot path
    model: str,
    version: str,
    pid: str,
    table: int,
    values: list[Any],
    *,
    id: str = "",
    versions: list[str] | None = None,
    features: str = "",
) -> bytes:
    """Return the body of a V2 answer; `values` are floats or equally long lists of floats.

    `features` is "stale" or "defaulted" when the online store was away, and is told to the caller.
    """
    parameters: dict[str, Any] = {"prediction_id": pid, "table_version": table, "model_version": version}
    if versions is not None:
        parameters["model_versions"] = versions
    if features:
        parameters["features"] = features
    shape, data = [len(values)], values
    if isinstance(values[0], list):
        shape, data = [len(values), len(values[0])], [v for row in values for v in row]
    output = _Output("prediction", "FP64", shape, data)
    return _encode(_InferAnswer(model, version, id or pid, parameters, [output]))


def encode_rows(
    model: str,
    version: str,
    pid: str,
    table: int,
    values: list[Any],
    *,
    versions: list[str] | None = None,
    features: str = "",
) -> bytes:
    """Return the body of a `/predict` answer."""
    answer = {"prediction_id": pid, "model": model, "model_version": version, "table_version": table,
              "predictions": values}  # fmt: skip
    if versions is not None:
        answer["model_versions"] = versions
    if features:
        answer["features"] = features
    return _encode(answer)


def metadata(model: str, versions: Sequence[str], inputs: Sequence[InputSpec]) -> dict[str, Any]:
    """Return the V2 metadata of a model."""
    return {
        "name": model,
        "versions": list(versions),
        "platform": "flyball",
        "inputs": [
            {"name": i.name, "datatype": _PREFERRED[i.type], "shape": _shape(i), "parameters": {"required": i.required}}
            for i in inputs
        ],
        "outputs": [{"name": "prediction", "datatype": "FP64", "shape": [-1]}],
    }


def parse_outcomes(body: bytes) -> list[tuple[str, float, int, int]]:
    """Return (prediction id, value, event time in µs, revision) per outcome: a list, one object, or JSON lines.

    `id#0` becomes `id`: the first row of a prediction is logged under the plain id.
    """
    rows = parse_source_rows(body, key="outcomes")
    try:
        outcomes = msgspec.convert(rows, list[_OutcomeRow])
    except msgspec.ValidationError as error:
        raise BadRequest(f"an outcome needs prediction_id, value and event_time: {error}") from error
    for row in outcomes:
        if not math.isfinite(row.value):
            raise BadRequest(f"the outcome of {row.prediction_id!r} is {row.value}; send a finite number")
    return [
        (r.prediction_id.removesuffix("#0"), r.value, _time("event_time", r.event_time), r.revision) for r in outcomes
    ]


def parse_source_rows(body: bytes, *, key: str = "rows") -> list[dict[str, Any]]:
    """Return the rows of a JSON list, of {key: [...]}, of one object, or of JSON lines."""
    text = body.strip()
    if not text:
        raise BadRequest("the body is empty; send a JSON list or one JSON object per line")
    try:
        found: Any = _any.decode(text)
    except _MALFORMED:
        found = _lines(text)
    if isinstance(found, dict):
        found = found[key] if isinstance(found.get(key), list) else [found]
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise BadRequest("the body is no list of objects; send a JSON list or one JSON object per line")
    return found


def _lines(text: bytes) -> list[Any]:
    try:
        return [_any.decode(line) for line in text.splitlines() if line.strip()]
    except _MALFORMED as error:
        raise BadRequest(f"the body is neither JSON nor JSON lines: {error}") from error


def decode_json(body: bytes) -> object:
    """Return what a JSON body holds; raises BadRequest when it is no JSON."""
    try:
        return _any.decode(body)
    except _MALFORMED as error:
        raise BadRequest(f"the body is no JSON: {error}") from error


def _unknown(name: str, inputs: dict[str, InputSpec]) -> BadRequest:
    close = nearest(name, inputs)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(inputs)) or 'none'}."
    return BadRequest(f"the model has no input named {name!r}; {hint}")


def _flat(tensor: _Tensor) -> list[Any]:
    shape, data = tensor.shape, tensor.data
    if len(shape) == 2 and shape[1] == 1:
        if data and isinstance(data[0], list):
            data = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in data]
    elif len(shape) != 1:
        raise BadRequest(f"input {tensor.name!r} has shape {shape}; send [rows] or [rows, 1]")
    if len(data) != shape[0]:
        raise BadRequest(f"input {tensor.name!r} has shape {shape} but {len(data)} values; they must agree")
    if not data:
        raise BadRequest(f"input {tensor.name!r} has no rows; send at least one")
    return data


def _vectors(tensor: _Tensor, spec: InputSpec) -> list[Any]:
    """Return the rows of a tensor of shape [rows, K]: data flat, or a list for each row."""
    size, shape, data = vector_size(spec.type), tensor.shape, tensor.data
    if len(shape) != 2 or shape[1] != size or shape[0] < 1:
        raise BadRequest(f"input {tensor.name!r} has shape {shape}; it is {spec.type}, send [rows, {size}]")
    if len(data) == shape[0] * size and not isinstance(data[0], list):
        return [data[i : i + size] for i in range(0, len(data), size)]
    if len(data) != shape[0]:
        raise BadRequest(f"input {tensor.name!r} has shape {shape} but {len(data)} values; they must agree")
    return data


def _shape(spec: InputSpec) -> list[int]:
    return [-1, vector_size(spec.type)] if is_vector(spec.type) else [-1]


def _checked(spec: InputSpec, data: list[Any]) -> list[Any]:
    types = set(map(type, data))
    nulls = _NULL in types
    if nulls and spec.required:
        raise BadRequest(f"input {spec.name!r} is null in row {data.index(None)}; it is required")
    allowed = _TYPES[spec.type]
    if not types - {_NULL} <= allowed:
        row = next(i for i, v in enumerate(data) if v is not None and type(v) not in allowed)
        text = f"input {spec.name!r} is {data[row]!r} in row {row}; it needs {_PREFERRED[spec.type]} values"
        raise BadRequest(text)
    match spec.type:
        case "float64":
            return _floats(spec, data, exact=types == {float})
        case "int64":
            return _integers(spec, data)
        case "timestamp":
            return [None if v is None else _time(spec.name, v) for v in data]
        case "bool" | "string":
            return data
        case "float32":
            return _exact(spec, _floats(spec, data, exact=False))
        case _:
            return _exact(spec, data)


def _exact(spec: InputSpec, data: list[Any]) -> list[Any]:
    """Return what JSON values stand for: dates, bytes, decimals, lists; a vector stays a list, which can be logged."""
    try:
        values = [exact(spec.type, value, f"input {spec.name!r} in row {row}") for row, value in enumerate(data)]
    except InputError as error:
        raise BadRequest(str(error)) from error
    return [None if v is None else v.tolist() for v in values] if is_vector(spec.type) else values


def _floats(spec: InputSpec, data: list[Any], *, exact: bool) -> list[Any]:
    try:
        values = data if exact else [math.nan if v is None else float(v) for v in data]
    except OverflowError as error:
        raise BadRequest(f"input {spec.name!r} holds a number too large for FP64") from error
    for row, value in enumerate(values):
        if not math.isfinite(value) and data[row] is not None:
            raise BadRequest(f"input {spec.name!r} is {value} in row {row}; send a finite number")
    return values


def _integers(spec: InputSpec, data: list[Any]) -> list[Any]:
    for row, value in enumerate(data):
        if value is not None and not -(1 << 63) <= value < 1 << 63:
            raise BadRequest(f"input {spec.name!r} is {value} in row {row}; it does not fit INT64")
    return data


def _time(name: str, value: str | int) -> int:
    try:
        time = value if isinstance(value, int) else to_micros(datetime.fromisoformat(value))
    except ValueError as error:
        raise _no_time(name, value) from error
    if not _EARLIEST <= time <= _LATEST:
        raise _no_time(name, value)
    return time


def _no_time(name: str, value: str | int) -> BadRequest:
    return BadRequest(f"{name} is {value!r:.60}; send ISO 8601 such as 2020-03-11T08:00:00Z, or µs since 1970")


def _complete(call: Call, inputs: dict[str, InputSpec]) -> None:
    if len(call.columns) == len(inputs):
        return
    for name, spec in inputs.items():
        if name in call.columns:
            continue
        if spec.required:
            raise BadRequest(f"the input {name!r} ({_PREFERRED[spec.type]}) is missing; send it")
        call.columns[name] = [math.nan if spec.type in _REALS else None] * max(call.n, 1)
    if call.n < 0:
        raise BadRequest("there are no inputs; send at least one row")


def _parameters(call: Call, parameters: dict[str, Any]) -> None:
    unit = parameters.get("unit")
    match unit:
        case None:
            pass
        case str() if unit:
            call.units = unit
        case bool():
            raise BadRequest(f"the parameter unit is {unit!r}; send a text or a whole number")
        case int():
            call.units = str(unit)
        case list() if len(unit) == call.n and all(isinstance(u, str | int) and u != "" for u in unit):
            call.units = [str(u) for u in unit]
        case _:
            raise BadRequest(f"the parameter unit is {unit!r}; send one text, or a list with one per row ({call.n})")
    attributes = parameters.get("attributes")
    ok = attributes is None or isinstance(attributes, dict)
    if isinstance(attributes, list):
        ok = len(attributes) == call.n and all(isinstance(a, dict) for a in attributes)
    if not ok:
        raise BadRequest(f"the parameter attributes is no object and no list of {call.n} objects")
    call.attributes = attributes
