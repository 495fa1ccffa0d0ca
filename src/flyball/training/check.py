"""Look at a training set before anyone trains on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyball.datasets.types import TrainingSet

if TYPE_CHECKING:
    from flyball.features.spec import FeatureService

__all__ = ["feature_checks", "problems"]


def problems(data: TrainingSet) -> list[str]:
    """Return what makes a training set unusable, one phrase each; empty when nothing does."""
    import numpy as np

    if not len(data.y):
        return ["there are no training rows"]
    found = []
    for place, name in enumerate(data.feature_names):
        column = data.X[:, place]
        if np.isnan(column).all():
            found.append(f"feature {name!r} is null in all {len(column)} rows")
        elif bad := int(np.isinf(column).sum()):
            found.append(f"feature {name!r} is infinite in {bad} of {len(column)} rows")
    if bad := int((~np.isfinite(data.y)).sum()):
        found.append(f"label {data.manifest.label!r} is not finite in {bad} of {len(data.y)} rows")
    elif data.y.min() == data.y.max():
        found.append(f"label {data.manifest.label!r} is {data.y[0]:g} in all {len(data.y)} rows")
    return found


def feature_checks(data: TrainingSet, service: FeatureService, now: int) -> tuple[list[str], list[str]]:
    """Judge a training set's features by the data checks of their views.

    Checks of columns that the model does not read are left out, and so are types, whose columns are numbers here.

    Returns:
        What checks of policy "stop" found, and of policy "warn".
    """
    from flyball.features import checks

    stop, warn = [], []
    for view in service.views:
        mine = [
            spec for spec in view.about.checks
            if spec.kind != "types" and checks.columns_needed([spec]) <= set(data.table.column_names)
        ]  # fmt: skip
        report = checks.run(mine, data.table, now)
        stop += [f"view {view.name!r}: {v.text}" for v in report.failed("stop")]
        warn += [f"view {view.name!r}: {v.text}" for v in report.failed("warn")]
    return stop, warn
