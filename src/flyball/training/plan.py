"""What the stages of a run need of a model's declaration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from flyball.datasets.definitions import Examples, Label
from flyball.datasets.types import TrainingSet
from flyball.features.spec import FeatureService

__all__ = ["TrainingPlan"]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Everything a run must know about its model.

    Attributes:
        train: `train(data, params) -> object with predict(X)`; the only user code a run calls.
        gates: Specs of the wanted checks, opaque here; the context's gatekeeper reads them.
        window: Length of the windows of the reference profile.
        seed: Set for `random` and `numpy.random` before `train` is called.
    """

    model: str
    examples: Examples
    label: Label
    service: FeatureService
    train: Callable[[TrainingSet, dict[str, Any]], Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    train_on: timedelta = timedelta(days=7)
    holdout: float = 0.2
    gates: tuple[Any, ...] = ()
    window: timedelta = timedelta(days=1)
    seed: int = 0
