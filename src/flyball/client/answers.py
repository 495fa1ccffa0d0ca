"""What a gateway answered, as values; and what it refused, as the errors of this package with its own sentence.

The surprise: fields that this client does not know are ignored, and fields that an older gateway does not send have
defaults, so client and gateway need not be of one release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from flyball.errors import BadRequest, Busy, DeadlineExceeded, FlyballError, IntegrityError, Unavailable

__all__ = [
    "BatchPrediction", "Contribution", "Explanation", "FlagValue", "Inference", "ModelMetadata", "Prediction", "Pushed",
    "Tensor", "error_of", "read",
]  # fmt: skip

T = TypeVar("T")
Answer = float | int | bool | str | list[float] | None
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Prediction:
    """Answers to the rows of one request.

    `predictions[k]` answers row k; a classifier's `probabilities[k]` are in the order of `classes`. Without a row there
    is no id. `model_versions` is None when one version answered all rows. `features` is "stale" or "defaulted" when the
    online store was away.
    """

    model: str
    model_version: str
    table_version: int
    predictions: list[Answer]
    prediction_id: str = ""
    probabilities: list[list[float]] | None = None
    classes: list[Any] | None = None
    model_versions: list[str] | None = None
    features: str = ""
    latency_ms: float | None = None

    @property
    def prediction(self) -> Answer:
        """The answer to the first row; the only one when one row was asked."""
        return self.predictions[0]

    def id_of(self, row: int) -> str:
        """Return the id under which row `row` is logged, for its outcome."""
        return self.prediction_id if row == 0 else f"{self.prediction_id}#{row}"

    def __len__(self) -> int:
        return len(self.predictions)


@dataclass(frozen=True, slots=True)
class BatchPrediction:
    """Answers to many rows that the gateway took in batches."""

    predictions: list[Answer]
    model: str
    model_version: str
    count: int
    rows_per_second: float
    probabilities: list[list[float]] | None = None
    classes: list[Any] | None = None
    batches: int | None = None

    def __len__(self) -> int:
        return len(self.predictions)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a V2 answer: `data` is a flat list, or a numpy array of `shape` when it came as binary."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any


@dataclass(frozen=True, slots=True)
class Inference:
    """An answer of V2 inference."""

    model: str
    model_version: str
    id: str
    parameters: dict[str, Any]
    outputs: dict[str, Tensor]

    @property
    def prediction_id(self) -> str:
        """The id under which the first row is logged; row k is `id#k`."""
        return str(self.parameters.get("prediction_id", self.id))

    def __getitem__(self, output: str) -> Any:
        return self.outputs[output].data


@dataclass(frozen=True, slots=True)
class Contribution:
    """One row explained: `base` plus all `contributions` is `margin`; lists for a model with several outputs.

    `standard_errors` is None when nothing was sampled.
    """

    base: float | list[float]
    contributions: dict[str, Any]
    margin: float | list[float]
    standard_errors: dict[str, Any] | None = None

    def largest(self, n: int = 5) -> list[tuple[str, float]]:
        """Return the `n` features that moved a single output most, largest first."""
        found = [(name, float(value)) for name, value in self.contributions.items()]
        return sorted(found, key=lambda pair: -abs(pair[1]))[:n]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Rows explained; `space` is the scale of the numbers, `method` tree, linear or sampled (of `samples` walks)."""

    model: str
    model_version: str
    method: str
    space: str
    rows: list[Contribution]
    samples: int = 0

    def __iter__(self) -> Iterator[Contribution]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class FlagValue:
    """A feature flag's value for one unit, and why."""

    name: str
    value: str | int | float | bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of pushed rows."""

    accepted: int
    rejected: int = 0
    duplicates: int = 0
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model takes and gives; each input and output has name, datatype and shape."""

    name: str
    versions: list[str] = field(default_factory=list)
    platform: str = ""
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)


def read(body: bytes, kind: type[T]) -> T:
    """Return an answer's body as a value.

    Raises:
        IntegrityError: it is none; what answered is perhaps no gateway of flyball.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        shown = body[:80].decode("utf-8", "replace")
        raise IntegrityError(f"the answer does not read ({error}): {shown!r}; is there a flyball gateway?") from error


def error_of(status: int, body: bytes, headers: Mapping[str, str]) -> FlyballError:
    """Return the error of a refused or failed call, with the gateway's sentence."""
    text = _sentence(body) or f"the gateway answered {status} without a reason"
    match status:
        case 429:
            return Busy(text)
        case 503:
            return Unavailable(text)
        case 504:
            return DeadlineExceeded(text)
        case _ if 400 <= status < 500:
            return BadRequest(text, status)
        case _:
            return FlyballError(text)


def _sentence(body: bytes) -> str:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body[:_SHOWN].decode("utf-8", "replace").strip()
    return str(found["error"]) if isinstance(found, dict) and "error" in found else ""
