"""What the user writes about a training set: which past requests, and which later truth.

The surprise: `derive` and `where` of `Examples` change the examples only. The views that read the same source keep
reading it as the source itself says, so an example's unit mistake never reaches the features of another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol, Self

from flyball.errors import DefinitionError
from flyball.features.definitions.names import check_zone
from flyball.features.spec import SourceSpec
from flyball.units import duration

__all__ = ["Examples", "FromLog", "Label", "Source"]

_ENOUGH = 1000  # a gate wants 200 rows held out, which is a fifth of this
_LEAST = 25  # rows below which no training set is made of anything


class Source(Protocol):
    """Be anything that compiles to a `SourceSpec`, such as a ParquetSource."""

    @property
    def name(self) -> str:
        """The source's name."""
        ...

    @property
    def spec(self) -> SourceSpec:
        """The source as plain data."""
        ...


@dataclass(frozen=True, slots=True)
class FromLog:
    """Which rows of the prediction log are examples.

    Attributes:
        where: Expression over the row's inputs, features and what the log knows of it; the others are left out.
        derive: (column, expression) pairs applied in order before `where`.
        arms: "champion" takes only what the champion answered as such.
        enough: From how many usable rows on the log is taken instead of the source, if there is one.
        timezone: The default of request-time features where there is no source.
    """

    where: str | None = None
    derive: tuple[tuple[str, str], ...] = ()
    arms: Literal["all", "champion"] = "all"
    enough: int = _ENOUGH
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True, init=False)
class Examples:
    """Past requests: one per accepted row of a source, or one per answered row of the prediction log (`from_log`).

    Attributes:
        source: Where the rows come from, rows pushed to it included; None when only the log is asked.
        at: Column that is T, the request's time.
        unit: Column that names the randomised unit; None makes each request its own unit. Of the log, whose rows know
            their unit, only its name.
        where: Expression; rows for which it is not true are left out.
        derive: (column, expression) pairs applied in order before `where`; an existing column is replaced.
        log: What is taken of the prediction log; None when the source is all there is.
    """

    source: Source | None
    at: str
    unit: str | None
    where: str | None
    derive: tuple[tuple[str, str], ...]
    log: FromLog | None

    def __init__(
        self,
        source: Source,
        *,
        at: str,
        unit: str | None = None,
        where: str | None = None,
        derive: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the examples.

        Raises:
            DefinitionError: `source` is neither a source nor its spec, or `at` is empty.
        """
        if not isinstance(getattr(source, "spec", None), SourceSpec):
            raise DefinitionError(f"Examples need a source, got {type(source).__name__}; pass a ParquetSource")
        if not at:
            raise DefinitionError("Examples need at=, the column that holds the time of the request")
        self._set(source, at, unit, where, tuple((derive or {}).items()), None)

    @classmethod
    def from_log(
        cls,
        *,
        unit: str | None = None,
        where: str | None = None,
        derive: Mapping[str, str] | None = None,
        arms: Literal["all", "champion"] = "all",
        until_enough: Examples | None = None,
        enough: int = _ENOUGH,
        at: str | None = None,
        timezone: str | None = None,
    ) -> Self:
        """Learn from what was served: the model's answered requests in the prediction log, with their outcomes.

        The features are the very values that were served, so nothing is looked up again. The label is the newest
        revision of the outcome; it is known when it was received, and not before its event time plus `matures`.
        A row that another version served without one of the model's features, or with another definition of it, is left
        out and counted, and so are rows answered while the online store was away.

        Args:
            unit: Name of the key whose values callers send as `unit`, so that erasing such a subject finds its
                examples. The unit itself is the request's.
            where: Expression over the inputs and features of the row, and `outcome`, `at`, `event`, `unit`, `arm`,
                `version`, `prediction`; rows for which it is not true are left out.
            derive: Columns made of the same, such as {"minutes": "outcome / 60"}; the label's column is the outcome
                unless it is derived.
            arms: "all", or "champion" for only what the champion answered as such.
            until_enough: Examples of a source, taken as long as the log does not hold `enough` usable rows in the
                stretch that a run looks back on. Without them a first version has to be imported.
            enough: From how many usable rows on the log is taken, at least 25.
            at: What T is called in request-time features; that of `until_enough`, else "at".
            timezone: Default of request-time features; that of the source of `until_enough`, else "UTC".

        Raises:
            DefinitionError: an argument makes no sense, or contradicts `until_enough`.
        """
        if arms not in {"all", "champion"}:
            raise DefinitionError(f"from_log(arms={arms!r}): take 'all' or 'champion'")
        if enough < _LEAST:
            raise DefinitionError(f"from_log(enough={enough}): no training set has less than {_LEAST} rows; give more")
        start = until_enough
        if start is not None and start.source is None:
            raise DefinitionError("from_log(until_enough=...) needs examples of a source: fb.Examples(source, at=...)")
        if start is not None and (at or timezone or start.unit != (unit or start.unit)):
            raise DefinitionError("from_log: at, timezone and unit follow from until_enough; leave them out")
        made = cls.__new__(cls)
        check_zone(timezone or "UTC")
        kept = FromLog(where, tuple((derive or {}).items()), arms, enough, timezone or "UTC")
        if start is None:
            made._set(None, at or "at", unit, None, (), kept)
        else:
            made._set(start.source, start.at, start.unit, start.where, start.derive, kept)
        return made

    @property
    def timezone(self) -> str:
        """Where days begin: the zone of the source, if there is one."""
        if self.source is not None:
            return self.source.spec.timezone
        return self.log.timezone if self.log is not None else "UTC"

    @property
    def source_spec(self) -> SourceSpec:
        """The source's spec.

        Raises:
            DefinitionError: the examples come from the prediction log alone.
        """
        if self.source is None:
            raise DefinitionError("these examples come from the prediction log alone; no source is behind them")
        return self.source.spec

    def _set(
        self,
        source: Source | None,
        at: str,
        unit: str | None,
        where: str | None,
        derive: tuple[tuple[str, str], ...],
        log: FromLog | None,
    ) -> None:
        for name, value in zip(self.__slots__, (source, at, unit, where, derive, log), strict=True):
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, init=False)
class Label:
    """The later truth of an example.

    Attributes:
        column: Source or derived column that holds it.
        matures: How long after the source's event time it counts as known.
    """

    column: str
    matures: timedelta

    def __init__(self, column: str, *, matures: str | timedelta = "0s") -> None:
        """Describe the label.

        Raises:
            DefinitionError: no column is named, or `matures` is no duration (UnitError).
        """
        if not column:
            raise DefinitionError("Label needs the name of a column, such as Label('minutes', matures='2h')")
        object.__setattr__(self, "column", column)
        object.__setattr__(self, "matures", duration(matures))
