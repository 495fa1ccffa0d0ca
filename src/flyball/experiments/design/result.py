"""What an experiment says: comparisons, checks of trust, impact, and one verdict in words.

The surprise: a verdict is about the decision, not about the p value. "Ship" needs a primary metric that got better and
every guardrail shown to be inside its margin; a guardrail that nobody can judge yet is a reason to wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from flyball.experiments.design.belief import Belief
from flyball.experiments.design.metric import Role
from flyball.experiments.design.rulers import Look
from flyball.experiments.estimate import Estimate, finite
from flyball.experiments.trust.check import TrustReport

__all__ = ["Comparison", "Finding", "Impact", "Outcome", "Result"]


class Finding(StrEnum):
    """What is known of one metric of one arm."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"  # any effect is smaller than the margin
    SAFE = "safe"  # of a guardrail: harm beyond the margin is ruled out
    OPEN = "open"


class Outcome(StrEnum):
    """What to do."""

    SHIP = "ship"
    KEEP = "keep the control"  # every treatment does harm
    SAME = "no difference that counts"
    WAIT = "not enough data yet"
    INCONCLUSIVE = "inconclusive"  # the planned size is reached, and nothing is shown
    UNTRUSTED = "not to be trusted"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one treatment against the control.

    Args:
        metric: The metric.
        arm: The treatment.
        role: The metric's role.
        finding: What is known by the plan, corrected for the number of comparisons.
        sentence: The same in words.
        estimate: Effect and interval of the plan, treatment less control; None where nothing can be computed.
        relative: (effect, lower, upper) as a share of the control; None where the control is near zero.
        p_adjusted: p value corrected over arms and metrics of the role; None where the plan gives none at this look.
        margin: The margin in the metric's unit; None where none was declared.
        worst: Upper bound of harm, in the metric's unit, badness positive; of guardrails.
        power: Chance that an effect of the margin would be seen at this look; None without a margin.
        more: Further units of all arms for the plan's power at the margin; None without a margin, 0 when reached.
    """

    metric: str
    arm: str
    role: Role
    finding: Finding
    sentence: str
    estimate: Estimate | None = None
    relative: tuple[float, float, float] | None = None
    p_adjusted: float | None = None
    margin: float | None = None
    worst: float | None = None
    power: float | None = None
    more: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; what is infinite or unknown is None."""
        return {
            "metric": self.metric, "arm": self.arm, "role": str(self.role), "finding": str(self.finding),
            "sentence": self.sentence, "estimate": self.estimate and self.estimate.to_dict(),
            "relative": self.relative and [finite(v) for v in self.relative], "p_adjusted": self.p_adjusted,
            "margin": self.margin, "worst": finite(self.worst), "power": self.power, "more": self.more,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Impact:
    """What an effect was worth so far: effect times exposed units times value per unit, with its interval."""

    metric: str
    arm: str
    units: int
    value: float
    amount: float
    lower: float
    upper: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; infinite ends are None."""
        return {"metric": self.metric, "arm": self.arm, "units": self.units, "value": self.value,
                "amount": self.amount, "lower": finite(self.lower), "upper": finite(self.upper)}  # fmt: skip

    def __str__(self) -> str:
        return (f"{self.arm}: {self.metric} brought {self.amount:+,.0f} [{self.lower:+,.0f}, {self.upper:+,.0f}] "
                f"from {self.units:,} units")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """What an experiment says at one look.

    Args:
        experiment: Its name.
        digest: Digest of the design that was judged.
        outcome: What to do.
        winner: The arm to ship; "" when none is.
        sentence: The verdict in words.
        comparisons: Every metric of every treatment.
        trust: Checks of the instrument; the sample ratio first.
        impacts: What effects were worth, of metrics with a value.
        units: Exposed units by arm.
        planned: Planned units of all arms together; None where nobody said.
        final: Whether the plan allows a verdict at this look.
        look: What a group plan's next look needs to know of this one.
        notes: What the reader must know.
        beliefs: What to believe of each arm, where the plan asks for it.
    """

    experiment: str
    digest: str
    outcome: Outcome
    winner: str
    sentence: str
    comparisons: tuple[Comparison, ...]
    trust: TrustReport
    impacts: tuple[Impact, ...] = ()
    units: Mapping[str, int] = field(default_factory=dict)
    planned: int | None = None
    final: bool = True
    look: Look = Look(0.0)
    notes: tuple[str, ...] = ()
    beliefs: tuple[Belief, ...] = ()

    @property
    def harmful(self) -> bool:
        """Whether harm is shown or the instrument is broken: what makes `flyball exp analyze` fail."""
        return self.outcome in (Outcome.KEEP, Outcome.UNTRUSTED)

    def of(self, metric: str, arm: str) -> Comparison:
        """Return one comparison; raises UnknownName."""
        from flyball.errors import UnknownName

        for comparison in self.comparisons:
            if (comparison.metric, comparison.arm) == (metric, arm):
                return comparison
        raise UnknownName.of("comparison", f"{metric}/{arm}", [f"{c.metric}/{c.arm}" for c in self.comparisons])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: keys are stable, what is infinite or unknown is None."""
        return {
            "experiment": self.experiment, "digest": self.digest, "outcome": str(self.outcome),
            "winner": self.winner or None, "sentence": self.sentence, "final": self.final, "units": dict(self.units),
            "planned": self.planned, "comparisons": [c.to_dict() for c in self.comparisons],
            "trust": self.trust.to_dict(), "impacts": [i.to_dict() for i in self.impacts],
            "look": {"time": self.look.time, "z": dict(self.look.z), "ratio": self.look.ratio},
            "beliefs": [b.to_dict() for b in self.beliefs], "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("metric", "arm", "effect", "interval", "relative", "p adjusted", "finding")]
        rows += [_row(c) for c in self.comparisons]
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        exposed = ", ".join(f"{arm} {n:,}" for arm, n in self.units.items())
        of = "" if self.planned is None else f" of {self.planned:,} planned"
        parts = [f"{self.experiment}: {self.outcome}", self.sentence, "", *lines, "",
                 f"units: {exposed} ({sum(self.units.values()):,}{of})", *map(str, self.trust.checks),
                 *map(str, self.impacts), *map(str, self.beliefs), *self.notes]  # fmt: skip
        return "\n".join(parts)


def _row(c: Comparison) -> tuple[str, ...]:
    name = f"{c.metric} ({c.role})"
    if c.estimate is None:
        return name, c.arm, "-", "-", "-", "-", str(c.finding)
    relative = "-" if c.relative is None else f"{c.relative[0]:+.2%}"
    p = "-" if c.p_adjusted is None else f"{c.p_adjusted:.3g}"
    e = c.estimate
    return name, c.arm, f"{e.effect:+.4g}", f"[{e.lower:+.4g}, {e.upper:+.4g}]", relative, p, str(c.finding)
