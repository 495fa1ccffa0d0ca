"""Pure statistics: fixed and sequential tests, power, trust, policies, rankings, and whole experiments.

`fb.experiments.welch(...)` and its neighbours are functions of arrays or `Stats`. Names load on first use: most tests
need scipy, and a worker needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Alternative": "estimate",
    "ArmData": "design.types",
    "Bounds": "sequential.confidence",
    "Check": "trust.check",
    "Correction": "design.types",
    "Estimate": "estimate",
    "Experiment": "design.types",
    "Metric": "design.metric",
    "Moments": "stats",
    "OddsProcess": "sequential.odds",
    "Plan": "design.plans",
    "Scale": "estimate",
    "Stats": "stats",
    "TrustReport": "trust.check",
    "Verdict": "trust.check",
    "difference": "sequential.confidence",
    "mean_bounds": "sequential.confidence",
    "odds": "sequential.odds",
    "plan": "design.plans",
    "rate_lower": "sequential.confidence",
    "rate_upper": "sequential.confidence",
    "ratio_e_value": "trust.srm",
}

__all__ = [*sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    from flyball.errors import nearest

    close = nearest(name, __all__)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise AttributeError(f"module 'flyball.experiments' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from flyball.experiments.design.metric import Metric as Metric
    from flyball.experiments.design.plans import Plan as Plan
    from flyball.experiments.design.plans import plan as plan
    from flyball.experiments.design.types import ArmData as ArmData
    from flyball.experiments.design.types import Correction as Correction
    from flyball.experiments.design.types import Experiment as Experiment
    from flyball.experiments.estimate import Alternative as Alternative
    from flyball.experiments.estimate import Estimate as Estimate
    from flyball.experiments.estimate import Scale as Scale
    from flyball.experiments.sequential.confidence import Bounds as Bounds
    from flyball.experiments.sequential.confidence import difference as difference
    from flyball.experiments.sequential.confidence import mean_bounds as mean_bounds
    from flyball.experiments.sequential.confidence import rate_lower as rate_lower
    from flyball.experiments.sequential.confidence import rate_upper as rate_upper
    from flyball.experiments.sequential.odds import OddsProcess as OddsProcess
    from flyball.experiments.sequential.odds import odds as odds
    from flyball.experiments.stats import Moments as Moments
    from flyball.experiments.stats import Stats as Stats
    from flyball.experiments.trust.check import Check as Check
    from flyball.experiments.trust.check import TrustReport as TrustReport
    from flyball.experiments.trust.check import Verdict as Verdict
    from flyball.experiments.trust.srm import ratio_e_value as ratio_e_value
