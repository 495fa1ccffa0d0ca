"""Contributions of features to a prediction: exact for trees and linear models, sampled for everything else."""

from flyball.serving.contributions.explainer import Explainer
from flyball.serving.contributions.types import Explained

__all__ = ["Explained", "Explainer"]
