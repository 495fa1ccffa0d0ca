"""Messages become validated rows, and answers become messages.

The surprise: a caller is answered the way it asked. Raw tensors in give raw tensors out, typed contents give typed
contents; neither touches single elements in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from flyball.errors import BadRequest
from flyball.serving.grpc.messages import message
from flyball.serving.grpc.wire import Head, integer, nested, packed, text
from flyball.serving.protocol import Call, Signature, call_of
from flyball.serving.protocol.binary import pack
from flyball.serving.protocol.types import MALFORMED

__all__ = ["Facts", "call_from", "call_of_known", "metadata_of", "response"]

_Contents = message("InferTensorContents")
_Metadata = message("ModelMetadataResponse")
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_JSON = ("attributes", "units")
Output = tuple[str, str, list[int], Sequence[Any]]
Facts = dict[str, str | int]


def call_from(request: Any, inputs: Signature) -> Call:
    """Return the rows of a ModelInferRequest.

    Raises:
        BadRequest: an input's name, type, shape or value is wrong, or a parameter is.
    """
    raw = request.raw_input_contents
    tensors = request.inputs
    if raw:
        if len(raw) != len(tensors):
            raise BadRequest(f"there are {len(tensors)} inputs but {len(raw)} raw_input_contents; send one for each")
        if any(tensor.HasField("contents") for tensor in tensors):
            raise BadRequest("an input has contents beside raw_input_contents; send all of them one way")
        parts: list[Any] = [(t.name, t.datatype, t.shape, data) for t, data in zip(tensors, raw, strict=True)]
    else:
        parts = [(t.name, t.datatype, t.shape, _values(t, inputs)) for t in tensors]
    parameters = _parameters(request.parameters) if request.parameters else None
    outputs = [output.name for output in request.outputs] if request.outputs else ()
    return call_of(parts, inputs, id=request.id, parameters=parameters, outputs=outputs)


def call_of_known(head: Head, data: bytes, inputs: Signature) -> Call:
    """Return the rows of a message whose head is known.

    Raises:
        BadRequest: as `call_from`.
    """
    call = head.call(data, inputs)
    if call is None:
        call = call_of([(head.name, head.datatype, head.shape, data)], inputs, outputs=head.outputs)
        head.accepted(call, inputs)
    return call


def response(model: str, version: str, id: str, facts: Facts, outputs: Sequence[Output], *, raw: bool) -> bytes:
    """Return a ModelInferResponse; `outputs` are (name, datatype, shape, data row by row)."""
    parts = [_named(model, version)]
    if id:
        parts.append(nested(3, id.encode()))
    for name, value in facts.items():
        parts.append(text(name, value) if isinstance(value, str) else integer(name, value))
    tails = []
    for name, datatype, shape, data in outputs:
        tensor = packed(name, datatype, tuple(shape))
        if raw:
            tails.append(nested(6, pack(datatype, data)))
        else:
            tensor += nested(5, _contents(datatype, data))
        parts.append(nested(5, tensor))
    return b"".join(parts + tails)


@lru_cache(maxsize=256)
def _named(model: str, version: str) -> bytes:
    return nested(1, model.encode()) + nested(2, version.encode())


def _contents(datatype: str, data: Sequence[Any]) -> bytes:
    made = _Contents()
    field = getattr(made, _CONTENTS[datatype])
    field.extend([str(v).encode() for v in data] if datatype == "BYTES" else data)
    return bytes(made.SerializeToString())


def metadata_of(found: dict[str, Any]) -> bytes:
    """Return a ModelMetadataResponse of what `protocol.metadata` says."""
    made = _Metadata(name=found["name"], versions=found["versions"], platform=found["platform"])
    for kind in ("inputs", "outputs"):
        for tensor in found[kind]:
            getattr(made, kind).add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
    return bytes(made.SerializeToString())


def _values(tensor: Any, inputs: Signature) -> list[Any]:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        known = ", ".join(_CONTENTS)
        raise BadRequest(f"input {tensor.name!r:.200} has datatype {tensor.datatype!r:.40}; contents hold {known}")
    values = list(getattr(tensor.contents, field))
    if tensor.datatype != "BYTES":
        return values
    spec = inputs.get(tensor.name)
    if spec is not None and spec.type == "bytes":
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise BadRequest(f"input {tensor.name!r:.200} holds a text that is no UTF-8: {error.reason}") from error


def _parameters(given: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, kind) if kind else None
        if name in _JSON and isinstance(value, str):
            value = _decoded(name, value)
        found[name] = value
    if "units" in found:  # a list has no parameter type of its own
        found["unit"] = found.pop("units")
    return found


def _decoded(name: str, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except MALFORMED as error:
        raise BadRequest(f"the parameter {name} is no JSON: {error}") from error
