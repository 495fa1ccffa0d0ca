"""Checks and their verdicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import msgspec

from flyball.units import Margin

__all__ = ["Check", "GateReport", "GateSpec", "Verdict"]


class Verdict(StrEnum):
    """A judged result; badness: BREACHED > INCONCLUSIVE > PASSING."""

    PASSING = "passing"
    INCONCLUSIVE = "inconclusive"
    BREACHED = "breached"

    @classmethod
    def worst(cls, verdicts: list[Verdict]) -> Verdict:
        """Return the worst of several; no checks at all pass."""
        order = [cls.PASSING, cls.INCONCLUSIVE, cls.BREACHED]
        return max(verdicts, key=order.index, default=cls.PASSING)


@dataclass(frozen=True, slots=True)
class Check:
    """One judged item: `value` against `limit`, in words in `text`."""

    name: str
    verdict: Verdict
    value: float | None
    limit: float | None
    text: str
    evidence: dict[str, float | str | int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateReport:
    """All checks of a version and the worst verdict."""

    model: str
    version: str
    dataset: str
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all checks."""
        return Verdict.worst([c.verdict for c in self.checks])

    def to_json(self) -> bytes:
        """Return the report as JSON with its verdict written out."""
        body = msgspec.to_builtins(self) | {"verdict": str(self.verdict)}
        return msgspec.json.encode(body, order="deterministic")


@dataclass(frozen=True, slots=True)
class GateSpec:
    """One wanted check, as plain data; made by the namespace `gate`.

    kind "champion": `metric` no worse than the champion's by more than `margin`; "metric": `metric` within
    [minimum, maximum]; "latency": p99 of a single-row call at most `maximum` seconds; "size": artifact at most
    `maximum` bytes; "bounds": every holdout prediction within [minimum, maximum].
    """

    kind: Literal["champion", "metric", "latency", "size", "bounds"]
    metric: str = ""
    margin: Margin = Margin()
    minimum: float | None = None
    maximum: float | None = None
