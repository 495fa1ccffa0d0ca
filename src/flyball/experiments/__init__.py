"""Pure statistics that stay valid under continuous watching."""

from flyball.experiments.confidence import Bounds, Moments, difference, mean_bounds, rate_lower, rate_upper
from flyball.experiments.eprocess import OddsProcess, odds
from flyball.experiments.srm import ratio_e_value

__all__ = [
    "Bounds",
    "Moments",
    "OddsProcess",
    "difference",
    "mean_bounds",
    "odds",
    "rate_lower",
    "rate_upper",
    "ratio_e_value",
]
