"""What a user writes about data: entities, sources, feature views, fields and request-time features.

Each object checks what can be checked without data and has a `spec`, the plain value that everything else works with.
"""

from __future__ import annotations

from flyball.features.definitions.checks import Check, check
from flyball.features.definitions.entities import Entity
from flyball.features.definitions.imported import ImportedView, imported
from flyball.features.definitions.names import Decimal, List, Vector
from flyball.features.definitions.requests import Field
from flyball.features.definitions.services import FeatureService, ViewSelection
from flyball.features.definitions.sources import (
    CSVSource,
    DataFrameSource,
    ParquetSource,
    PushSource,
    Source,
    SQLSource,
    StreamSource,
    TableSource,
)
from flyball.features.definitions.transforms import (
    Transform,
    bucket,
    clip,
    computed,
    cross,
    cyclic,
    day_of_month,
    day_of_week,
    day_of_year,
    difference,
    embed,
    geohash,
    h3_cell,
    hour_of_day,
    is_weekend,
    log1p,
    month,
    python,
    ratio,
    week,
)
from flyball.features.definitions.views import Feature, FeatureView
from flyball.features.definitions.windows import (
    WindowFeature,
    count,
    distinct,
    first,
    last,
    max,  # noqa: A004 the field's standard words
    mean,
    min,  # noqa: A004
    quantile,
    std,
    sum,  # noqa: A004
    trend,
    var,
    windows,
)

__all__ = [
    "CSVSource", "Check", "DataFrameSource", "Decimal", "Entity", "Feature", "FeatureService", "FeatureView", "Field",
    "ImportedView", "List", "ParquetSource", "PushSource", "SQLSource", "Source", "StreamSource", "TableSource",
    "Transform", "Vector", "ViewSelection", "WindowFeature", "bucket", "check", "clip", "computed", "count", "cross",
    "cyclic", "day_of_month", "day_of_week", "day_of_year", "difference", "distinct", "embed", "first", "geohash",
    "h3_cell", "hour_of_day", "imported", "is_weekend", "last", "log1p", "max", "mean", "min", "month", "python",
    "quantile", "ratio", "std", "sum", "trend", "var", "week", "windows",
]  # fmt: skip
