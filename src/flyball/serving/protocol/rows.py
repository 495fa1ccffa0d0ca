"""Rows as JSON objects: the bodies of `/predict` and `/batch_predict`.

The surprise: a body without "rows" or "instances" is itself the one row, unless the model has an input of that name.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from flyball.errors import BadRequest, shown
from flyball.serving.protocol.infer import complete, matrix_call, take_parameters
from flyball.serving.protocol.types import MALFORMED, PREFERRED, Call, Signature, unknown_input
from flyball.serving.protocol.values import checked

__all__ = ["decode_json", "rows_call"]

_any = msgspec.json.Decoder()
_LISTS = ("rows", "instances")
_OURS = ("unit", "attributes", "model", "batch_size")
_LEFT = bytes(set(range(256)) - set(b'[]{}"'))
_ROUND = bytes.maketrans(b"[]{}", b"()()")


def decode_json(body: bytes, *, depth: int = 0) -> object:
    """Return what a JSON body holds; raises BadRequest when it is no JSON, or nests deeper than `depth` (0: any)."""
    if depth and body.count(b"[") + body.count(b"{") > depth and _deeper(body, depth):
        raise BadRequest(f"the body nests deeper than {depth} levels; send flat rows")
    try:
        return _any.decode(body)
    except MALFORMED as error:
        raise BadRequest(f"the body is no JSON: {error}") from error


def rows_call(request: object, inputs: Signature) -> Call:
    """Return the rows of a decoded request: {"rows" or "instances": [{...}], "unit": ...} or one row as an object.

    A row may be a list of numbers where the model reads only numeric fields.

    Raises:
        BadRequest: it has no rows, or an input's name, type or value is wrong.
    """
    if not isinstance(request, dict):
        raise BadRequest('the body is no object; send {"rows": [{...}]} or one row as an object')
    extra = {k: request[k] for k in _OURS if k in request and k not in inputs}
    place = next((k for k in _LISTS if k in request and k not in inputs), None)
    rows = [{k: v for k, v in request.items() if k not in extra}] if place is None else request[place]
    if not isinstance(rows, list):
        raise BadRequest(f'"{place}" is no list of objects, one for each row')
    if rows and all(isinstance(row, list) for row in rows) and inputs.columns:
        call = _lists(rows, inputs)
    else:
        call = _objects(rows, inputs, place)
    call.single = place is None
    take_parameters(call, extra)
    return call


def _objects(rows: list[Any], inputs: Signature, place: str | None) -> Call:
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise BadRequest(f'"{place}" is no list of objects: row {index} is {shown(row, 60)}')
        for name in row:
            if name not in inputs:
                raise unknown_input(name, inputs)
        for name, spec in inputs.items():
            if spec.required and name not in row:
                raise BadRequest(f"row {index} misses the input {name!r} ({PREFERRED[spec.type]}); send it")
    given = [name for name, spec in inputs.items() if spec.required or any(name in row for row in rows)]
    call = Call({name: checked(inputs[name], [row.get(name) for row in rows]) for name in given}, len(rows))
    complete(call, inputs)
    return call


def _lists(rows: list[Any], inputs: Signature) -> Call:
    k = len(inputs.columns)
    for index, row in enumerate(rows):
        if len(row) != k:
            raise BadRequest(f"row {index} has {len(row)} values, but the model has {k} features; send {k} in each row")
    return matrix_call("rows", len(rows), [value for row in rows for value in row], inputs)


def _deeper(body: bytes, depth: int) -> bool:
    """Return whether brackets outside of texts nest deeper: innermost pairs are taken away level by level, all in C."""
    left = re.sub(rb"\\.", b"", body, flags=re.DOTALL) if b"\\" in body else body
    left = re.sub(rb'"[^"]*"', b"", left.translate(_ROUND, _LEFT))
    for _ in range(depth):
        left = left.replace(b"()", b"")
        if not left:
            return False
    return b"()" in left  # what does not close is for the decoder to tell
