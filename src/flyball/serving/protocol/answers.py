"""Answers become bytes: V2 inference as JSON or with binary tensors, rows of `/predict`, a model's metadata.

A classifier answers the class of largest probability as "prediction", and "probabilities" beside it. The surprise: the
log keeps what the model said, probabilities; classes are put to names only here, on the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from flyball.serving.protocol.binary import pack
from flyball.serving.protocol.types import PREFERRED, Scalar, Signature, Wanted, datatype_of, shape_of

__all__ = ["Labelled", "encode_infer", "encode_rows", "encode_wanted", "label", "metadata", "outputs_of"]

Classes = tuple[Scalar, ...]


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class _RawOutput(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int]


class _InferAnswer(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    id: str
    parameters: dict[str, Any]
    outputs: list[_Output | _RawOutput]


_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Labelled:
    """A classifier's answer: a class per row, and the rows' probabilities in the order of `classes`."""

    classes: Classes
    predictions: list[Any]
    probabilities: list[list[float]]


def label(values: list[Any], classes: Sequence[Classes] | Classes) -> Labelled:
    """Return the class of largest probability of each row; the first of equals.

    Args:
        values: Probabilities, c per row.
        classes: The c classes, or those of the version that answered for each row; where they differ, probabilities
            are given for the first row's classes, 0 for one that a version does not know.
    """
    if not classes or not isinstance(classes[0], tuple):
        mine: Any = classes
        return Labelled(mine, [mine[row.index(max(row))] for row in values], values)
    each: Any = classes
    first: Classes = each[0]
    predictions = [own[row.index(max(row))] for own, row in zip(each, values, strict=True)]
    probabilities = [
        row if own == first else [dict(zip(own, row, strict=True)).get(c, 0.0) for c in first]
        for own, row in zip(each, values, strict=True)
    ]
    return Labelled(first, predictions, probabilities)


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
    labelled: Labelled | None = None,
    width: int | None = None,
) -> bytes:
    """Return the body of a V2 answer with all outputs as JSON.

    Args:
        model: The model's name.
        version: The version that answered.
        pid: The prediction's id; empty when no row was asked.
        table: The routing table's version.
        values: Floats, or equally long lists of floats.
        id: The request's, given back.
        versions: Each row's version where they differ.
        features: "stale" or "defaulted" when the online store was away.
        labelled: A classifier's classes and probabilities.
        width: Numbers in each of no rows.
    """
    parameters = _parameters(version, pid, table, versions, features)
    outputs: list[Any] = [_Output(*o) for o in outputs_of(values, labelled, width)]
    return _encode(_InferAnswer(model, version, id or pid, parameters, outputs))


def encode_wanted(
    wanted: Wanted,
    model: str,
    version: str,
    pid: str,
    table: int,
    values: list[Any],
    *,
    id: str = "",
    versions: list[str] | None = None,
    features: str = "",
    labelled: Labelled | None = None,
    width: int | None = None,
) -> tuple[bytes, int | None]:
    """Return the body with the outputs that were asked for, and the length of its JSON when bytes stand behind it."""
    found = {o[0]: o for o in outputs_of(values, labelled, width)}
    outputs: list[Any] = []
    tail: list[bytes] = []
    for name in wanted.names:
        if name not in found:
            continue
        _, datatype, shape, data = found[name]
        if name in wanted.binary:
            tail.append(pack(datatype, data))
            outputs.append(_RawOutput(name, datatype, shape, {"binary_data_size": len(tail[-1])}))
        else:
            outputs.append(_Output(name, datatype, shape, data))
    parameters = _parameters(version, pid, table, versions, features)
    head = _encode(_InferAnswer(model, version, id or pid, parameters, outputs))
    return (b"".join((head, *tail)), len(head)) if tail else (head, None)


def encode_rows(
    model: str,
    version: str,
    pid: str,
    table: int,
    values: list[Any],
    *,
    versions: list[str] | None = None,
    features: str = "",
    labelled: Labelled | None = None,
    single: bool = False,
    latency_ms: float | None = None,
) -> bytes:
    """Return the body of a `/predict` answer; `single` adds the one row's "prediction"."""
    predictions = values if labelled is None else labelled.predictions
    answer: dict[str, Any] = {"prediction_id": pid} if pid else {}
    answer |= {"model": model, "model_version": version, "table_version": table, "predictions": predictions}
    if single and predictions:
        answer["prediction"] = predictions[0]
    if labelled is not None:
        answer["probabilities"] = labelled.probabilities
        answer["classes"] = labelled.classes
    if versions is not None:
        answer["model_versions"] = versions
    if features:
        answer["features"] = features
    if latency_ms is not None:
        answer["latency_ms"] = round(latency_ms, 3)
    return _encode(answer)


def metadata(model: str, versions: Sequence[str], signature: Signature) -> dict[str, Any]:
    """Return the V2 metadata of a model."""
    found: dict[str, Any] = {
        "name": model,
        "versions": list(versions),
        "platform": "flyball",
        "inputs": [
            {
                "name": i.name,
                "datatype": PREFERRED[i.type],
                "shape": shape_of(i),
                "parameters": {"required": i.required},
            }
            for i in signature.values()
        ],
        "outputs": _described(signature),
    }
    if signature.columns:
        found["parameters"] = {"matrix": [-1, len(signature.columns)], "matrix_columns": list(signature.columns)}
    return found


def _described(signature: Signature) -> list[dict[str, Any]]:
    classes, width = signature.classes, signature.width
    if classes is None:
        return [{"name": "prediction", "datatype": "FP64", "shape": [-1] if width is None else [-1, width]}]
    return [
        {"name": "prediction", "datatype": datatype_of(classes), "shape": [-1]},
        {"name": "probabilities", "datatype": "FP64", "shape": [-1, len(classes)],
         "parameters": {"classes": list(classes)}},
    ]  # fmt: skip


def _parameters(version: str, pid: str, table: int, versions: list[str] | None, features: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {"prediction_id": pid, "table_version": table, "model_version": version}
    if not pid:
        del parameters["prediction_id"]
    if versions is not None:
        parameters["model_versions"] = versions
    if features:
        parameters["features"] = features
    return parameters


def outputs_of(
    values: list[Any], labelled: Labelled | None, width: int | None
) -> list[tuple[str, str, list[int], list[Any]]]:
    """Return (name, datatype, shape, data row by row) of each output."""
    n = len(values)
    if labelled is not None:
        classes, rows = labelled.classes, labelled.probabilities
        datatype = datatype_of(classes)
        names = [str(p) for p in labelled.predictions] if datatype == "BYTES" else labelled.predictions
        return [
            ("prediction", datatype, [n], names),
            ("probabilities", "FP64", [n, len(classes)], [v for row in rows for v in row]),
        ]
    if values and isinstance(values[0], list):
        return [("prediction", "FP64", [n, len(values[0])], [v for row in values for v in row])]
    return [("prediction", "FP64", [n] if values or width is None else [0, width], values)]
