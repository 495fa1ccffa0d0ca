"""Look at a training set before anyone trains on it."""

from __future__ import annotations

from flyball.datasets.types import TrainingSet

__all__ = ["problems"]


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
