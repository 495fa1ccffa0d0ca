"""Was every unit that was assigned really exposed, to its arm and to no other?

An effect is an effect of the assignment only if exposure follows it. The surprise: units that were never exposed are
no fault by themselves (they dilute the effect); a *different* share of them in the two arms is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flyball.errors import InputError
from flyball.experiments.fixed.proportions import chi_square
from flyball.experiments.fixed.shares import Count
from flyball.experiments.trust.check import Check, Verdict

__all__ = ["Exposure", "exposure", "exposure_of"]

_ALPHA = 0.001


@dataclass(frozen=True, slots=True)
class Exposure:
    """Units assigned and units exposed, by arm.

    Args:
        assigned: Units assigned, per arm.
        exposed: Of those, units exposed to that arm.
        crossed: Units exposed to two arms or more.
        strayed: Units exposed to another arm than theirs only.
        unassigned: Units exposed without an assignment.
        p: p value of "the same share of every arm is exposed" (chi-square).
        tolerated: Share of crossed and strayed units from which the check fails.
    """

    assigned: Mapping[str, int]
    exposed: Mapping[str, int]
    crossed: int
    strayed: int
    unassigned: int
    p: float
    tolerated: float

    @property
    def never(self) -> Mapping[str, int]:
        """Units assigned and not exposed to their arm, per arm."""
        return {arm: n - self.exposed.get(arm, 0) for arm, n in self.assigned.items()}

    @property
    def check(self) -> Check:
        """Fails on unequal exposure or many crossed units; warns from a tenth of that."""
        total = sum(self.assigned.values())
        numbers: dict[str, float | int | None] = {
            "p": self.p, "crossed": self.crossed, "strayed": self.strayed, "unassigned": self.unassigned,
        }  # fmt: skip
        rates = {arm: self.exposed.get(arm, 0) / n if n else None for arm, n in self.assigned.items()}
        numbers |= {f"exposed {arm}": rate for arm, rate in rates.items()}
        said = ", ".join(f"{arm} {rate:.1%}" for arm, rate in rates.items() if rate is not None)
        mixed = self.crossed + self.strayed + self.unassigned
        share = mixed / max(total, 1)
        if total and self.p < _ALPHA:
            text = f"exposure differs by arm ({said}, p = {self.p:.2g}); compare the assigned units, or mend exposure"
            return Check("exposure", Verdict.FAILED, text, numbers)
        if share > self.tolerated / 10.0:
            verdict = Verdict.FAILED if share > self.tolerated else Verdict.WARNING
            parts = f"{self.crossed:,} met two arms, {self.strayed:,} another arm, {self.unassigned:,} had none"
            return Check("exposure", verdict, f"{mixed:,} of {total:,} units were exposed wrongly: {parts}", numbers)
        return Check("exposure", Verdict.PASSING, f"exposed as assigned ({said or 'no units yet'})", numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"assigned": dict(self.assigned), "exposed": dict(self.exposed), "never": dict(self.never),
                "crossed": self.crossed, "strayed": self.strayed, "unassigned": self.unassigned, "p": self.p,
                "check": self.check.to_dict()}  # fmt: skip

    def __str__(self) -> str:
        return str(self.check)


def exposure(
    assigned: Mapping[str, int], exposed: Mapping[str, int], *, crossed: int = 0, strayed: int = 0,
    unassigned: int = 0, tolerated: float = 0.01,
) -> Exposure:  # fmt: skip
    """Compare exposure with assignment, from counts.

    Args:
        assigned: Units assigned, per arm.
        exposed: Of those, units exposed to their own arm (crossed ones included), per arm.
        crossed: Units exposed to two arms or more.
        strayed: Assigned units exposed to another arm only.
        unassigned: Units exposed without an assignment.
        tolerated: Share of wrongly exposed units from which the check fails, in (0, 1).

    Raises:
        InputError: more units exposed than assigned, a negative count, or an arm nobody was assigned to.

    Example:
        >>> result = exposure({"a": 1000, "b": 1000}, {"a": 900, "b": 700})
        >>> str(result.check.verdict), result.never
        ('failed', {'a': 100, 'b': 300})
    """
    if stranger := [arm for arm in exposed if arm not in assigned]:
        raise InputError(f"arm {stranger[0]!r} has exposed units and none assigned; arms are {list(assigned)}")
    for arm, n in assigned.items():
        if not 0 <= exposed.get(arm, 0) <= n:
            raise InputError(f"arm {arm!r} has {exposed.get(arm, 0)} exposed of {n} assigned units; count units once")
    if min(crossed, strayed, unassigned) < 0:
        raise InputError(f"crossed {crossed}, strayed {strayed}, unassigned {unassigned}; counts are not negative")
    seen = {arm: exposed.get(arm, 0) for arm in assigned}
    return Exposure(dict(assigned), seen, crossed, strayed, unassigned, _same_rate(assigned, seen), tolerated)


def exposure_of(
    assignments: Mapping[Hashable, str], exposures: Iterable[tuple[Hashable, str]], *, tolerated: float = 0.01
) -> Exposure:
    """Compare exposure with assignment, unit by unit.

    Args:
        assignments: The arm of each assigned unit.
        exposures: (unit, arm) of each exposure; the same one may come again.
        tolerated: Share of wrongly exposed units from which the check fails, in (0, 1).

    Example:
        >>> result = exposure_of({1: "a", 2: "b", 3: "a", 4: "b"}, [(1, "a"), (2, "b"), (2, "a"), (9, "a"), (4, "a")])
        >>> result.never, result.crossed, result.strayed, result.unassigned
        ({'a': 1, 'b': 1}, 1, 1, 1)
    """
    met: dict[Hashable, set[str]] = {}
    for unit, arm in exposures:
        met.setdefault(unit, set()).add(arm)
    assigned: dict[str, int] = {}
    exposed: dict[str, int] = {}
    for unit, arm in assignments.items():
        assigned[arm] = assigned.get(arm, 0) + 1
        exposed[arm] = exposed.get(arm, 0) + (arm in met.get(unit, ()))
    crossed = sum(len(arms) > 1 for arms in met.values())
    strayed = sum(len(arms) == 1 and unit in assignments and assignments[unit] not in arms
                  for unit, arms in met.items())  # fmt: skip
    unassigned = sum(unit not in assignments for unit in met)
    return exposure(assigned, exposed, crossed=crossed, strayed=strayed, unassigned=unassigned, tolerated=tolerated)


def _same_rate(assigned: Mapping[str, int], exposed: Mapping[str, int]) -> float:
    arms = {arm: Count(exposed[arm], n) for arm, n in assigned.items() if n}
    return chi_square(arms).p if len(arms) > 1 else 1.0
