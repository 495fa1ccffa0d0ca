"""Model versions: what was registered, from what, and where in its life it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, NewType

import msgspec

from flyball.features.spec import FeatureService

__all__ = ["Flip", "Kind", "Lifecycle", "Lowered", "Manifest", "ModelVersion", "Scalar", "Version"]

Scalar = str | int | bool | float
Kind = Literal[
    "onnx", "xgboost", "lightgbm", "catboost", "safetensors", "keras", "skops", "torch_export", "pickle", "pyfunc"
]  # in order of trust: what may run when a file is loaded grows from left to right (docs/decisions)

ModelVersion = NewType("ModelVersion", str)  # "v1", "v2", ... unique within a model


class Lifecycle(StrEnum):
    """Where a version stands."""

    CANDIDATE = "candidate"
    CHAMPION = "champion"
    RETIRED = "retired"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class Flip:
    """A row on which a lowered model decides another class: `row` of the rows compared, both answers for `before`."""

    row: int
    before: Scalar  # the class that the model itself decides
    after: Scalar
    native: float  # probability of `before` by the model itself
    lowered: float


@dataclass(frozen=True, slots=True)
class Lowered:
    """An equal, faster form of a version's model that answers in its place, and the proof that it is equal.

    `file` is beside the manifest; `gap` is the largest difference over `rows` rows, edge values included. `columns` is
    0 for one number a row; `order` are the positions of its columns in the service's, empty for all in order.
    """

    kind: Literal["linear", "onnx"]
    file: str
    rows: int
    gap: float
    columns: int = 0
    order: tuple[int, ...] = ()
    flips: tuple[Flip, ...] = ()
    refuses: Literal["", "infinity", "null"] = ""  # what the model does not take: infinities, or NaN as well
    largest: float = 1.7976931348623157e308  # and no number beyond this; forests take what float32 holds


@dataclass(frozen=True, slots=True)
class Manifest:
    """`manifest.json` of an artifact folder: everything a server needs; its SHA-256 is the version's digest.

    `files` maps file names beside the manifest to SHA-256; `label_min` and `label_max` bound the training labels.
    """

    model: str
    version: str
    run: str
    format: Kind
    files: dict[str, str]
    service: FeatureService
    dataset: str  # digest of the training set
    code: str  # digest of the project's code
    created: datetime
    signature: str = ""  # HMAC of a pickle or an exported program by this project's registry, hex; else empty
    label: str = ""
    label_min: float | None = None
    label_max: float | None = None
    classes: tuple[Scalar, ...] | None = None  # label of each column of probabilities
    lowered: Lowered | None = None
    model_class: str = ""  # such as sklearn.linear_model._logistic.LogisticRegression, for people

    def to_json(self) -> bytes:
        """Return canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version as the control database knows it."""

    model: str
    version: ModelVersion
    run: str
    lifecycle: Lifecycle
    path: str  # artifact folder
    digest: str  # SHA-256 of manifest.json
    dataset: str
    code: str
    created: datetime
    cause: str = ""  # why it was trained: "manual", "drift", "schedule", ...
    parent: str | None = None  # champion at training time
    trained_from: datetime | None = None
    trained_until: datetime | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    gate: str = ""  # verdict of the gate: passing | breached | inconclusive | ""
    mlflow: str = ""  # MLflow run id
