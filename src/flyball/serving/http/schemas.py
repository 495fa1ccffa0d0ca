"""JSON schemas of the gateway's bodies and answers, by name; `openapi` puts them beside the paths.

The surprise: they are written by hand and held to the truth by a fuzzer, because what a tensor may hold depends on the
model, which no schema of the server knows.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SCHEMAS"]

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TRUTH: Schema = {"type": "boolean"}
_ANY_OBJECT: Schema = {"type": "object"}
_SCALAR: Schema = {"type": ["string", "number", "boolean"]}
_DATATYPE: Schema = {
    "enum": ["BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64",
             "BYTES"],
}  # fmt: skip


def _object(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {"type": "object", "properties": required | optional, "required": list(required)}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_PARAMETERS = _object(
    {},
    unit={"description": "What is randomised: one for the request or one per row",
          "oneOf": [{"type": "string", "minLength": 1}, {"type": "integer"}, _list(_SCALAR), {"type": "null"}]},
    attributes={"description": "What segments look at: one object or one per row",
                "oneOf": [_ANY_OBJECT, _list(_ANY_OBJECT), {"type": "null"}]},
    binary_data_output={"type": "boolean"},
)  # fmt: skip
_DESCRIBED = _object({"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer"})}, parameters=_ANY_OBJECT)
_PREDICTIONS: Schema = _list({"type": ["number", "string", "boolean", "array"]})
_ANSWERED: dict[str, Schema] = {
    "model": _TEXT, "model_version": _TEXT, "table_version": _COUNT, "predictions": _PREDICTIONS,
}  # fmt: skip
_MORE: dict[str, Schema] = {
    "probabilities": _list(_list(_NUMBER)),
    "classes": _list(_SCALAR),
    "model_versions": _list(_TEXT),
    "features": {"enum": ["stale", "defaulted"]},
}
_ROWS_BODY: dict[str, Schema] = {"model": {"type": "string"}, **_PARAMETERS["properties"]}

_MARGIN: Schema = {"type": ["number", "array"]}
_BY_FEATURE: Schema = {"type": "object", "additionalProperties": {"type": ["number", "array", "null"]}}
SCHEMAS: dict[str, Schema] = {
    "Error": _object({"error": {"type": "string", "minLength": 1}}),
    "Object": _ANY_OBJECT,
    "Empty": _ANY_OBJECT,
    "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "Live": _object({"live": _TRUTH}),
    "Ready": _object({"ready": _TRUTH}),
    "ModelReady": _object({"name": _TEXT, "ready": _TRUTH}, error=_TEXT),
    "Metadata": _object(
        {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "inputs": _list(_DESCRIBED),
         "outputs": _list(_DESCRIBED)},
        parameters=_ANY_OBJECT,
    ),
    "Tensor": _object(
        {"name": _TEXT, "shape": _list({"type": "integer"}), "datatype": _DATATYPE,
         "data": _list({"type": ["number", "string", "boolean", "array", "null"]})},
        parameters=_ANY_OBJECT,
    ),
    "InferRequest": _object(
        {"inputs": {"type": "array", "items": _ref("Tensor"), "minItems": 1}},
        id=_TEXT,
        parameters=_PARAMETERS,
        outputs=_list(_object({"name": {"enum": ["prediction", "probabilities"]}}, parameters=_ANY_OBJECT)),
    ),
    "InferAnswer": _object(
        {"model_name": _TEXT, "model_version": _TEXT, "parameters": _ANY_OBJECT,
         "outputs": _list(_object({"name": _TEXT, "datatype": _DATATYPE, "shape": _list(_COUNT)},
                                  data=_list(_SCALAR), parameters=_ANY_OBJECT))},
        id=_TEXT,
    ),
    "IndexRequest": _object({}, ready=_TRUTH),
    "Index": _list(_object({"name": _TEXT, "version": _TEXT, "state": {"enum": ["READY", "UNAVAILABLE"]},
                            "reason": _TEXT})),
    "Loaded": _object({"name": _TEXT, "state": {"enum": ["READY", "UNAVAILABLE"]}, "table_version": _COUNT}),
    "PredictRequest": _object({}, rows=_list({"type": ["object", "array"]}), **_ROWS_BODY),
    "Predicted": _object(
        _ANSWERED, prediction_id=_TEXT, prediction={"type": ["number", "string", "boolean", "array"]},
        latency_ms=_NUMBER, **_MORE,
    ),
    "ExplainRequest": _object(
        {}, rows=_list({"type": ["object", "array"]}), inputs=_list(_ref("Tensor")),
        parameters=_object({}, deadline_ms={"type": "integer", "minimum": 1, "maximum": 60_000}),
    ),
    "Explained": _object(
        {"model": _TEXT, "model_version": _TEXT, "rows": _list(_object(
            {"base": _MARGIN, "contributions": _BY_FEATURE, "margin": _MARGIN}, standard_errors=_BY_FEATURE))},
        method={"enum": ["tree", "linear", "sampled"]}, samples=_COUNT, classes=_list(_SCALAR),
        space={"enum": ["prediction", "log-odds", "log", "score", "probability"]},
    ),
    "BatchRequest": _object(
        {"instances": _list({"type": ["object", "array"]})},
        batch_size={"type": "integer", "minimum": 1, "maximum": 4096}, **_ROWS_BODY,
    ),
    "BatchPredicted": _object(
        _ANSWERED | {"count": _COUNT, "batches": _COUNT, "rows_per_second": _NUMBER, "latency_ms": _NUMBER,
                     "prediction_ids": _list(_TEXT)},
        **_MORE,
    ),
    "Info": _object({"table_version": _COUNT, "models": {"type": "object", "additionalProperties": _ANY_OBJECT},
                     "settings": _ANY_OBJECT}),
    "Health": _object({
        "status": {"enum": ["ok", "degraded", "starting", "leaving"]}, "uptime": _NUMBER, "workers": _COUNT,
        "requests": _COUNT, "errors": _COUNT, "error_rate": _NUMBER, "models": _list(_TEXT),
        "versions": {"type": "object", "additionalProperties": _TEXT}, "table_version": _COUNT, "time": _TEXT,
    }),
    "Outcome": _object({"prediction_id": _TEXT, "value": _NUMBER, "event_time": {"type": ["string", "integer"]}},
                       revision={"type": "integer", "minimum": 0, "maximum": 2**31 - 1}),
    "Outcomes": {"anyOf": [_ref("Outcome"), _list(_ref("Outcome")), _object({"outcomes": _list(_ref("Outcome"))})]},
    "Exposure": _object({"experiment": _TEXT, "unit": {"type": ["string", "integer"]}, "arm": _TEXT},
                        event_time={"type": ["string", "integer"]}, id=_TEXT),
    "Exposures": {"anyOf": [_ref("Exposure"), _list(_ref("Exposure")),
                            _object({"exposures": _list(_ref("Exposure"))})]},
    "Accepted": _object({"accepted": _COUNT}),
    "Rows": {"anyOf": [_ANY_OBJECT, _list(_ANY_OBJECT)]},
    "Events": _object({}, accepted=_COUNT, rejected=_COUNT, duplicates=_COUNT, sequence={"type": ["integer", "null"]}),
    "FlagRequest": {"type": "object", "properties": {"unit": {"type": ["string", "integer"], "minLength": 1},
                                                     "attributes": _ANY_OBJECT},
                    "required": ["unit"], "additionalProperties": False},
    "FlagValue": _object({"name": _TEXT, "value": _SCALAR, "variant": _TEXT, "why": _TEXT, "table_version": _COUNT}),
    "FlagList": _object({"flags": _list(_ANY_OBJECT), "table_version": _COUNT}, unit=_TEXT),
}  # fmt: skip
