"""How many impressions does interleaving save against an A/B test of the same two rankings? By simulation.

Both designs see the same users through the same click model. The surprise: the gain is not a constant of the method;
it depends on how differently the two rankings order what users want, so ask with rankings of your own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from flyball.errors import InputError
from flyball.experiments.ranking.interleaving import Interleaving, credit, team_draft
from flyball.experiments.stats import moments

__all__ = ["Sensitivity", "interleaving_sensitivity"]

Query = tuple[Sequence[Hashable], Sequence[Hashable]]
Clicker = Callable[[Sequence[Hashable], np.random.Generator], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Signal per impression of both designs.

    Args:
        interleaved: Mean vote over its standard deviation, per impression.
        split: Difference in clicks over its standard deviation, per impression of either arm.
        impressions: How many were simulated in each design.
    """

    interleaved: float
    split: float
    impressions: int

    @property
    def gain(self) -> float:
        """How many A/B impressions one interleaved impression is worth: (interleaved / split)²."""
        return (self.interleaved / self.split) ** 2 if self.split else math.inf

    def needed(self, *, alpha: float = 0.05, power: float = 0.8) -> tuple[float, float]:
        """Return how many impressions (interleaved, A/B over both arms) find the difference; inf for no signal."""
        reach = (special.ndtri(1.0 - alpha / 2.0) + special.ndtri(power)) ** 2
        one, other = (float(reach / signal**2) if signal else math.inf for signal in (self.interleaved, self.split))
        return one, other

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; an infinite gain is None."""
        gain = self.gain if math.isfinite(self.gain) else None
        return {"interleaved": self.interleaved, "split": self.split, "gain": gain, "impressions": self.impressions}

    def __str__(self) -> str:
        one, other = self.needed()
        return f"interleaving needs about {one:,.0f} impressions where an A/B test needs {other:,.0f}"


def interleaving_sensitivity(
    queries: Sequence[Query], clicks: Clicker, *, rng: np.random.Generator, impressions: int = 2000, k: int = 10,
    draw: Callable[..., Interleaving] = team_draft, rule: str = "binary",
) -> Sensitivity:  # fmt: skip
    """Simulate both designs on the same queries and click model.

    Args:
        queries: (treatment's, control's) ranking of each query; impressions draw one at random.
        clicks: Tells which places of a shown list are clicked, given the list and a generator.
        rng: Where the draws come from.
        impressions: Impressions of each design, >= 100.
        k: Length of the shown lists.
        draw: How lists are merged.
        rule: Credit of an impression.

    Raises:
        InputError: no queries, or too few impressions.
    """
    if not queries or impressions < 100:
        raise InputError(
            f"{len(queries)} queries and {impressions} impressions; one query and 100 impressions at least"
        )
    votes, arms = np.empty(impressions), ([], [])  # type: tuple[Any, tuple[list[float], list[float]]]
    for i in range(impressions):
        new, old = queries[int(rng.integers(len(queries)))]
        shown = draw(new, old, rng=rng, k=k)
        votes[i] = credit(shown, clicks(shown.items, rng), rule=rule)
        arms[i % 2].append(float(len(clicks((new, old)[i % 2][:k], rng))))
    vote, one, other = moments(votes), moments(arms[0]), moments(arms[1])
    spread = math.sqrt(2.0 * (one.variance + other.variance))  # of a difference of two halves, per impression in all
    split = (one.mean - other.mean) / spread if spread else 0.0
    return Sensitivity(vote.mean / math.sqrt(vote.variance) if vote.variance else 0.0, split, impressions)
