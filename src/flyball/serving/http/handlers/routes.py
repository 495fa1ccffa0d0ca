"""Every path of the gateway, once: dispatch, what a method error allows, and the OpenAPI document are made of it.

The surprise: a path is found by its number of segments, so that a thousand models cost nothing; names in a path are
whatever stands between two slashes, already decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ROUTES", "Route", "Routes"]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation: its schemas are names of `serving.schemas`, "" for none or for plain text.

    `open` needs no key. `optional` says that the body may be empty. `refusals` are statuses beyond those that every
    operation may answer.
    """

    method: str
    path: str
    operation: str
    summary: str
    answer: str = ""
    body: str = ""
    open: bool = False
    optional: bool = False
    refusals: tuple[int, ...] = ()
    query: tuple[tuple[str, str], ...] = ()  # (name, what it says)
    lines: bool = False  # the body may also be JSON lines
    binary: bool = False  # bodies and answers may carry binary tensors


_ASK = (413, 415, 429, 504)
_MODEL, _VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
ROUTES: tuple[Route, ...] = (
    Route("GET", "/v2", "server", "The server and its extensions", "Server"),
    Route("GET", "/v2/health/live", "live", "Whether the process answers", "Live", open=True),
    Route("GET", "/v2/health/ready", "ready", "Whether predictions are served", "Ready", open=True),
    Route("GET", _MODEL, "model", "Inputs, outputs and versions of a model", "Metadata"),
    Route("GET", _VERSION, "model", "The same, asked of one version", "Metadata"),
    Route("GET", f"{_MODEL}/ready", "model_ready", "Whether a model is served", "ModelReady"),
    Route("GET", f"{_VERSION}/ready", "model_ready", "Whether one version is served", "ModelReady"),
    Route("POST", f"{_MODEL}/infer", "infer", "Predict: Open Inference Protocol v2", "InferAnswer", "InferRequest",
          refusals=_ASK, binary=True),
    Route("POST", f"{_VERSION}/infer", "infer", "Predict by one loaded version, left out of every comparison",
          "InferAnswer", "InferRequest", refusals=_ASK, binary=True),
    Route("POST", f"{_MODEL}/explain", "explain", "What each feature contributed to the champion's answers",
          "Explained", "ExplainRequest", refusals=_ASK),
    Route("POST", f"{_VERSION}/explain", "explain", "The same for the answers of one loaded version",
          "Explained", "ExplainRequest", refusals=_ASK),
    Route("POST", "/v2/repository/index", "index", "Models and whether they are served", "Index", "IndexRequest",
          optional=True, refusals=(413, 415)),
    Route("POST", "/v2/repository/models/{model}/load", "load", "Take a model into service again", "Loaded", "Empty",
          optional=True, refusals=(409, 413, 415, 504)),
    Route("POST", "/v2/repository/models/{model}/unload", "unload", "Take a model out of service", "Loaded", "Empty",
          optional=True, refusals=(409, 413, 415, 504)),
    Route("POST", "/predict", "predict", "Predict rows given as JSON objects", "Predicted", "PredictRequest",
          refusals=_ASK),
    Route("POST", "/batch_predict", "batch_predict", "Predict many rows in batches", "BatchPredicted", "BatchRequest",
          refusals=_ASK),
    Route("GET", "/model_info", "model_info", "Versions, shares, features and settings of every model", "Info"),
    Route("GET", "/health", "health", "State, requests and error rate", "Health", open=True),
    Route("GET", "/metrics", "metrics", "Prometheus text"),
    Route("GET", "/openapi.json", "openapi", "This document", "Object"),
    Route("POST", "/v1/outcomes", "outcomes", "What really happened, by prediction id", "Accepted", "Outcomes",
          refusals=(413, 415), lines=True),
    Route("POST", "/v1/exposures", "exposures", "Who was exposed to experiments assigned elsewhere", "Accepted",
          "Exposures", refusals=(413, 415), lines=True),
    Route("POST", "/v1/sources/{source}/events", "events", "Rows of a source, all or none", "Events", "Rows",
          refusals=(413, 415, 429), lines=True),
    Route("GET", "/v1/flags", "flags", "Feature flags, with their values for a unit", "FlagList",
          query=(("unit", "whose values to add"),)),
    Route("POST", "/v1/flags/{flag}", "flag", "A feature flag's value for a unit", "FlagValue", "FlagRequest",
          refusals=(413, 415)),
)  # fmt: skip


class Routes:
    """Find what answers a path."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        """Prepare the look-up."""
        self._exact: dict[str, dict[str, Route]] = {}
        self._shaped: dict[int, list[tuple[tuple[str, ...], dict[str, Route]]]] = {}
        for route in routes:
            if "{" not in route.path:
                self._exact.setdefault(route.path, {})[route.method] = route
                continue
            parts = tuple(route.path.split("/"))
            same = self._shaped.setdefault(len(parts), [])
            methods = next((m for p, m in same if p == parts), None)
            if methods is None:
                methods = {}
                same.append((parts, methods))
            methods[route.method] = route

    def find(self, path: str) -> tuple[dict[str, Route], dict[str, str]] | None:
        """Return (routes by method, names in the path), None for a path that nothing answers."""
        path = path.rstrip("/") or "/"
        exact = self._exact.get(path)
        if exact is not None:
            return exact, {}
        given = path.split("/")
        for parts, methods in self._shaped.get(len(given), ()):
            names = _names(parts, given)
            if names is not None:
                return methods, names
        return None


def _names(parts: tuple[str, ...], given: list[str]) -> dict[str, str] | None:
    names = {}
    for part, found in zip(parts, given, strict=True):
        if part[:1] == "{" and found:
            names[part[1:-1]] = found
        elif part != found:
            return None
    return names
