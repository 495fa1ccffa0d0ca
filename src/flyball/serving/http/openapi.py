"""The OpenAPI 3.1 document of the gateway, made of the table that dispatches its requests.

The surprise: it names no model that is served; a document that changes with every release would be no contract.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

import msgspec

from flyball.serving.http.handlers.routes import ROUTES, Route
from flyball.serving.http.handlers.state import version_of_flyball
from flyball.serving.http.schemas import SCHEMAS

__all__ = ["document", "document_bytes"]

_REFUSALS = {
    400: "The request is wrong; the sentence says how", 401: "The key is missing or wrong",
    403: "The key's role may not do this", 404: "Nothing of that name is here",
    405: "Another method is needed; see Allow", 408: "The request came too slowly",
    409: "Refused, or somebody else was faster", 413: "Too large", 415: "Another content type is needed",
    429: "Too many requests of this key; see Retry-After", 500: "The model failed, or the server did",
    503: "Not available now; see Retry-After", 504: "No answer before the deadline",
}  # fmt: skip
_EVERY = (400, 401, 403, 404, 405, 408, 500, 503)
_LINES = ("application/x-ndjson", "application/jsonl")
_BINARY = "application/octet-stream"


def document(routes: Iterable[Route] = ROUTES) -> dict[str, Any]:
    """Return the document as plain data."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "flyball gateway", "version": version_of_flyball(),
                 "description": "Predictions by the Open Inference Protocol v2 and in short forms."},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": cast("Any", [{}, {"bearer": []}, {"key": []}]),
    }  # fmt: skip


@lru_cache(maxsize=1)
def document_bytes() -> bytes:
    """Return the document as JSON."""
    return msgspec.json.encode(document())


def _operation(route: Route) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", route.path)
    found: dict[str, Any] = {
        "operationId": "_".join([route.operation, *names[1:]]),
        "summary": route.summary,
        "responses": _responses(route),
    }
    parameters = [
        {"name": n, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for n in names
    ]
    parameters += [
        {"name": n, "in": "query", "description": says, "schema": {"type": "string"}} for n, says in route.query
    ]
    if parameters:
        found["parameters"] = parameters
    if route.open:
        found["security"] = [{}]
    if route.body:
        found["requestBody"] = {"required": not route.optional, "content": _content(route.body, route)}
    return found


def _responses(route: Route) -> dict[str, Any]:
    text: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    answer = _content(route.answer, route, lines=False) if route.answer else text
    found: dict[str, Any] = {"200": {"description": "The answer", "content": answer}}
    for status in sorted({*_EVERY, *route.refusals}):
        shown: dict[str, Any] = {"application/json": {"schema": _ref("Error")}}
        if status == 503 and route.operation in {"ready", "health", "model_ready"}:
            shown = {"application/json": {"schema": {"anyOf": [_ref(route.answer), _ref("Error")]}}}
        found[str(status)] = {"description": _REFUSALS[status], "content": shown}
    return found


def _content(schema: str, route: Route, *, lines: bool = True) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(schema)}}
    if route.lines and lines:
        content |= {kind: {"schema": {"type": "string"}} for kind in _LINES}
    if route.binary:
        content[_BINARY] = {"schema": {"type": "string", "format": "binary"}}
    return content


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
