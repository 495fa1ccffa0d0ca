"""Model versions: what was registered, from what, and where in its life it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, NewType

import msgspec

from flyball.features.spec import FeatureService

__all__ = ["Lifecycle", "Manifest", "ModelVersion", "Version"]

ModelVersion = NewType("ModelVersion", str)  # "v1", "v2", ... unique within a model


class Lifecycle(StrEnum):
    """Where a version stands."""

    CANDIDATE = "candidate"
    CHAMPION = "champion"
    RETIRED = "retired"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class Manifest:
    """`manifest.json` of an artifact folder: everything a server needs; its SHA-256 is the version's digest.

    `files` maps file names beside the manifest to SHA-256; `label_min` and `label_max` bound the training labels.
    """

    model: str
    version: str
    run: str
    format: Literal["skops", "pickle", "onnx", "lightgbm"]
    files: dict[str, str]
    service: FeatureService
    dataset: str  # digest of the training set
    code: str  # digest of the project's code
    created: datetime
    signature: str = ""  # HMAC of the pickle by this project's registry, hex; empty for other formats
    label: str = ""
    label_min: float | None = None
    label_max: float | None = None

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
