"""What an experiment measures: `Metric(...)`, a number per unit with its good direction and its margin.

The surprise: `margin` means the largest harm that a guardrail accepts, but the smallest effect that counts for any
other metric; the first is what non-inferiority is tested against, the second what power is computed for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal, Self, TypeVar

from flyball import units
from flyball.errors import DefinitionError, UnknownName
from flyball.experiments.estimate import Direction
from flyball.units import Margin

__all__ = ["Kind", "Metric", "Missing", "Role"]

E = TypeVar("E", bound=StrEnum)


class Kind(StrEnum):
    """How a unit's rows become its number, and how arms are compared."""

    PROPORTION = "proportion"  # whether it ever happened to the unit: 0 or 1
    MEAN = "mean"  # the unit's total of a column
    COUNT = "count"  # how often it happened to the unit
    RATIO = "ratio"  # sum over all units of one column by the sum of another, such as revenue by orders
    QUANTILE = "quantile"  # a quantile of all values, such as the 95th percentile of seconds


class Role(StrEnum):
    """What a metric decides."""

    PRIMARY = "primary"  # what the hypothesis is about
    SECONDARY = "secondary"  # what explains it
    GUARDRAIL = "guardrail"  # what must not get worse than its margin


class Missing(StrEnum):
    """What a unit without a value counts as."""

    REFUSE = "refuse"
    DROP = "drop"  # the unit leaves this metric
    ZERO = "zero"


@dataclass(frozen=True, slots=True, init=False)
class Metric:
    """A number per unit, which way is good, and how much of it matters; texts such as "1%" and "7d" end here.

    Args:
        name: Unique in the experiment.
        kind: "proportion", "mean", "count", "ratio" or "quantile".
        of: Column or outcome that holds it; the name by default.
        over: The denominator's column, of a ratio.
        direction: Which way is good, "up" or "down".
        role: "primary", "secondary" or "guardrail".
        margin: "1%" (of the control), "1pp" or "0.3" (in its unit): largest harm a guardrail accepts, else the smallest
            effect that counts.
        covariate: Columns known before exposure, for CUPED; one name or several.
        window: How long after a unit's first exposure its rows count ("7d"); None: to the end.
        starts: How long after it they begin to count: 7-day retention is starts="6d", window="7d".
        winsor: (low, high) that values are held between, declared before; None for an open side.
        value: Money that one more of it is worth.
        quantile: Which quantile, in (0, 1), of kind "quantile".
        missing: "refuse", "drop" or "zero".

    Raises:
        DefinitionError: a guardrail without a margin, a ratio without a denominator, and the like.

    Example:
        >>> Metric("week_1", kind="proportion", of="opened", starts="6d", window="7d").window
        datetime.timedelta(days=7)
    """

    name: str
    kind: Kind
    of: str
    over: str
    direction: Direction
    role: Role
    margin: Margin | None
    covariate: tuple[str, ...]
    window: timedelta | None
    starts: timedelta
    winsor: tuple[float | None, float | None] | None
    value: float | None
    quantile: float
    missing: Missing

    def __init__(
        self,
        name: str,
        *,
        kind: Kind | Literal["proportion", "mean", "count", "ratio", "quantile"] = "mean",
        of: str = "",
        over: str = "",
        direction: Direction | Literal["up", "down"] = "up",
        role: Role | Literal["primary", "secondary", "guardrail"] = "secondary",
        margin: str | float | Margin | None = None,
        covariate: str | Sequence[str] = (),
        window: str | timedelta | None = None,
        starts: str | timedelta = "0s",
        winsor: Sequence[float | None] | None = None,
        value: float | None = None,
        quantile: float = 0.5,
        missing: Missing | Literal["refuse", "drop", "zero"] = "refuse",
    ) -> None:
        values: dict[str, object] = {
            "name": name,
            "kind": _member(Kind, kind, name),
            "of": of or name,
            "over": over,
            "direction": _member(Direction, direction, name),
            "role": _member(Role, role, name),
            "margin": None if margin is None else units.margin(margin),
            "covariate": (covariate,) if isinstance(covariate, str) else tuple(covariate),
            "window": None if window is None else units.duration(window),
            "starts": units.duration(starts),
            "winsor": None if winsor is None else _limits(name, winsor),
            "value": value if value is None else float(value),
            "quantile": quantile,
            "missing": _member(Missing, missing, name),
        }
        for key, content in values.items():
            object.__setattr__(self, key, content)
        self._check()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it needs of each unit: its own, the denominator's, the covariates'."""
        return tuple(dict.fromkeys([self.of, *([self.over] if self.over else []), *self.covariate]))

    @property
    def sign(self) -> int:
        """1 where up is good, -1 where down is."""
        return 1 if self.direction is Direction.UP else -1

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal value; spans in microseconds."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        for key in ("kind", "direction", "role", "missing"):
            data[key] = str(data[key])
        data["margin"] = self.margin and {"relative": self.margin.relative, "absolute": self.margin.absolute}
        data["window"] = None if self.window is None else units.micros(self.window)
        data["starts"] = units.micros(self.starts)
        return data | {"covariate": list(self.covariate), "winsor": self.winsor and list(self.winsor)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        given = dict(data)
        given["margin"] = Margin(**given["margin"]) if given.get("margin") else None
        for key in ("window", "starts"):
            if given.get(key) is not None:
                given[key] = timedelta(microseconds=given[key])
        return cls(given.pop("name"), **given)

    def _check(self) -> None:
        who = f"metric {self.name!r}"
        if not self.name or not self.name.strip():
            raise DefinitionError("a metric has no name; give it one, such as conversion")
        if (self.kind is Kind.RATIO) != bool(self.over):
            raise DefinitionError(
                f'{who} is of kind {self.kind} and has over={self.over!r}; a ratio, and only it, has a denominator: '
                'kind="ratio", of="revenue", over="orders"'
            )  # fmt: skip
        if self.role is Role.GUARDRAIL and self.margin is None:
            raise DefinitionError(f'{who} is a guardrail without a margin; say how much harm is accepted: margin="1%"')
        if self.window is not None and self.window <= self.starts:
            raise DefinitionError(
                f"{who} counts from {units.spoken(self.starts)} to {units.spoken(self.window)} after exposure, "
                "which is no time at all; window must end after starts"
            )
        if not 0.0 < self.quantile < 1.0:
            raise DefinitionError(f"{who} has quantile {self.quantile}; write one between 0 and 1, such as 0.95")
        if self.value is not None and not math.isfinite(self.value):
            raise DefinitionError(f"{who} has value {self.value}; write what one more of it is worth, such as 0.5")
        if self.kind is Kind.QUANTILE and self.covariate:
            raise DefinitionError(f"{who} is a quantile with a covariate; CUPED is for means, counts and ratios")
        if self.of in self.covariate:
            raise DefinitionError(f"{who} has itself as covariate; name a column that is known before exposure")


def _member(kind: type[E], given: str, metric: str) -> E:
    try:
        return kind(given)
    except ValueError:
        raise UnknownName.of(f"{kind.__name__.lower()} of metric {metric!r}", given, [str(k) for k in kind]) from None


def _limits(name: str, given: Sequence[float | None]) -> tuple[float | None, float | None]:
    low, high = given if len(given) == 2 else (math.nan, math.nan)
    ends = [end for end in (low, high) if end is not None]
    if not ends or any(not math.isfinite(end) for end in ends) or ends != sorted(ends) or len(set(ends)) != len(ends):
        raise DefinitionError(f"metric {name!r} has winsor={tuple(given)}; write (low, high), such as (0, 500)")
    return (None if low is None else float(low), None if high is None else float(high))
