"""V2 inference requests: tensors become one column for each input, checked against the model's signature.

One tensor of shape [n, k] may carry all numeric inputs of a model that reads nothing else, under any name: that is what
most other servers are sent. The surprise: whether a body has binary tensors is only asked when it is no plain JSON, so
the usual request never looks for the header.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from flyball.errors import BadRequest, shown
from flyball.features.spec import InputSpec
from flyball.features.types import is_vector, vector_size
from flyball.serving.protocol.binary import Raw, header_length, numbers_of, values_of
from flyball.serving.protocol.types import (
    ACCEPTED,
    MALFORMED,
    PREFERRED,
    RANGES,
    REALS,
    Call,
    Columns,
    Signature,
    Wanted,
    unknown_input,
)
from flyball.serving.protocol.values import checked, within

__all__ = ["call_of", "complete", "matrix_call", "parse_infer", "take_parameters"]

_NOT = ()  # of a datatype that the input does not take
_ONE = [1]
_LONGEST_UNIT = 512  # characters; every row's record holds its unit, so a long one would be written once for each
_LOW, _HIGH = RANGES["INT64"]


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class _Asked(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Infer(msgspec.Struct):
    inputs: list[_Tensor]
    id: str = ""
    parameters: dict[str, Any] | None = None
    outputs: list[_Asked] | None = None


class _MaybeRaw(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class _InferRaw(msgspec.Struct):
    inputs: list[_MaybeRaw]
    id: str = ""
    parameters: dict[str, Any] | None = None
    outputs: list[_Asked] | None = None


_decode = msgspec.json.Decoder(_Infer).decode
_decode_raw = msgspec.json.Decoder(_InferRaw).decode
_Tensors = Sequence["_Tensor | Raw"]


def parse_infer(body: bytes, inputs: Signature, headers: Iterable[tuple[bytes, bytes]] = ()) -> Call:
    """Return the rows of a V2 inference request.

    Args:
        body: JSON, or JSON and binary tensors behind it.
        inputs: What the model takes.
        headers: The request's, where `inference-header-content-length` says how long the JSON is.

    Raises:
        BadRequest: the body, an input's name, type, shape or value is wrong.
    """
    try:
        request = _decode(body)
    except MALFORMED as error:
        length = header_length(headers, len(body))
        if length is None:
            raise BadRequest(f"the body is no V2 inference request: {error}") from error
        return _parse_raw(body, length, inputs)
    call = _call(request.inputs, inputs)
    call.id = request.id
    if request.parameters:
        take_parameters(call, request.parameters)
    if request.outputs or request.parameters:
        call.wanted = _wanted(request.outputs, request.parameters, inputs)
    return call


def call_of(
    tensors: Iterable[tuple[str, str, Sequence[int], list[Any] | bytes]],
    inputs: Signature,
    *,
    id: str = "",
    parameters: dict[str, Any] | None = None,
    outputs: Iterable[str] = (),
) -> Call:
    """Return the rows of tensors (name, datatype, shape, data) that came another way than as JSON.

    Data are a flat list of Python values row by row, or little-endian bytes as in the binary tensor extension.

    Raises:
        BadRequest: as `parse_infer`.
    """
    made: list[_Tensor | Raw] = [
        _Tensor(name, list(shape), datatype, data)
        if isinstance(data, list)
        else Raw(name, list(shape), datatype, memoryview(data))
        for name, datatype, shape, data in tensors
    ]
    call = _call(made, inputs)
    call.id = id
    if parameters:
        take_parameters(call, parameters)
    call.wanted = _wanted([_Asked(name) for name in outputs], parameters, inputs)
    return call


def take_parameters(call: Call, parameters: dict[str, Any]) -> None:
    """Take the unit and the attributes; other parameters are for other servers."""
    unit = parameters.get("unit")
    match unit:
        case None:
            pass
        case str() if 0 < len(unit) <= _LONGEST_UNIT:
            call.units = unit
        case bool():
            raise BadRequest(f"the parameter unit is {unit!r}; send a text or a whole number")
        case int():
            call.units = str(unit)
        case list() if len(unit) == call.n and all(map(_is_unit, unit)):
            call.units = [str(u) for u in unit]
        case _:
            text = f"send one text of at most {_LONGEST_UNIT} characters, or a list with one per row ({call.n})"
            raise BadRequest(f"the parameter unit is {shown(unit)}; {text}")
    attributes = parameters.get("attributes")
    ok = attributes is None or isinstance(attributes, dict)
    if isinstance(attributes, list):
        ok = len(attributes) == call.n and all(isinstance(a, dict) for a in attributes)
    if not ok:
        raise BadRequest(f"the parameter attributes is no object and no list of {call.n} objects")
    call.attributes = attributes


def _is_unit(unit: Any) -> bool:
    return type(unit) is int or (type(unit) is str and 0 < len(unit) <= _LONGEST_UNIT)


def complete(call: Call, inputs: Signature) -> None:
    """Fill what was left out where it may be; raises BadRequest where it may not."""
    columns = call.columns
    if len(columns) == len(inputs):
        return
    for name, spec in inputs.items():
        if name in columns:
            continue
        if spec.required:
            raise BadRequest(f"the input {name!r} ({PREFERRED[spec.type]}) is missing; send it")
        columns[name] = [math.nan if spec.type in REALS else None] * max(call.n, 0)


def matrix_call(name: str, n: int, flat: Any, inputs: Signature) -> Call:
    """Return the rows of n * k numbers given row by row, a list or a float64 array, for the model's k inputs.

    Raises:
        BadRequest: a value is no finite number, or does not fit its input.
    """
    names = inputs.columns
    k = len(names)
    if type(flat) is list:
        if not (inputs.plain and _all_finite(flat)):
            flat = _typed(name, flat, inputs, n)
        columns = {c: [v] for c, v in zip(names, flat, strict=True)} if n == 1 else {
            c: flat[j::k] for j, c in enumerate(names)
        }  # fmt: skip
    else:
        _finite_array(name, flat, k)
        if not inputs.plain:
            return matrix_call(name, n, flat.tolist(), inputs)
        columns = dict(zip(names, flat.reshape(n, k).T.tolist(), strict=True))
    call = Call(columns, n, flat=flat)
    complete(call, inputs)
    return call


def _call(tensors: _Tensors, inputs: Signature) -> Call:
    columns: Columns = {}
    lone = inputs.lone
    n = -1
    for tensor in tensors:
        name, data = tensor.name, tensor.data
        known = lone.get(name)
        if (
            known is not None and type(data) is list and len(data) == 1 and n in (-1, 1)
            and tensor.shape == _ONE and tensor.datatype == known[0] and name not in columns
        ):  # fmt: skip
            value = data[0]
            kind = type(value)
            if kind is known[1] and (
                value - value == 0.0 if kind is float else kind is not int or _LOW <= value <= _HIGH
            ):
                columns[name] = data
                n = 1
                continue
        spec = inputs.get(name)
        if spec is None:
            if len(tensors) == 1 and len(tensor.shape) == 2 and inputs.columns:
                return _matrix(tensor, inputs)
            raise unknown_input(name, inputs)
        if name in columns:
            raise BadRequest(f"input {name!r} is given twice; send each input once")
        rows = _column(tensor, spec)
        if n < 0:
            n = len(rows)
        elif len(rows) != n:
            raise BadRequest(f"input {name!r} has {len(rows)} rows, the inputs before it {n}; all need the same number")
        columns[name] = rows
    call = Call(columns, n)
    if len(columns) != len(inputs):
        complete(call, inputs)
    if n < 0:
        raise BadRequest("there are no inputs; send at least one")
    return call


def _column(tensor: _Tensor | Raw, spec: InputSpec) -> list[Any]:
    accepted = ACCEPTED[spec.type].get(tensor.datatype, _NOT)
    if accepted == _NOT:
        raise BadRequest(
            f"input {tensor.name!r} has datatype {tensor.datatype!r:.40}; "
            f"it is {spec.type}, send {PREFERRED[spec.type]}"
        )
    if isinstance(tensor, Raw):
        tensor = _Tensor(tensor.name, tensor.shape, tensor.datatype, values_of(tensor, as_bytes=spec.type == "bytes"))
    data = _vectors(tensor, spec) if is_vector(spec.type) else _flat(tensor)
    if accepted is not None:
        within(tensor.name, tensor.datatype, accepted, data)
    return checked(spec, data)


def _flat(tensor: _Tensor) -> list[Any]:
    shape, data = tensor.shape, tensor.data
    if len(shape) == 2 and shape[1] == 1:
        if data and isinstance(data[0], list):
            data = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in data]
    elif len(shape) != 1:
        raise BadRequest(f"input {tensor.name!r} has shape {_shown(shape)}; send [rows] or [rows, 1]")
    if len(data) != shape[0]:
        raise _disagree(tensor.name, shape, len(data))
    return data


def _vectors(tensor: _Tensor, spec: InputSpec) -> list[Any]:
    """Return the rows of a tensor of shape [rows, K]: data flat, or a list for each row."""
    size, shape, data = vector_size(spec.type), tensor.shape, tensor.data
    if len(shape) != 2 or shape[1] != size or shape[0] < 0:
        raise BadRequest(f"input {tensor.name!r} has shape {_shown(shape)}; it is {spec.type}, send [rows, {size}]")
    if len(data) == shape[0] * size and data and not isinstance(data[0], list):
        return [data[i : i + size] for i in range(0, len(data), size)]
    if len(data) != shape[0]:
        raise _disagree(tensor.name, shape, len(data))
    return data


def _matrix(tensor: _Tensor | Raw, inputs: Signature) -> Call:
    """Take one tensor of shape [n, k] as all columns."""
    name, (n, k), wanted = tensor.name, tensor.shape, len(inputs.columns)
    if k != wanted:
        raise BadRequest(
            f"input {name!r:.200} has {k} columns, but the model has {wanted} features; send shape [rows, {wanted}] in "
            f"the order of its metadata, or one input for each"
        )
    limits = ACCEPTED["float64"].get(tensor.datatype, _NOT)
    if limits == _NOT:
        raise BadRequest(
            f"input {name!r:.200} has datatype {tensor.datatype!r:.40}; its columns are numbers, send FP64"
        )
    if isinstance(tensor, Raw):
        return matrix_call(name, n, numbers_of(tensor), inputs)
    data = tensor.data
    if data and type(data[0]) is list:
        data = _joined(name, data, n, k)
    if len(data) != n * k:
        raise _disagree(name, tensor.shape, len(data))
    if limits is not None:
        within(name, tensor.datatype, limits, data)
    return matrix_call(name, n, data, inputs)


def _joined(name: str, data: list[Any], n: int, k: int) -> list[Any]:
    for row, values in enumerate(data):
        if type(values) is not list or len(values) != k:
            found = f"{len(values)} values" if type(values) is list else f"{values!r:.40}"
            raise BadRequest(f"input {name!r:.200} has {found} in row {row}; every row needs {k} values")
    if len(data) != n:
        raise BadRequest(f"input {name!r:.200} has shape {_shown([n, k])} but {len(data)} rows; they must agree")
    return [value for values in data for value in values]


def _all_finite(flat: list[Any]) -> bool:
    if set(map(type, flat)) != {float}:
        return False
    total = sum(flat)
    return total - total == 0.0 or all(map(math.isfinite, flat))


def _typed(name: str, flat: list[Any], inputs: Signature, n: int) -> list[Any]:
    """Return the numbers each as its input has them; whole floats are taken for integers, 0 and 1 for truth."""
    k = len(inputs.columns)
    out: list[Any] = [None] * len(flat)
    for j, column in enumerate(inputs.columns):
        spec, mine = inputs[column], flat[j::k]
        if spec.type == "int64":
            mine = [int(v) if type(v) is float and v.is_integer() else v for v in mine]
        elif spec.type == "bool":
            mine = [bool(v) if type(v) in (int, float) and v in (0, 1) else v for v in mine]
        out[j::k] = checked(spec, mine)
    return out


def _finite_array(name: str, flat: Any, k: int) -> None:
    import numpy as np

    wrong = np.flatnonzero(~np.isfinite(flat))
    if wrong.size:
        at = int(wrong[0])
        raise BadRequest(f"input {name!r:.200} is {flat[at]} in row {at // k}, column {at % k}; send a finite number")


def _wanted(asked: list[_Asked] | None, parameters: dict[str, Any] | None, inputs: Signature) -> Wanted | None:
    known = inputs.outputs
    for output in asked or ():
        if output.name not in known:
            raise BadRequest(f"the model has no output named {output.name!r:.200}; it has {', '.join(known)}")
    binary = bool((parameters or {}).get("binary_data_output", False))
    if not asked:
        return Wanted(known, frozenset(known)) if binary else None
    names = tuple(dict.fromkeys(output.name for output in asked))
    raw = frozenset(o.name for o in asked if (o.parameters or {}).get("binary_data", binary))
    return None if names == known and not raw else Wanted(names, raw)


def _parse_raw(body: bytes, length: int, inputs: Signature) -> Call:
    """Return the rows of a request whose tensors stand behind its JSON, in the order of the inputs."""
    view = memoryview(body)
    try:
        request = _decode_raw(view[:length])
    except MALFORMED as error:
        raise BadRequest(f"the body's JSON is no V2 inference request: {error}") from error
    tensors: list[_Tensor | Raw] = []
    for tensor in request.inputs:
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            if tensor.data is None:
                raise BadRequest(f"input {tensor.name!r:.200} has neither data nor the parameter binary_data_size")
            tensors.append(_Tensor(tensor.name, tensor.shape, tensor.datatype, tensor.data))
            continue
        if type(size) is not int or size < 0 or length + size > len(body):
            left = len(body) - length
            raise BadRequest(
                f"input {tensor.name!r:.200} has binary_data_size {shown(size, 40)}, but {left} bytes of the body are "
                f"left"
            )
        tensors.append(Raw(tensor.name, tensor.shape, tensor.datatype, view[length : length + size]))
        length += size
    if length != len(body):
        raise BadRequest(
            f"{len(body) - length} bytes of the body belong to no input; each binary_data_size must say all"
        )
    call = _call(tensors, inputs)
    call.id = request.id
    if request.parameters:
        take_parameters(call, request.parameters)
    call.wanted = _wanted(request.outputs, request.parameters, inputs)
    return call


def _disagree(name: str, shape: list[int], given: int) -> BadRequest:
    return BadRequest(f"input {name!r:.200} has shape {_shown(shape)} but {given} values; they must agree")


def _shown(shape: list[int]) -> str:
    text = str(shape)
    return text if len(text) <= 80 else f"{text[:77]}..."
