"""A whole design tried where nothing differs: real units, arms drawn by lot, every look judged as it would be.

The surprise: it is the design that is tried, not a test. Its metrics, limits, covariates, plan, correction and sample
ratio all have their say, and what is counted is how often somebody would have been told of an effect that is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flyball.errors import InputError, UnknownName
from flyball.experiments.design.analysis import analyze
from flyball.experiments.design.metric import Role
from flyball.experiments.design.result import Finding, Outcome, Result
from flyball.experiments.design.rulers import Look
from flyball.experiments.design.tables import arms_of_table, to_arrow
from flyball.experiments.design.types import Experiment
from flyball.experiments.estimate import Interval
from flyball.experiments.fixed.shares import Count, wilson
from flyball.experiments.trust.check import Check, Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AADesign", "aa_design"]

_FOUND = (Finding.BETTER, Finding.WORSE)


@dataclass(frozen=True, slots=True)
class AADesign:
    """What a design said of many draws without an effect.

    Args:
        runs: How often arms were drawn.
        looks: Looks of each run.
        alpha: The error that the plan allows itself.
        wrong: Runs in which a primary metric was ever called better or worse.
        shipped: Runs in which an arm was ever to be shipped.
        untrusted: Runs in which the instrument was ever called broken.
        found: Runs with a finding of harm or gain, by "metric/arm", of all roles.
        share: Share of wrong runs, with its Wilson interval of 95 %.
    """

    runs: int
    looks: int
    alpha: float
    wrong: int
    shipped: int
    untrusted: int
    found: Mapping[str, int]
    share: Interval

    @property
    def check(self) -> Check:
        """Fails where the design is wrong more often than its plan allows; warns where the instrument cries wolf."""
        rate, n = self.share.value, self.runs
        numbers = {"rate": rate, "lower": self.share.lower, "upper": self.share.upper, "shipped": self.shipped / n,
                   "untrusted": self.untrusted / n, "runs": n}  # fmt: skip
        interval = f"{rate:.1%} [{self.share.lower:.1%}, {self.share.upper:.1%}]"
        text = f"{self.wrong} of {n:,} draws without an effect were called one ({interval})"
        if self.share.lower > self.alpha:
            return Check("A/A of the design", Verdict.FAILED, f"{text}, where {self.alpha:.1%} is allowed", numbers)
        if self.untrusted > max(3.0, 0.01 * self.runs):
            text = f"{self.untrusted} of {self.runs:,} fair draws were not to be trusted; look at the checks"
            return Check("A/A of the design", Verdict.WARNING, text, numbers)
        return Check("A/A of the design", Verdict.PASSING, f"{text}; the plan allows {self.alpha:.1%}", numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"runs": self.runs, "looks": self.looks, "alpha": self.alpha, "wrong": self.wrong,
                "shipped": self.shipped, "untrusted": self.untrusted, "found": dict(self.found),
                "lower": self.share.lower, "upper": self.share.upper, "check": self.check.to_dict()}  # fmt: skip

    def __str__(self) -> str:
        return str(self.check)


def aa_design(
    table: object,
    experiment: Experiment,
    *,
    rng: np.random.Generator,
    runs: int = 500,
    looks: int = 1,
    unit: str | None = None,
    rows: Literal["units", "events"] = "units",
) -> AADesign:
    """Draw arms by lot for the units of a table again and again, and judge each draw by the design.

    The plan's size becomes that of the table; a fixed plan has its verdict at the last look only.

    Args:
        table: Units before any treatment: Arrow, pandas, polars, or columns by name; an `arm` column is not read.
        experiment: The design to be tried.
        rng: Where the draws come from; each run has a stream of its own.
        runs: How often, >= 20.
        looks: Looks of each run, evenly over the units in an order drawn by lot.
        unit: Column of the unit; the experiment's by default, where the table has such a column.
        rows: "events" where a unit has several rows: they go to one arm together.

    Raises:
        InputError: too few runs, looks or units, or data that the design cannot be judged by.

    Example:
        >>> from flyball.experiments import Metric, plan
        >>> spend = np.random.default_rng(1).gamma(2.0, 10.0, 400)
        >>> design = Experiment("e", arms={"a": 0.5, "b": 0.5}, metrics=[Metric("spend")], plan=plan.sequential())
        >>> aa_design({"spend": spend}, design, rng=np.random.default_rng(2), runs=40).check.passed
        True
    """
    whole, owner = _owners(to_arrow(table), experiment, unit, rows)
    units = int(owner.max()) + 1 if len(owner) else 0
    if runs < 20 or looks < 1 or units < 10 * len(experiment.arms):
        raise InputError(f"{runs} runs of {looks} looks at {units} units; at least 20 runs, 1 look and 10 units an arm")
    design = replace(experiment, planned_units=units)
    results = [_one(whole, owner, units, design, stream, looks, unit, rows) for stream in rng.spawn(runs)]
    wrong = sum(any(_wrong(r, Role.PRIMARY) for r in each) for each in results)
    keys = [f"{m.name}/{arm}" for m in design.metrics for arm in design.treatments]
    found = {key: sum(any(key in _called(r) for r in each) for each in results) for key in keys}
    return AADesign(
        runs, looks, design.plan.alpha, wrong,
        sum(any(r.outcome is Outcome.SHIP for r in each) for each in results),
        sum(any(not r.trust.trusted for r in each) for each in results),
        found, wilson(Count(wrong, runs)),
    )  # fmt: skip


def _one(
    table: pa.Table,
    owner: NDArray[np.int64],
    units: int,
    design: Experiment,
    rng: np.random.Generator,
    looks: int,
    unit: str | None,
    rows: Literal["units", "events"],
) -> list[Result]:
    """Draw arms once and judge the looks; what a plan does not allow to be judged is not."""
    names = np.array([arm for arm, _ in design.arms])
    arms = rng.choice(len(names), size=units, p=[design.weights[arm] for arm in names])
    place = rng.permutation(units)
    drawn = table.append_column("arm", pa.array(names[arms[owner]]))
    results: list[Result] = []
    earlier: list[Look] = []
    for look in range(1, looks + 1):
        part = drawn.filter(pa.array(place[owner] < units * look // looks)) if look < looks else drawn
        result = analyze(design, arms_of_table(part, design, unit=unit, rows=rows), earlier=earlier)
        earlier.append(result.look)
        if result.final:
            results.append(result)
    return results


def _called(result: Result) -> Sequence[str]:
    return [f"{c.metric}/{c.arm}" for c in result.comparisons if c.finding in _FOUND]


def _wrong(result: Result, role: Role) -> bool:
    return any(c.finding in _FOUND for c in result.comparisons if c.role is role)


def _owners(table: pa.Table, experiment: Experiment, unit: str | None, rows: str) -> tuple[pa.Table, NDArray[np.int64]]:
    """Return the table without arms, and the number of each row's unit."""
    table = table.drop_columns(["arm"]) if "arm" in table.column_names else table
    if rows == "units":
        return table, np.arange(table.num_rows)
    name = unit or experiment.unit
    if name not in table.column_names:
        raise UnknownName.of("column", name, table.column_names)
    table = table.filter(pc.is_valid(table[name]))
    return table, np.unique(table[name].to_numpy(), return_inverse=True)[1].astype(np.int64)
