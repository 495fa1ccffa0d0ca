"""An experiment as decided before the first unit saw it: `Experiment(...)`; and what an arm has shown: `ArmData`.

The surprise: shares are of all units, so arms of 5 % and 5 % leave 90 % outside the experiment. The digest covers
every word of the design; a design that is edited is another experiment.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from flyball import units
from flyball.errors import DefinitionError, DuplicateName, UnknownName
from flyball.experiments.design.metric import Kind, Metric, Role
from flyball.experiments.design.plans import Plan, PlanKind
from flyball.experiments.fixed.multiple import Correction
from flyball.experiments.stats import Stats
from flyball.experiments.tails import Tails

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ArmData", "Experiment"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True, init=False)
class Experiment:
    """A question, who gets what, what is measured, and when it may be judged; frozen.

    Args:
        name: Unique in the project; letters, digits, `_`, `.` and `-`.
        hypothesis: What is expected and why, one sentence.
        unit: What is assigned, such as "user".
        arms: Share of all units by arm ("50%" or 0.5), at least two; the first is the control.
        metrics: What is measured. Where none is called primary, the first that is no guardrail is.
        control: The arm that the others are compared with; None: the first.
        model: Whose versions the arms are; or
        flag: whose values the arms are; neither: the arms come from any table.
        plan: When it may be judged, from `fb.plan`; sequential by default.
        correction: "holm", "bonferroni", "benjamini-hochberg" or "none": over arms and metrics of one role; "dunnett":
            intervals and p values that hold over all arms, of means under a fixed plan.
        strata: Columns known before exposure within which arms are compared, then weighted together.
        starts: When it begins; ISO text or aware time.
        ends: When it ends at the latest.
        planned_units: Units of all arms together; the plan's by default.
        owner: Who answers for it.

    Raises:
        DefinitionError: one arm, shares above 1, names twice, no metric, an end before the start.

    Example:
        >>> e = Experiment("checkout", unit="user", arms={"champion": 0.5, "v7": 0.5}, metrics=[Metric("spend")])
        >>> e.control, e.treatments, e.primary[0].name, Experiment.from_dict(e.to_dict()) == e
        ('champion', ('v7',), 'spend', True)
    """

    name: str
    hypothesis: str
    unit: str
    arms: tuple[tuple[str, float], ...]
    metrics: tuple[Metric, ...]
    control: str
    model: str
    flag: str
    plan: Plan
    correction: Correction
    strata: tuple[str, ...]
    starts: datetime | None
    ends: datetime | None
    planned_units: int | None
    owner: str

    def __init__(
        self,
        name: str,
        *,
        arms: Mapping[str, str | float] | Sequence[tuple[str, float]],
        metrics: Sequence[Metric],
        hypothesis: str = "",
        unit: str = "user",
        control: str | None = None,
        model: str = "",
        flag: str = "",
        plan: Plan | None = None,
        correction: Correction | Literal["holm", "bonferroni", "benjamini-hochberg", "dunnett", "none"] = "holm",
        strata: Sequence[str] = (),
        starts: str | datetime | None = None,
        ends: str | datetime | None = None,
        planned_units: int | None = None,
        owner: str = "",
    ) -> None:
        pairs = arms.items() if isinstance(arms, Mapping) else arms
        shares = tuple((arm, units.share(share)) for arm, share in pairs)
        plan = plan or Plan()
        if correction not in list(Correction):
            raise UnknownName.of("correction", correction, [str(c) for c in Correction])
        values: dict[str, object] = {
            "name": name,
            "hypothesis": hypothesis,
            "unit": unit,
            "arms": shares,
            "metrics": _with_primary(metrics),
            "control": control or (shares[0][0] if shares else ""),
            "model": model,
            "flag": flag,
            "plan": plan,
            "correction": Correction(correction),
            "strata": (strata,) if isinstance(strata, str) else tuple(strata),
            "starts": _time(name, "starts", starts),
            "ends": _time(name, "ends", ends),
            "planned_units": plan.units if planned_units is None else planned_units,
            "owner": owner,
        }
        for key, content in values.items():
            object.__setattr__(self, key, content)
        self._check()

    @property
    def shares(self) -> dict[str, float]:
        """Share of all units by arm."""
        return dict(self.arms)

    @property
    def weights(self) -> dict[str, float]:
        """Share of the experiment's units by arm; they sum to 1."""
        total = math.fsum(share for _, share in self.arms)
        return {arm: share / total for arm, share in self.arms}

    @property
    def treatments(self) -> tuple[str, ...]:
        """Every arm but the control, in order."""
        return tuple(arm for arm, _ in self.arms if arm != self.control)

    @property
    def primary(self) -> tuple[Metric, ...]:
        """The metrics that the hypothesis is about."""
        return self.of(Role.PRIMARY)

    @property
    def digest(self) -> str:
        """SHA-256 of the whole design, in hex."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def of(self, role: Role) -> tuple[Metric, ...]:
        """Return the metrics of a role."""
        return tuple(metric for metric in self.metrics if metric.role is role)

    def metric(self, name: str) -> Metric:
        """Return the metric of that name; raises UnknownName."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise UnknownName.of(f"metric of experiment {self.name!r}", name, [m.name for m in self.metrics])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal value, through JSON too."""
        return {
            "name": self.name, "hypothesis": self.hypothesis, "unit": self.unit, "arms": [list(a) for a in self.arms],
            "metrics": [metric.to_dict() for metric in self.metrics], "control": self.control, "model": self.model,
            "flag": self.flag, "plan": self.plan.to_dict(), "correction": str(self.correction),
            "strata": list(self.strata), "starts": _text(self.starts), "ends": _text(self.ends),
            "planned_units": self.planned_units, "owner": self.owner,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            DefinitionError: a key is unknown or missing, or a value makes no sense.
        """
        given = dict(data)
        try:
            given["metrics"] = [Metric.from_dict(metric) for metric in given["metrics"]]
            given["arms"] = [(arm, share) for arm, share in given["arms"]]
            given["plan"] = Plan.from_dict(given["plan"])
            return cls(given.pop("name"), **given)
        except (KeyError, TypeError) as error:
            raise DefinitionError(f"this is no stored experiment ({error}); write it with to_dict()") from error

    def _check(self) -> None:
        who = f"experiment {self.name!r}"
        if not _NAME.fullmatch(self.name):
            raise DefinitionError(f"{who}: a name has letters, digits, _, . and -, and begins with a letter or _")
        self._check_arms(who)
        names = [metric.name for metric in self.metrics]
        if not self.primary:
            raise DefinitionError(f'{who} has no metric to decide it; give metrics=[fb.Metric("conversion", ...)]')
        for name in names:
            if names.count(name) > 1:
                raise DuplicateName(f"{who} has {names.count(name)} metrics named {name!r}; keep one of them")
        if self.model and self.flag:
            raise DefinitionError(f"{who} has model={self.model!r} and flag={self.flag!r}; its arms come from one")
        if self.strata and any(m.covariate for m in self.metrics):
            raise DefinitionError(
                f"{who} has strata and a metric with a covariate; one of them takes the same variance away: "
                "keep the covariate where it is a number, the strata where they are groups"
            )
        if self.starts and self.ends and self.ends <= self.starts:
            raise DefinitionError(f"{who} ends {_text(self.ends)}, not after it starts ({_text(self.starts)})")
        if self.planned_units is not None and self.planned_units < len(self.arms):
            raise DefinitionError(f"{who} has planned_units={self.planned_units}; every arm needs at least one")
        if self.plan.kind is not PlanKind.SEQUENTIAL and self.planned_units is None:
            raise DefinitionError(
                f"{who} has a {self.plan.kind} plan without a size; say planned_units=, or plan.sequential()"
            )
        if self.plan.kind is not PlanKind.FIXED and any(m.kind is Kind.QUANTILE for m in self.of(Role.PRIMARY)):
            raise DefinitionError(
                f"{who} has a quantile as primary metric and a {self.plan.kind} plan; quantiles are judged once: "
                "use plan.fixed(), or compare the share beyond a limit (kind='proportion')"
            )

        if self.correction is Correction.DUNNETT:
            self._check_dunnett(who)

    def _check_dunnett(self, who: str) -> None:
        if self.plan.kind is not PlanKind.FIXED:
            raise DefinitionError(
                f'{who} has correction="dunnett" and a {self.plan.kind} plan; say "holm" or a fixed one'
            )
        means = (Kind.MEAN, Kind.COUNT, Kind.PROPORTION)
        for metric in (*self.primary, *self.of(Role.SECONDARY)):
            if metric.kind not in means or metric.covariate or self.strata:
                raise DefinitionError(
                    f'{who} has correction="dunnett", which compares plain means, and metric {metric.name!r} is '
                    f'{"adjusted" if metric.kind in means else f"a {metric.kind}"}; say correction="holm"'
                )

    def _check_arms(self, who: str) -> None:
        arms = [arm for arm, _ in self.arms]
        if len(arms) < 2:
            raise DefinitionError(f"{who} has arms {arms}; it needs a control and at least one more")
        for arm, share in self.arms:
            if arms.count(arm) > 1:
                raise DuplicateName(f"{who} has {arms.count(arm)} arms named {arm!r}; keep one of them")
            if share <= 0.0:
                raise DefinitionError(f"{who} gives arm {arm!r} a share of {share}; it needs one above 0")
        total = math.fsum(share for _, share in self.arms)
        if total > 1.0 + 1e-9:
            raise DefinitionError(f"{who} gives its arms {total:.4g} of the units; shares sum to 1 or less")
        if self.control not in arms:
            raise UnknownName.of(f"arm of {who}", self.control, arms)


@dataclass(frozen=True, slots=True)
class ArmData:
    """What one arm has shown.

    Each metric has its own statistics, because units whose window is still open count for some metrics and not for
    others. Columns are those of `Metric.columns`.

    Args:
        units: Distinct units exposed to this arm and to no other: what a sample ratio is judged by.
        metrics: Statistics by metric.
        strata: The same by stratum, then metric; they merge to `metrics`.
        days: The same by day, since the unit's first exposure or of the calendar, then metric.
        values: All values of each quantile metric, shape (rows,).
        clusters: The unit of each of those values, where units have several; shape (rows,).
        pending: Units whose window is still open, by metric.
        crossed: Units seen in this arm and in another too; left out everywhere.
        tails: The extreme values of each primary mean or count.
        calendar: Whether `days` are of the calendar (days since 1970), so that they have weekdays.
        assigned: Units assigned to this arm, exposed or not; None where only exposed units are known.
    """

    units: int
    metrics: Mapping[str, Stats] = field(default_factory=dict)
    strata: Mapping[str, Mapping[str, Stats]] = field(default_factory=dict)
    days: Mapping[int, Mapping[str, Stats]] = field(default_factory=dict)
    values: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    clusters: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    pending: Mapping[str, int] = field(default_factory=dict)
    crossed: int = 0
    tails: Mapping[str, Tails] = field(default_factory=dict)
    calendar: bool = False
    assigned: int | None = None


def _with_primary(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    if any(metric.role is Role.PRIMARY for metric in metrics):
        return tuple(metrics)
    first = next((at for at, metric in enumerate(metrics) if metric.role is not Role.GUARDRAIL), -1)
    return tuple(replace(m, role=Role.PRIMARY) if at == first else m for at, m in enumerate(metrics))


def _time(name: str, what: str, given: str | datetime | None) -> datetime | None:
    if given is None:
        return None
    try:
        at = datetime.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        raise DefinitionError(
            f"experiment {name!r} has {what}={given!r}; write an ISO time, 2026-03-01T00:00Z"
        ) from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
