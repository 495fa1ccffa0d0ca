"""flyball governs machine-learning models in production.

Names load on first use, so that `import flyball` costs nothing: no numpy, no Arrow, no database.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "flyball.client",
    "Client": "flyball.client",
    "Decimal": "flyball.features.definitions",
    "Entity": "flyball.features.definitions",
    "Examples": "flyball.datasets.definitions",
    "Experiment": "flyball.experiments.design.types",
    "Feature": "flyball.features.definitions",
    "FeatureService": "flyball.features.definitions",
    "FeatureView": "flyball.features.definitions",
    "Field": "flyball.features.definitions",
    "Flag": "flyball.serving.definitions",
    "FlyballError": "flyball.errors",
    "Label": "flyball.datasets.definitions",
    "List": "flyball.features.definitions",
    "Metric": "flyball.experiments.design.metric",
    "Model": "flyball.definitions",
    "Params": "flyball.definitions",
    "CSVSource": "flyball.features.definitions",
    "DataFrameSource": "flyball.features.definitions",
    "PushSource": "flyball.features.definitions",
    "SQLSource": "flyball.features.definitions",
    "StreamSource": "flyball.features.definitions",
    "TableSource": "flyball.features.definitions",
    "ParquetSource": "flyball.features.definitions",
    "Project": "flyball.project",
    "Retrain": "flyball.loop.policy",
    "Rollout": "flyball.rollout.definitions.release",
    "Segment": "flyball.serving.definitions",
    "Serving": "flyball.serving.definitions",
    "TrainingSet": "flyball.datasets.types",
    "Vector": "flyball.features.definitions",
    "analyze": "flyball.project.analysis",
    "bucket": "flyball.features.definitions",
    "calendar": "flyball.rollout.definitions.calendar",
    "check": "flyball.features.definitions",
    "clip": "flyball.features.definitions",
    "computed": "flyball.features.definitions",
    "count": "flyball.features.definitions",
    "cross": "flyball.features.definitions",
    "cyclic": "flyball.features.definitions",
    "day_of_month": "flyball.features.definitions",
    "day_of_week": "flyball.features.definitions",
    "day_of_year": "flyball.features.definitions",
    "difference": "flyball.features.definitions",
    "distinct": "flyball.features.definitions",
    "embed": "flyball.features.definitions",
    "first": "flyball.features.definitions",
    "flag": "flyball.project.flags",
    "gate": "flyball.gates.checks",
    "geohash": "flyball.features.definitions",
    "guard": "flyball.rollout.definitions.guards",
    "guards": "flyball.rollout.definitions.guards",
    "h3_cell": "flyball.features.definitions",
    "hour_of_day": "flyball.features.definitions",
    "imported": "flyball.features.definitions",
    "is_weekend": "flyball.features.definitions",
    "last": "flyball.features.definitions",
    "log1p": "flyball.features.definitions",
    "max": "flyball.features.definitions",
    "mean": "flyball.features.definitions",
    "min": "flyball.features.definitions",
    "monitor": "flyball.monitoring.definitions",
    "month": "flyball.features.definitions",
    "on": "flyball.loop.policy",
    "plan": "flyball.experiments.design.plans",
    "python": "flyball.features.definitions",
    "quantile": "flyball.features.definitions",
    "ratio": "flyball.features.definitions",
    "std": "flyball.features.definitions",
    "strategy": "flyball.rollout.definitions.strategies",
    "sum": "flyball.features.definitions",
    "trend": "flyball.features.definitions",
    "var": "flyball.features.definitions",
    "week": "flyball.features.definitions",
    "windows": "flyball.features.definitions",
}
_MODULES = {
    "drift": "flyball.monitoring.drift",
    "experiments": "flyball.experiments",
    "rollout": "flyball.rollout",
    "testing": "flyball.testing",
}

__all__ = ["__version__", *sorted([*_HOMES, *_MODULES])]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    from flyball.errors import nearest

    close = nearest(name, __all__)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise AttributeError(f"module 'flyball' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from flyball import experiments as experiments
    from flyball import rollout as rollout
    from flyball import testing as testing
    from flyball.client import AsyncClient as AsyncClient
    from flyball.client import Client as Client
    from flyball.datasets.definitions import Examples as Examples
    from flyball.datasets.definitions import Label as Label
    from flyball.datasets.types import TrainingSet as TrainingSet
    from flyball.definitions import Model as Model
    from flyball.definitions import Params as Params
    from flyball.errors import FlyballError as FlyballError
    from flyball.experiments.design.metric import Metric as Metric
    from flyball.experiments.design.plans import plan as plan
    from flyball.experiments.design.types import Experiment as Experiment
    from flyball.features.definitions import CSVSource as CSVSource
    from flyball.features.definitions import DataFrameSource as DataFrameSource
    from flyball.features.definitions import Decimal as Decimal
    from flyball.features.definitions import Entity as Entity
    from flyball.features.definitions import Feature as Feature
    from flyball.features.definitions import FeatureService as FeatureService
    from flyball.features.definitions import FeatureView as FeatureView
    from flyball.features.definitions import Field as Field
    from flyball.features.definitions import List as List
    from flyball.features.definitions import ParquetSource as ParquetSource
    from flyball.features.definitions import PushSource as PushSource
    from flyball.features.definitions import SQLSource as SQLSource
    from flyball.features.definitions import StreamSource as StreamSource
    from flyball.features.definitions import TableSource as TableSource
    from flyball.features.definitions import Vector as Vector
    from flyball.features.definitions import bucket as bucket
    from flyball.features.definitions import check as check
    from flyball.features.definitions import clip as clip
    from flyball.features.definitions import computed as computed
    from flyball.features.definitions import count as count
    from flyball.features.definitions import cross as cross
    from flyball.features.definitions import cyclic as cyclic
    from flyball.features.definitions import day_of_month as day_of_month
    from flyball.features.definitions import day_of_week as day_of_week
    from flyball.features.definitions import day_of_year as day_of_year
    from flyball.features.definitions import difference as difference
    from flyball.features.definitions import distinct as distinct
    from flyball.features.definitions import embed as embed
    from flyball.features.definitions import first as first
    from flyball.features.definitions import geohash as geohash
    from flyball.features.definitions import h3_cell as h3_cell
    from flyball.features.definitions import hour_of_day as hour_of_day
    from flyball.features.definitions import is_weekend as is_weekend
    from flyball.features.definitions import last as last
    from flyball.features.definitions import log1p as log1p
    from flyball.features.definitions import max as max  # noqa: A004 the field's standard word
    from flyball.features.definitions import mean as mean
    from flyball.features.definitions import min as min  # noqa: A004 the field's standard word
    from flyball.features.definitions import month as month
    from flyball.features.definitions import python as python
    from flyball.features.definitions import quantile as quantile
    from flyball.features.definitions import ratio as ratio
    from flyball.features.definitions import std as std
    from flyball.features.definitions import sum as sum  # noqa: A004 the field's standard word
    from flyball.features.definitions import trend as trend
    from flyball.features.definitions import var as var
    from flyball.features.definitions import week as week
    from flyball.features.definitions.imported import imported as imported
    from flyball.features.definitions.windows import windows as windows
    from flyball.gates.checks import gate as gate
    from flyball.loop.policy import Retrain as Retrain
    from flyball.loop.policy import on as on
    from flyball.monitoring import drift as drift
    from flyball.monitoring.definitions import monitor as monitor
    from flyball.project import Project as Project
    from flyball.project.analysis import analyze as analyze
    from flyball.project.flags import flag as flag
    from flyball.rollout.definitions.calendar import calendar as calendar
    from flyball.rollout.definitions.guards import guard as guard
    from flyball.rollout.definitions.guards import guards as guards
    from flyball.rollout.definitions.release import Rollout as Rollout
    from flyball.serving.definitions import Flag as Flag
    from flyball.serving.definitions import Segment as Segment
    from flyball.serving.definitions import Serving as Serving
