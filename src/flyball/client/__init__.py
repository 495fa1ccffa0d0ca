"""Ask a gateway from Python: `Client` and `AsyncClient`, typed, with retries that never count a prediction twice."""

from flyball.client.answers import (
    BatchPrediction,
    Contribution,
    Explanation,
    FlagValue,
    Inference,
    ModelMetadata,
    Prediction,
    Pushed,
    Tensor,
)
from flyball.client.asynchronous import AsyncClient
from flyball.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "BatchPrediction",
    "Client",
    "Contribution",
    "Explanation",
    "FlagValue",
    "Inference",
    "ModelMetadata",
    "Prediction",
    "Pushed",
    "Tensor",
]
