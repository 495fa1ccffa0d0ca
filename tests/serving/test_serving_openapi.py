"""The OpenAPI document says what the gateway does: made of the table that routes, and held to it by a fuzzer."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from schemathesis.transport.requests import REQUESTS_TRANSPORT
from serving_kit import Kit, double, table

from flyball.errors import UnknownName
from flyball.serving.http.handlers import ROUTES
from flyball.serving.http.handlers.routes import Routes
from flyball.serving.http.openapi import document
from flyball.testing.in_process import GatewayClient, client

BASE = "http://gateway"
KNOWN = ("method", "url", "headers", "files", "data", "params", "json", "cookies")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    allow_header_conformance,
]


def known_names() -> dict[str, Any]:
    """Return the document with names of models that are mostly real, so that bodies come into play."""
    found = json.loads(json.dumps(document()))
    for operation in (o for methods in found["paths"].values() for o in methods.values()):
        content = operation.get("requestBody", {}).get("content", {})
        for kind in [k for k in content if k not in {"application/json", "application/octet-stream"}]:
            del content[kind]  # JSON lines are no media type that the fuzzer can write
        for parameter in operation.get("parameters", ()):
            names = {"model": ["eta", "eat"], "version": ["v1", "v9"]}.get(parameter["name"])
            parameter["schema"] = {"enum": names} if names else {"type": "string", "minLength": 1}
    return found


schema = schemathesis.openapi.from_dict(known_names())
schema.config.seed = 20261121


async def take(source: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"accepted": len(rows), "rejected": 0, "duplicates": 0, "sequence": 1}


async def repository(action: str, model: str, actor: str) -> dict[str, Any]:
    if model != "eta":
        raise UnknownName.of("served model", model, ["eta"])
    return {"name": model, "state": "READY" if action == "load" else "UNAVAILABLE", "table_version": 1}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Any:
    kit = Kit(tmp_path_factory.mktemp("fuzz"), v1=double)
    with client(kit.gateway(push=take, repository=repository, max_rows=100)) as found:
        found.call(found.gateway.swap(table(1, kit.ref("v1"))))
        yield found


@schema.parametrize()
@settings(max_examples=8, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])  # fmt: skip
def test_the_gateway_keeps_its_document(http: GatewayClient, case: schemathesis.Case) -> None:
    case.validate_response(send(http, case), checks=CHECKS)


def send(http: GatewayClient, case: schemathesis.Case) -> httpx.Response:
    """Send a case as its own transport would, but to the gateway in this process."""
    asked = requests.Request(
        **{k: v for k, v in REQUESTS_TRANSPORT.serialize_case(case, base_url=BASE).items() if k in KNOWN}
    )
    made = asked.prepare()
    path = made.path_url if made.path_url.startswith("/") else "/"
    response = http.request(
        made.method or "GET", httpx.URL(BASE, raw_path=path.encode()), content=made.body, headers=dict(made.headers)
    )
    response.elapsed = timedelta(0)
    return response


def test_the_document_is_made_of_the_table_that_routes(http: GatewayClient) -> None:
    served = http.get("/openapi.json").json()
    assert served == json.loads(json.dumps(document()))
    listed = {(path, method.upper()) for path, methods in served["paths"].items() for method in methods}
    assert listed == {(route.path, route.method) for route in ROUTES}
    ids = [o["operationId"] for methods in served["paths"].values() for o in methods.values()]
    assert len(set(ids)) == len(ids)


def test_every_schema_that_is_named_is_there() -> None:
    text = json.dumps(document())
    named = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert named <= set(document()["components"]["schemas"])


def test_paths_are_found_by_their_shape() -> None:
    routes = Routes()
    methods, names = routes.find("/v2/models/eta/versions/v1/infer") or ({}, {})
    assert (list(methods), names) == (["POST"], {"model": "eta", "version": "v1"})
    assert routes.find("/v2/models//infer") is None
    assert routes.find("/") is None
    for route in ROUTES:
        found = routes.find(re.sub(r"\{\w+\}", "x", route.path))
        assert found is not None and found[0][route.method] is route
