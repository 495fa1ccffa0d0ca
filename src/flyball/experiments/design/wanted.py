"""What an analysis wants of a table: which columns, held between which limits, summed how over a unit's rows.

The surprise: every metric is counted by itself. A unit without a value for one metric, or whose window is still open
for it, still counts for the others; so no metric's error hides in another's missing rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Literal, Self, TypedDict

from flyball.errors import InputError, UnknownName
from flyball.experiments.design.metric import Kind, Metric, Missing, Role
from flyball.experiments.design.types import ArmData, Experiment
from flyball.experiments.stats import Stats
from flyball.experiments.tails import Tails

__all__ = ["Keys", "Layout", "Tally", "Wanted", "assemble", "day_index", "label", "wanted"]

Keys = tuple[str, str, int | None]  # arm, stratum ("" where none is asked for), day


class Layout(TypedDict, total=False):
    """How a table tells arms, units and days; each option is told at `arms_of_table`, with its default."""

    arm: str
    unit: str | None
    rows: Literal["units", "events"]
    day: str | None
    closed: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """One metric's columns.

    Args:
        metric: Whose.
        columns: Columns of the table, in the order of the statistics; the first is the metric's own.
        closed: A boolean column that says whether a unit's window has closed; "" where all have.
    """

    metric: Metric
    columns: tuple[str, ...]
    closed: str = ""

    @property
    def totals(self) -> str:
        """How a unit's rows become its value: whether it ever happened, or the total."""
        return "ever" if self.metric.kind is Kind.PROPORTION else "total"

    @property
    def tailed(self) -> bool:
        """Whether single units may carry the verdict, so that the extreme values are kept too."""
        return self.metric.role is Role.PRIMARY and self.metric.kind in (Kind.MEAN, Kind.COUNT)


@dataclass(frozen=True, slots=True)
class Tally:
    """What one scan found of one metric in one group: its statistics, and the units that are not in them."""

    stats: Stats
    missing: int = 0
    pending: int = 0
    tails: Tails = Tails()

    def merge(self, other: Tally) -> Self:
        """Return what both groups hold together."""
        return replace(self, stats=self.stats.merge(other.stats), missing=self.missing + other.missing,
                       pending=self.pending + other.pending, tails=self.tails.merge(other.tails))  # fmt: skip


def wanted(
    experiment: Experiment, columns: Collection[str], *, needed: Iterable[str], closed: Mapping[str, str]
) -> list[Wanted]:
    """Return what each metric wants.

    Args:
        experiment: Whose metrics.
        columns: The table's columns.
        needed: Other columns that the table must have, such as the arm's.
        closed: Column that says whether a unit's window has closed, by metric.

    Raises:
        UnknownName: a column or metric does not exist.
    """
    found = []
    for metric in experiment.metrics:
        found.append(Wanted(metric, metric.columns, closed.get(metric.name, "")))
    for name in closed:
        experiment.metric(name)
    for column in [*needed, *experiment.strata, *closed.values(), *(c for w in found for c in w.columns)]:
        if column not in columns:
            raise UnknownName.of("column", column, columns)
    return found


def assemble(
    experiment: Experiment,
    units: Mapping[Keys, int],
    tallies: Mapping[str, Mapping[Keys, Tally]],
    *,
    calendar: bool = False,
) -> dict[str, ArmData]:
    """Merge what a scan found into each arm's data.

    Args:
        experiment: Whose arms.
        units: Units by arm, stratum and day.
        tallies: The same of each metric.
        calendar: Whether days are of the calendar, counted from 1970.

    Raises:
        UnknownName: the table has an arm that the experiment does not.
        InputError: units lack a value, and the metric's policy is to refuse.
    """
    _known(experiment, [arm for arm, _, _ in units])
    arms = {}
    for arm, _ in experiment.arms:
        mine = {metric: {k: t for k, t in found.items() if k[0] == arm} for metric, found in tallies.items()}
        for metric, found in mine.items():
            _refuse_missing(experiment.metric(metric), arm, sum(t.missing for t in found.values()))
        arms[arm] = ArmData(
            units=sum(n for (name, _, _), n in units.items() if name == arm),
            metrics={metric: _merged(experiment.metric(metric), found.values()) for metric, found in mine.items()},
            strata={str(name): found for name, found in _split(experiment, mine, 1).items()}
            if experiment.strata
            else {},
            days={int(day): found for day, found in _split(experiment, mine, 2).items() if day is not None},
            pending={metric: sum(t.pending for t in found.values()) for metric, found in mine.items()},
            tails={metric: ends for metric, found in mine.items() if (ends := _ends(found.values())).lowest},
            calendar=calendar,
        )
    return arms


def label(value: object) -> str:
    """Return an arm's or stratum's name of a cell: text as it is, truth as "true" and "false"."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def day_index(value: object) -> int | None:
    """Return a day as a count: a whole number as it is, a date as days since 1970."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, datetime):
        value = value.date()
    if isinstance(value, date):
        return value.toordinal() - date(1970, 1, 1).toordinal()
    raise InputError(f"{value!r} is no day; give a whole number (days since exposure) or a date")


def _known(experiment: Experiment, arms: Iterable[str]) -> None:
    for arm in arms:
        if arm not in experiment.shares:
            raise UnknownName.of(f"arm of experiment {experiment.name!r}", arm, experiment.shares)


def _refuse_missing(metric: Metric, arm: str, missing: int) -> None:
    if missing and metric.missing is Missing.REFUSE:
        raise InputError(
            f"metric {metric.name!r} has no finite value for {missing:,} units of arm {arm!r} "
            f'(columns {", ".join(metric.columns)}); give every unit one, or say missing="drop" or missing="zero"'
        )


def _merged(metric: Metric, tallies: Iterable[Tally]) -> Stats:
    total = Stats(
        0, metric.columns, (0.0,) * len(metric.columns), ((0.0,) * len(metric.columns),) * len(metric.columns)
    )
    for tally in tallies:
        total = total.merge(tally.stats)
    return total


def _ends(tallies: Iterable[Tally]) -> Tails:
    total = Tails()
    for tally in tallies:
        total = total.merge(tally.tails)
    return total


def _split(
    experiment: Experiment, found: Mapping[str, Mapping[Keys, Tally]], by: int
) -> dict[str | int | None, dict[str, Stats]]:
    names = sorted({key[by] for tallies in found.values() for key in tallies}, key=lambda k: (k is None, k))
    return {
        name: {
            metric: _merged(experiment.metric(metric), [t for k, t in tallies.items() if k[by] == name])
            for metric, tallies in found.items()
        }
        for name in names
    }
