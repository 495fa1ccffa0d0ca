"""When an experiment may be judged: once, at certain looks, or whenever anybody looks: `fb.plan.sequential()`.

The surprise: with a fixed plan an early look has no verdict at all, because a p value that is watched until it is small
gets small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal, Self

from flyball.errors import DefinitionError, UnknownName

__all__ = ["Plan", "PlanKind", "plan"]

SPENDINGS = ("obrien-fleming", "pocock")


class PlanKind(StrEnum):
    """How often the data may be looked at."""

    FIXED = "fixed"
    SEQUENTIAL = "sequential"
    GROUP = "group"


@dataclass(frozen=True, slots=True)
class Plan:
    """When and with which error an experiment is judged; built by `fb.plan`.

    Args:
        kind: Fixed, sequential or group.
        alpha: Chance of a verdict where there is no effect, over all looks, in (0, 0.5).
        units: Units of all arms together at the (last) look; None where the experiment's planned_units says it.
        power: Chance wanted of seeing an effect of the metric's margin.
        looks: Number of looks of a group plan.
        spending: How a group plan spends its alpha.
        posterior: Whether the result also tells what to believe of each arm; that decides nothing.
    """

    kind: PlanKind = PlanKind.SEQUENTIAL
    alpha: float = 0.05
    units: int | None = None
    power: float = 0.8
    looks: int = 1
    spending: str = "obrien-fleming"
    posterior: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 0.5:
            raise DefinitionError(f"the plan has alpha {self.alpha}; it is a chance of error, such as 0.05")
        if not 0.0 < self.power < 1.0:
            raise DefinitionError(f"the plan has power {self.power}; it is a chance, such as 0.8")
        if self.units is not None and self.units < 2:
            raise DefinitionError(f"the plan has {self.units} units; every arm needs at least one")
        if self.kind is PlanKind.GROUP and not 2 <= self.looks <= 100:
            raise DefinitionError(f"the group plan has {self.looks} looks; it needs 2 to 100, or use plan.fixed()")
        if self.spending not in SPENDINGS:
            raise UnknownName.of("spending", self.spending, SPENDINGS)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal value."""
        return asdict(self) | {"kind": str(self.kind)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**{**data, "kind": PlanKind(data["kind"])})


class plan:  # noqa: N801 read as a namespace: fb.plan.sequential(...)
    """Say when an experiment may be judged."""

    @staticmethod
    def fixed(*, units: int | None = None, alpha: float = 0.05, power: float = 0.8, posterior: bool = False) -> Plan:
        """Judge once, when `units` were exposed: the most power for a given size.

        With `posterior` the result also tells each arm's probability to be best, which decides nothing.

        Example:
            >>> plan.fixed(units=20_000).kind
            <PlanKind.FIXED: 'fixed'>
        """
        return Plan(PlanKind.FIXED, alpha, units, power, posterior=posterior)

    @staticmethod
    def sequential(
        *, alpha: float = 0.05, units: int | None = None, power: float = 0.8, posterior: bool = False
    ) -> Plan:
        """Judge at every look, as often as wanted; `units` is where the intervals are made tightest."""
        return Plan(PlanKind.SEQUENTIAL, alpha, units, power, posterior=posterior)

    @staticmethod
    def group(
        *,
        looks: int = 5,
        spending: Literal["obrien-fleming", "pocock"] = "obrien-fleming",
        units: int | None = None,
        alpha: float = 0.05,
        power: float = 0.8,
        posterior: bool = False,
    ) -> Plan:
        """Judge at a few looks, spread evenly over `units`; little more data than a fixed plan."""
        return Plan(PlanKind.GROUP, alpha, units, power, looks, spending, posterior)
