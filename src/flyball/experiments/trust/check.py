"""What a check of trust answers: a verdict, a sentence, and the numbers behind it.

A check judges the instrument, never the candidate. The surprise: too little data is `PASSING` with a sentence that says
so, because a check that cannot speak must not stop anybody; only what was seen may warn or fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from flyball.experiments.estimate import finite

__all__ = ["Check", "TrustReport", "Verdict"]


class Verdict(StrEnum):
    """What a check says of the instrument."""

    PASSING = "passing"
    WARNING = "warning"  # read the sentence before you believe the effect
    FAILED = "failed"  # the effect is not to be believed


_ORDER = (Verdict.PASSING, Verdict.WARNING, Verdict.FAILED)


@dataclass(frozen=True, slots=True)
class Check:
    """One check's answer.

    Args:
        name: The check, such as "sample ratio".
        verdict: Passing, warning or failed.
        sentence: One sentence for a reader who knows no statistics.
        numbers: What was computed, by name; plain numbers, finite or None.

    Example:
        >>> print(Check("sample ratio", Verdict.PASSING, "units arrive as designed", {"p": 0.4}))
        sample ratio: passing; units arrive as designed
    """

    name: str
    verdict: Verdict
    sentence: str
    numbers: Mapping[str, float | int | None] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the result."""
        return self.verdict is Verdict.PASSING

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back; numbers that JSON does not know are None."""
        numbers = {name: finite(value) for name, value in self.numbers.items()}
        return {"name": self.name, "verdict": str(self.verdict), "sentence": self.sentence, "numbers": numbers}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(data["name"], Verdict(data["verdict"]), data["sentence"], dict(data["numbers"]))

    def __str__(self) -> str:
        return f"{self.name}: {self.verdict}; {self.sentence}"


@dataclass(frozen=True, slots=True)
class TrustReport:
    """All checks of one experiment; as bad as the worst of them.

    Example:
        >>> report = TrustReport.of(Check("a", Verdict.PASSING, "fine"), Check("b", Verdict.WARNING, "look"))
        >>> str(report.verdict), [check.name for check in report.worst]
        ('warning', ['b'])
    """

    checks: tuple[Check, ...] = ()

    @classmethod
    def of(cls, *checks: Check) -> Self:
        """Return the report of some checks, in the order given."""
        return cls(checks)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict; passing when nothing was checked."""
        return max((check.verdict for check in self.checks), key=_ORDER.index, default=Verdict.PASSING)

    @property
    def trusted(self) -> bool:
        """Whether the effect may be believed: no check failed."""
        return self.verdict is not Verdict.FAILED

    @property
    def worst(self) -> Sequence[Check]:
        """The checks that warn or fail, failures first."""
        return sorted((c for c in self.checks if not c.passed), key=lambda c: -_ORDER.index(c.verdict))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal report."""
        return {"verdict": str(self.verdict), "checks": [check.to_dict() for check in self.checks]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(tuple(Check.from_dict(check) for check in data["checks"]))

    def __str__(self) -> str:
        return "\n".join(map(str, self.checks)) or "nothing was checked"
