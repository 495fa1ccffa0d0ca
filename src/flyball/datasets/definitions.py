"""What the user writes about a training set: which past requests, and which later truth.

The surprise: `derive` and `where` of `Examples` change the examples only. The views that read the same source keep
reading it as the source itself says, so an example's unit mistake never reaches the features of another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from flyball.errors import DefinitionError
from flyball.features.spec import SourceSpec
from flyball.units import duration

__all__ = ["Examples", "Label", "Source"]


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


@dataclass(frozen=True, slots=True, init=False)
class Examples:
    """Past requests, one per accepted row of a source.

    Attributes:
        source: Where the rows come from, rows pushed to it included.
        at: Column that is T, the request's time.
        unit: Column that names the randomised unit; None makes each request its own unit.
        where: Expression; rows for which it is not true are left out.
        derive: (column, expression) pairs applied in order before `where`; an existing column is replaced.
    """

    source: Source
    at: str
    unit: str | None
    where: str | None
    derive: tuple[tuple[str, str], ...]

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
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "unit", unit)
        object.__setattr__(self, "where", where)
        object.__setattr__(self, "derive", tuple((derive or {}).items()))


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
