"""What a user writes about data: entities, sources, feature views, fields and request-time features.

Each object checks what can be checked without data and has a `spec`, the plain value that everything else works with.
"""

from __future__ import annotations

from flyball.features.definitions.checks import Check, check
from flyball.features.definitions.entities import Entity
from flyball.features.definitions.names import Decimal, List, Vector
from flyball.features.definitions.requests import Field, RequestFeature, day_of_week, hour_of_day, ratio
from flyball.features.definitions.services import FeatureService, ViewSelection
from flyball.features.definitions.sources import ParquetSource
from flyball.features.definitions.views import Feature, FeatureView
from flyball.features.definitions.windows import WindowFeature, count, max, mean, min, std, sum  # noqa: A004 the field's standard words

__all__ = [
    "Check", "Decimal", "Entity", "Feature", "FeatureService", "FeatureView", "Field", "List", "ParquetSource",
    "RequestFeature", "Vector", "ViewSelection", "WindowFeature", "check", "count", "day_of_week", "hour_of_day",
    "max", "mean", "min", "ratio", "std", "sum",
]  # fmt: skip
