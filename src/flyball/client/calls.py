"""Requests as values: each function says what to send, whether it may be sent twice, and how its answer is read.

The surprise: both clients are nothing but these functions and a way to send; what a call means is written once.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from flyball.client import answers
from flyball.errors import InputError, IntegrityError

__all__ = [
    "Headers", "Inputs", "Request", "Row", "batch_predict", "explain", "flag", "infer", "live", "metadata",
    "outcome_row", "outcomes",    "predict", "push", "ready",
]  # fmt: skip

T = TypeVar("T")
Row = Mapping[str, Any]
Inputs = Mapping[str, Any]
Headers = Mapping[str, str]
Unit = str | int | Sequence[str | int]
Attributes = Mapping[str, Any] | Sequence[Mapping[str, Any]]
_JSON = "application/json"
_BINARY = "application/octet-stream"
_LENGTH = "inference-header-content-length"


def _plain(value: Any) -> Any:
    """Return what JSON can say of numpy's scalars and arrays, without importing numpy."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise InputError(f"a {type(value).__name__} cannot be sent as JSON; send numbers, texts, booleans or times")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One call: `repeatable` says that the gateway counts it once however often it comes."""

    method: str
    path: str
    read: Callable[[bytes, Headers], T]
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    repeatable: bool = True
    refused: bool = False  # whether 503 is an answer, not a failure


def predict(
    model: str | None,
    rows: Row | Iterable[Row],
    *,
    unit: Unit | None,
    attributes: Attributes | None,
    key: str | None,
) -> Request[answers.Prediction]:
    """Ask `/predict`."""
    body: dict[str, Any] = {"rows": _rows(rows)}
    if model is not None:
        body["model"] = model
    body |= _parameters(unit, attributes)
    return _post("/predict", body, lambda data, _: answers.read(data, answers.Prediction), key=key)


def batch_predict(
    model: str | None, rows: Iterable[Row], *, batch_size: int | None, key: str | None
) -> Request[answers.BatchPrediction]:
    """Ask `/batch_predict`."""
    body: dict[str, Any] = {"instances": _rows(rows)}
    if model is not None:
        body["model"] = model
    if batch_size is not None:
        body["batch_size"] = batch_size
    return _post("/batch_predict", body, lambda data, _: answers.read(data, answers.BatchPrediction), key=key)


def infer(
    model: str,
    inputs: Inputs,
    *,
    version: str | None,
    unit: Unit | None,
    attributes: Attributes | None,
    outputs: Sequence[str] | None,
    id: str,
    key: str | None,
) -> Request[answers.Inference]:
    """Ask V2 inference; numpy arrays travel as binary tensors, both ways."""
    tensors, blobs = _tensors(inputs)
    body: dict[str, Any] = {"inputs": tensors}
    if id:
        body["id"] = id
    parameters = _parameters(unit, attributes)
    if blobs and outputs is None:
        parameters["binary_data_output"] = True
    if parameters:
        body["parameters"] = parameters
    if outputs is not None:
        extra = {"parameters": {"binary_data": True}} if blobs else {}
        body["outputs"] = [{"name": name, **extra} for name in outputs]
    head = _encode(body)
    headers = [("content-type", _BINARY if blobs else _JSON), _idempotency(key)]
    if blobs:
        headers.append((_LENGTH, str(len(head))))
    return Request("POST", _at(model, version, "infer"), _inference, b"".join([head, *blobs]), tuple(headers))


def explain(
    model: str,
    rows: Row | Iterable[Row],
    *,
    version: str | None,
    deadline_ms: int | None,
) -> Request[answers.Explanation]:
    """Ask for the contributions of the features of each row."""
    body: dict[str, Any] = {"rows": _rows(rows)}
    if deadline_ms is not None:
        body["parameters"] = {"deadline_ms": deadline_ms}
    return _post(
        _at(model, version, "explain"), body, lambda data, _: answers.read(data, answers.Explanation), key=None
    )


def outcome_row(prediction_id: str, value: float, event_time: datetime | str, revision: int) -> Row:
    """Return an outcome as a row; a time without a zone is refused, because the gateway could only guess."""
    if isinstance(event_time, datetime):
        if event_time.tzinfo is None:
            raise InputError(f"event_time {event_time.isoformat()} has no time zone; give an aware datetime")
        event_time = event_time.isoformat()
    return {"prediction_id": prediction_id, "value": value, "event_time": event_time, "revision": revision}


def outcomes(rows: Iterable[Row]) -> Request[int]:
    """Report what really happened; the same revision of an outcome counts once."""
    listed = [dict(row) for row in rows]
    return _post("/v1/outcomes", listed, lambda data, _: answers.read(data, _Accepted).accepted, key=None)


def push(source: str, rows: Iterable[Row], *, has_event_ids: bool) -> Request[answers.Pushed]:
    """Push rows of a source; only with event ids may they be sent twice."""
    path = f"/v1/sources/{quote(source, safe='')}/events"
    request = _post(path, [dict(row) for row in rows], lambda data, _: answers.read(data, answers.Pushed), key=None)
    return Request(request.method, path, request.read, request.body, request.headers, repeatable=has_event_ids)


def flag(name: str, unit: str | int, attributes: Row | None) -> Request[answers.FlagValue]:
    """Ask a feature flag's value for a unit."""
    body: dict[str, Any] = {"unit": str(unit)}
    if attributes is not None:
        body["attributes"] = dict(attributes)

    def read(data: bytes, _: Headers) -> answers.FlagValue:
        found = answers.read(data, dict[str, Any])
        return msgspec.convert({"name": name, **found}, answers.FlagValue)

    return _post(f"/v1/flags/{quote(name, safe='')}", body, read, key=None)


def live() -> Request[bool]:
    """Ask whether the gateway runs."""
    return Request("GET", "/v2/health/live", lambda data, _: True, refused=True)


def ready(model: str | None = None, version: str | None = None) -> Request[bool]:
    """Ask whether the gateway, or a model of it, answers."""
    path = "/v2/health/ready" if model is None else _at(model, version, "ready")
    return Request("GET", path, lambda data, _: bool(answers.read(data, _Ready).ready), refused=True)


def metadata(model: str, version: str | None = None) -> Request[answers.ModelMetadata]:
    """Ask what a model takes and gives."""
    return Request("GET", _at(model, version, ""), lambda data, _: answers.read(data, answers.ModelMetadata))


@dataclass(frozen=True, slots=True)
class _Accepted:
    accepted: int


@dataclass(frozen=True, slots=True)
class _Ready:
    ready: bool = False


@dataclass(frozen=True, slots=True)
class _Output:
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Inferred:
    model_name: str
    outputs: list[_Output]
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Any] | None = None


def _post(path: str, body: object, read: Callable[[bytes, Headers], T], *, key: str | None) -> Request[T]:
    return Request("POST", path, read, _encode(body), (("content-type", _JSON), _idempotency(key)))


def _idempotency(key: str | None) -> tuple[str, str]:
    """Return the header that makes a call countable once; one key for all tries of one call."""
    made = secrets.token_hex(16) if key is None else key
    if not 0 < len(made) <= 64 or not all("!" <= sign <= "~" for sign in made):
        raise InputError(f"the idempotency key {made!r:.80} is no text of 1 to 64 visible ASCII characters")
    return "idempotency-key", made


def _at(model: str, version: str | None, verb: str) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    if version is not None:
        path += f"/versions/{quote(version, safe='')}"
    return f"{path}/{verb}" if verb else path


def _rows(rows: Row | Iterable[Row]) -> list[dict[str, Any]]:
    return [dict(rows)] if isinstance(rows, Mapping) else [dict(row) for row in rows]


def _parameters(unit: Unit | None, attributes: Attributes | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if unit is not None:
        found["unit"] = unit if isinstance(unit, str | int) else list(unit)
    if attributes is not None:
        found["attributes"] = dict(attributes) if isinstance(attributes, Mapping) else [dict(a) for a in attributes]
    return found


# -- tensors ----------------------------------------------------------------------------------------------------------

_NUMPY = {
    "f2": "FP16", "f4": "FP32", "f8": "FP64", "b1": "BOOL",
    **{f"i{size}": f"INT{8 * size}" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"UINT{8 * size}" for size in (1, 2, 4, 8)},
}  # fmt: skip
_DTYPES = {name: kind for kind, name in _NUMPY.items()}


def _tensors(inputs: Inputs) -> tuple[list[dict[str, Any]], list[bytes]]:
    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, values in inputs.items():
        dtype: Any = getattr(values, "dtype", None)
        if getattr(dtype, "str", "")[1:] in _NUMPY:
            little = values.astype(dtype.newbyteorder("<"), order="C", copy=False)
            blobs.append(little.tobytes())
            tensors.append({"name": name, "shape": list(values.shape), "datatype": _NUMPY[dtype.str[1:]],
                            "parameters": {"binary_data_size": len(blobs[-1])}})  # fmt: skip
        else:
            tensors.append(_listed(name, values.tolist() if dtype is not None else list(values)))
    return tensors, blobs


def _listed(name: str, values: list[Any]) -> dict[str, Any]:
    shape = [len(values)]
    flat = values
    if values and isinstance(values[0], list | tuple):
        widths = {len(row) for row in values}
        if len(widths) != 1:
            raise InputError(f"the rows of input {name!r} have {sorted(widths)} values; all need the same number")
        shape.append(widths.pop())
        flat = [value for row in values for value in row]
    return {"name": name, "shape": shape, "datatype": _datatype(name, flat), "data": [_written(v) for v in flat]}


def _datatype(name: str, values: list[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool} and kinds:
        return "BOOL"
    if kinds <= {int} and kinds:
        return "INT64"
    if kinds <= {int, float}:
        return "FP64"
    if kinds <= {str, bytes, datetime}:
        return "BYTES"
    shown = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise InputError(f"input {name!r} mixes {shown}; one input holds numbers, texts or booleans")


def _written(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _inference(data: bytes, headers: Headers) -> answers.Inference:
    length = headers.get(_LENGTH)
    end = len(data) if length is None else int(length)
    found = answers.read(data[:end], _Inferred)
    outputs: dict[str, answers.Tensor] = {}
    for output in found.outputs:
        size = (output.parameters or {}).get("binary_data_size")
        values: Any = output.data
        if size is not None:
            values = _unpacked(output, data[end : end + size])
            end += size
        outputs[output.name] = answers.Tensor(output.name, output.datatype, output.shape, values)
    if length is not None and end != len(data):
        raise IntegrityError(f"the answer has {len(data)} bytes, its parts {end}; ask again")
    parameters = found.parameters or {}
    return answers.Inference(found.model_name, found.model_version, found.id, parameters, outputs)


def _unpacked(output: _Output, data: bytes) -> Any:
    if output.datatype == "BYTES":
        return _texts(data)
    import numpy as np

    dtype = _DTYPES.get(output.datatype)
    if dtype is None:
        raise IntegrityError(f"output {output.name!r} has datatype {output.datatype!r}, which this client cannot read")
    return np.frombuffer(data, dtype=f"<{dtype}").reshape(output.shape)


def _texts(data: bytes) -> list[str]:
    found, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return found
